"""The hooks of one attached layer: they count, probe, and add the similarity loss.

After each forward pass of the layer a hook reads which experts were chosen, counts their load,
compares pairs that are due, and returns the layer's output with the similarity loss attached
(`with_loss`). Everything that runs an expert happens inside the layer's own forward pass, because
under FSDP2 the experts' weights exist nowhere else.

Only training passes count; passes in evaluation mode or without gradients are ignored. With
gradient checkpointing, a forward pass inside the backward pass is a recomputation and is not
counted again (`in_backward` and `AttachedSimilarity` in similarity.py). Padding is never counted.

Shapes: T tokens, D width, N experts, K experts per token, R rows, n probed tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simsmoe_cli.any_moe.budget import cost_of_layer
from simsmoe_cli.any_moe.expert_calls import LayerRecorder, in_evaluation
from simsmoe_cli.any_moe.find_layers import ExpertLayer
from simsmoe_cli.any_moe.similarity import AttachedSimilarity, in_backward, seed_of, with_loss
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.cka import pairwise_debiased_cka
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.similarity.learning import SimilarityResult
from simsmoe_cli.similarity.pairs import selection_mask
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.similarity.shared import cka_of_routed, received, routed_rows, shared_counts

PROBE_TOKENS = 256
SHARED_TOKENS = 2048  # of the batch; only the experts they were sent to run on them


@dataclass
class Progress:
    """The progress of the training; one object for all layers of a model.

    Attributes:
        step: optimizer steps done.
        total_steps: of the whole training, for schedules.
        real_T: which tokens of the batch are not padding, bool; None: all.
        mask_given: whether the user's loop said so (`Handle.batch`), and not the model's call.
        other_weights: of the model that multiply every token, per layer of experts.
        coefficient: gives the present coefficient of the similarity loss.
        probing: whether the next pass is probed.
    """

    step: int = 0
    total_steps: int = 1
    real_T: Tensor | None = None
    mask_given: bool = False
    other_weights: int = 0
    coefficient: Callable[[], float] = field(default=lambda: 1.0)
    probing: bool = False


@dataclass
class Probe:
    """The similarity of all experts of a layer, on the same tokens of one batch.

    Attributes:
        cka_NN: debiased linear CKA; nan where undefined.
        shared_NN: how many tokens of the batch both experts were sent.
        tokens: n.
        batch_tokens: T.
        cka_shared_NN: debiased linear CKA on up to SHARED_TOKENS tokens of the batch that both
            were sent; nan where they are too few.
    """

    cka_NN: Tensor
    shared_NN: Tensor
    tokens: int
    batch_tokens: int
    cka_shared_NN: Tensor


class AttachedLayer:
    """One layer of a model that is attached.

    Attributes:
        layer: what was found in the model.
        slots_N: tokens sent to each expert since `start_window`, fp32.
        unjudged: the same in earlier windows since dead experts were last judged, on the host.
        window: sums since then, on the device: "tokens", "entropy" in nats (summed over tokens),
            "pairs_due" and "similarity" (summed over pairs).
        probe: the newest, until it is taken.
    """

    def __init__(
        self,
        layer: ExpertLayer,
        top_k: int | None,
        settings: SimilaritySettings | None,
        progress: Progress,
        where: str,
        seed: int,
    ):
        """Args:
        layer: to be watched.
        top_k: K, where the layer's router gives scores alone.
        settings: of similarity learning; None: only measure.
        progress: shared with the other layers.
        where: the model's name, for errors.
        seed: of the tokens drawn, another one in each layer and process.
        """
        self.layer = layer
        self.progress = progress
        self.settings = settings
        self.slots_N = torch.zeros(layer.number)
        self.unjudged = [0] * layer.number
        self.window: dict[str, Tensor] = {}
        self.probe: Probe | None = None
        self.similarity: AttachedSimilarity | None = None
        self._saved: dict[str, Tensor] = {}  # until the first batch
        self._recorder = LayerRecorder(layer, top_k)
        self._where = where
        self._seed = seed
        self._inside = False
        self._first_passes = 0  # outside the backward pass, since the optimizer's last step
        self._hooks: list[RemovableHandle] = []

    def attach(self) -> None:
        """Put the hooks in."""
        self._hooks = [
            self.layer.module.register_forward_pre_hook(self._before),
            *self._recorder.hooks(),
            self.layer.module.register_forward_hook(self._after),
        ]

    def detach(self) -> None:
        """Take the hooks out."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def start_window(self, unjudged: list[int]) -> None:
        """Start new sums for the next window of steps.

        Args:
            unjudged: slots of all windows since dead experts were last judged.
        """
        self.slots_N = torch.zeros_like(self.slots_N)
        self.unjudged = unjudged
        self.window = {}

    def end_step(self) -> None:
        """The optimizer made a step: no earlier batch will be recomputed."""
        self._first_passes = 0
        if self.similarity is not None:
            self.similarity.forget()

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed training needs; empty before the first batch."""
        return self.similarity.state_dict() if self.similarity is not None else self._saved

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from `state_dict` when the first batch comes."""
        self._saved = state

    @property
    def _counts(self) -> bool:
        return self.layer.module.training and torch.is_grad_enabled() and not self._inside

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._inside:
            self._recorder.begin()

    @torch._dynamo.disable  # type: ignore[untyped-decorator]
    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._counts:
            if not self._inside:
                self._recorder.begin()  # what was seen would be kept until the next pass
            return None
        self._inside = True
        try:
            return self._observe(output)
        finally:
            self._inside = False
            self._recorder.begin()  # what was seen holds the graph of this pass

    def _observe(self, output: Any) -> Any:
        """Count, probe, and attach the loss to the layer's output."""
        with torch.no_grad():
            routed = self._recorder.result(None, self._where)
        real_T = self.progress.real_T
        tokens = len(routed.input_TD)
        if real_T is not None and len(real_T) != tokens:
            if self.progress.mask_given:
                raise UserError(
                    f"the mask of handle.batch has {len(real_T):,} tokens, and layer "
                    f"{self.layer.name} reads {tokens:,}",
                    where=self._where,
                    hint="Call handle.batch before each batch, with the mask of that batch.",
                )
            real_T = None  # of a batch of another kind, as with cached keys and values
        if real_T is not None:
            real_T = real_T.to(routed.input_TD.device, non_blocking=True)
        recomputed = in_backward()
        if not recomputed:
            self._first_passes += 1
        if not recomputed or not self._first_passes:
            self._count(routed, real_T)
            if self.progress.probing and self.probe is None:
                self.probe = self._measured(routed, real_T)
        if self.settings is None or not any(
            part.requires_grad for part in self.layer.experts.parameters()
        ):
            return None
        result = self._learn(routed, real_T, self.settings, recomputed=recomputed)
        if result is None or not result.loss.requires_grad:
            return None
        try:
            return _with_loss_on_first(output, result.loss, self.progress.coefficient)
        except TypeError as error:
            raise DataError(
                f"the similarity loss cannot be added to layer {self.layer.name}: {error}",
                where=self._where,
                hint="Return a tensor, a tuple, a list, a dict or a dataclass, or attach with "
                'similarity="none" to measure only.',
            ) from None

    @torch.no_grad()
    def _count(self, routed: Routed, real_T: Tensor | None) -> None:
        number = self.layer.number
        index_TK = routed.index_TK
        if real_T is not None:  # padding is sent to no expert
            index_TK = index_TK.masked_fill(~real_T[:, None], number)
        index_R = index_TK.flatten()
        slots_N = torch.zeros(number + 1, device=index_R.device)
        slots_N = slots_N.scatter_add(0, index_R, torch.ones_like(index_R, dtype=torch.float32))
        self.slots_N = self.slots_N.to(index_R.device) + slots_N[:number]
        tokens = torch.full((), float(len(routed.input_TD)), device=index_R.device)
        found = {"tokens": tokens if real_T is None else real_T.sum().float()}
        if routed.logits_TN is not None:
            entropy_T = torch.special.entr(routed.logits_TN.float().softmax(-1)).sum(-1)
            if real_T is not None:
                entropy_T = torch.where(real_T, entropy_T, 0.0)
            found["entropy"] = entropy_T.sum()
        self._add(found)

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.window[name] = self.window[name] + value if name in self.window else value

    @torch.no_grad()
    def _measured(self, routed: Routed, real_T: Tensor | None) -> Probe:
        """Run every expert on the same tokens, drawn from the batch, and compare their outputs.

        A probe waits on the device, as its result is written when the step ends.
        """
        if real_T is not None:
            routed = routed.of(real_T)
        x_TD = routed.input_TD.detach()
        generator = torch.Generator(x_TD.device)
        generator.manual_seed(seed_of(self._seed, self.progress.step))
        chance_T = torch.rand(len(x_TD), device=x_TD.device, generator=generator)
        x_nD = x_TD[chance_T.topk(min(PROBE_TOKENS, len(x_TD))).indices]
        some_T = chance_T.topk(min(SHARED_TOKENS, len(x_TD))).indices.sort().values
        received_TN = received(routed.index_TK[some_T], self.layer.number)
        with in_evaluation(self.layer.experts):
            cka_NN = pairwise_debiased_cka(self.layer.dense(x_nD).float())
            rows_RD = self.layer.run(*routed_rows(x_TD[some_T], received_TN))
        chosen_TN = selection_mask(routed.index_TK, self._logits(routed), routed.index_TK.shape[1])
        shared_NN = shared_counts(chosen_TN).fill_diagonal_(0)
        cka_shared_NN = cka_of_routed(rows_RD, received_TN)
        return Probe(cka_NN, shared_NN, len(x_nD), len(x_TD), cka_shared_NN)

    def _logits(self, routed: Routed) -> Tensor:
        if routed.logits_TN is not None:
            return routed.logits_TN
        return routed.input_TD.new_zeros(len(routed.input_TD), self.layer.number)

    def _learn(
        self,
        routed: Routed,
        real_T: Tensor | None,
        settings: SimilaritySettings,
        *,
        recomputed: bool,
    ) -> SimilarityResult | None:
        if self.similarity is None:
            self.similarity = self._start(routed, settings)
        with in_evaluation(self.layer.experts):
            result = self.similarity(
                routed.input_TD,
                routed.index_TK,
                self._logits(routed),
                self.layer.run,
                self.progress.step,
                self.progress.total_steps,
                real_T,
                recomputed=recomputed,
            )
        if result is not None and (not recomputed or not self._first_passes):
            pairs = result.pairs_due.detach()
            summed = torch.where(pairs > 0, result.mean.detach() * pairs, 0.0)
            self._add({"pairs_due": pairs, "similarity": summed})
        return result

    def _start(self, routed: Routed, settings: SimilaritySettings) -> AttachedSimilarity:
        top_k = routed.index_TK.shape[1]
        if top_k == 1 and routed.logits_TN is None:
            raise DataError(
                f"the router of layer {self.layer.name} sends a token to one expert and its scores "
                "are not understood, so no two experts share tokens",
                where=self._where,
                hint='Attach with similarity="none" to measure only.',
            )
        similarity = AttachedSimilarity(
            settings,
            routed.input_TD.shape[1],
            self.layer.number,
            top_k,
            routed.input_TD.device,
            self._seed,
            self._cost(routed, settings),
        )
        if self._saved:
            similarity.load_state_dict(self._saved)
            self._saved = {}
        return similarity

    def _cost(self, routed: Routed, settings: SimilaritySettings) -> Cost:
        """What similarity learning costs in this layer. Tokens are those of the first batch, the
        mean over processes, so that all compare experts in the same steps."""
        x_TD = routed.input_TD
        tokens = len(x_TD)
        if settings.budget is not None and dist.is_available() and dist.is_initialized():
            of_all = torch.tensor([tokens], device=x_TD.device)
            dist.all_reduce(of_all)
            tokens = max(1, int(of_all) // dist.get_world_size())
        width, top_k = x_TD.shape[1], routed.index_TK.shape[1]
        other = self.progress.other_weights
        return cost_of_layer(settings, self.layer, width, top_k, other, tokens)


def _with_loss_on_first(output: Any, loss: Tensor, coefficient: Callable[[], float]) -> Any:
    """A layer's output with the loss attached to its first tensor that has a gradient.

    Raises:
        TypeError: it is neither a tensor nor something that holds tensors.
    """

    def first(parts: Iterable[tuple[Any, Any]]) -> dict[Any, Tensor]:
        """The place of the first tensor with a gradient, and the tensor with the loss."""
        for place, part in parts:
            if isinstance(part, Tensor) and part.requires_grad:
                return {place: with_loss(part, loss, coefficient)}
        return {}

    if isinstance(output, Tensor):
        return with_loss(output, loss, coefficient) if output.requires_grad else output
    if isinstance(output, MutableMapping):  # ModelOutput of transformers is one, and a dataclass
        changed = copy.copy(output)
        changed.update(first(output.items()))
        return changed
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        names = [part.name for part in dataclasses.fields(output)]
        return dataclasses.replace(output, **first((n, getattr(output, n)) for n in names))
    if not isinstance(output, tuple | list):
        raise TypeError(f"a layer that returns a {type(output).__name__}")
    found = first(enumerate(output))
    parts = [found.get(place, part) for place, part in enumerate(output)]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
