"""A model of transformers with experts, as training, evaluation and reports see a model.

The experts are found, and their routing is recorded, as for `attach` (`any_moe/`). In training the
losses are returned by name, as models of ours return them:

- similarity: of each layer's experts, summed over layers, with the tracker, measures and heads of
  `similarity/`.
- balance: K times the balance loss of a layer (1 at uniform load), mean over layers. This is the
  scale of transformers' own, so that `router_aux_loss_coef` keeps its meaning; transformers counts
  expert i of all layers as one expert, and here each layer is balanced by itself.
- z: mean over layers, only if it has a weight.

Where a router's distribution over experts is not known, its layer has no balance and no z-loss.

Shapes: B batch, M block, T real tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.budget import cost_of_layer, other_weights
from simsmoe_cli.any_moe.expert_calls import LayerRecorder, recording
from simsmoe_cli.any_moe.find_layers import find_expert_layers, no_experts
from simsmoe_cli.any_moe.settings import experts_per_token
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.huggingface.foreign_code import foreign_code, transformers_module
from simsmoe_cli.huggingface.model_config import chosen
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.moe.balance import balance_loss, routed_slots, z_loss
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.similarity.learning import SimilarityLearning, SimilarityResult
from simsmoe_cli.similarity.routed import Routed


@dataclass
class WrappedOutcome:
    """What a forward pass gives besides the result of its task; see `model.interface.Outcome`."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    similarities: list[SimilarityResult] = field(default_factory=list)
    metrics: list[dict[str, Tensor]] = field(default_factory=list)
    slots: list[Tensor] = field(default_factory=list)
    memory: list[Tensor] = field(default_factory=list)


def build(recipe: Recipe) -> nn.Module:
    """The language model of transformers that a recipe's section `huggingface` describes, with
    fresh weights in fp32.

    Raises:
        UserError: transformers is missing or cannot build it.
    """
    transformers = transformers_module()
    settings = recipe.huggingface
    where = settings.folder
    with foreign_code("transformers cannot build the model of this run", where):
        kind = transformers.CONFIG_MAPPING[settings.config["model_type"]]
        found = chosen(transformers, kind.from_dict(copy.deepcopy(settings.config)), where)
        model: nn.Module = found.kind(found.config)
    return model


class Wrapped(MoEModel):
    """Base of language models and classifiers of transformers.

    Args:
        recipe: its sections huggingface, moe and similarity are read.
        vocab_size: ids that a tokenizer gives.
        body: what runs on token ids; its parameters are trained in place.

    Attributes:
        vocab_size: rows of the model's embedding.

    Raises:
        UserError: it has no experts, or fewer embeddings than the tokenizer has ids.
    """

    compiles = False

    def __init__(self, recipe: Recipe, vocab_size: int, body: nn.Module):
        super().__init__()
        self.recipe = recipe
        self.document_end = None
        self.vocab_size = len(body.get_input_embeddings().weight)  # type: ignore[operator]
        self.body = body
        self._where = recipe.huggingface.folder
        if vocab_size > self.vocab_size:
            raise DataError(
                f"the tokenizer has {vocab_size:,} ids, and the model embeddings of "
                f"{self.vocab_size:,}",
                where=self._where,
                hint="The tokenizer is not this model's: download the folder again.",
            )
        self._layers = find_expert_layers(body)
        if not self._layers:
            raise no_experts(body, self._where)
        top_k = experts_per_token(body)
        self._recorders = [LayerRecorder(layer, top_k) for layer in self._layers]
        settings = recipe.similarity
        self.similarity = nn.ModuleList(
            SimilarityLearning(
                settings, self._width(place), layer.number, top_k or 2, over_ranks=True
            )
            for place, layer in enumerate(self._layers)
            if settings.enabled
        )

    @property
    def recorders(self) -> list[LayerRecorder]:
        """What records the routing of each layer with experts."""
        return self._recorders

    def _width(self, layer: int) -> int:
        """D of a layer."""
        return int(self._layers[layer].hidden_units()[-1].shape[2])

    @property
    def dtype(self) -> str:
        """Of the weights that training started from; empty where config.json does not say."""
        found = self.recipe.huggingface.config.get("dtype")
        return found if isinstance(found, str) else ""

    @property
    def expert_layers(self) -> list[tuple[str, int]]:
        return [(layer.name, layer.number) for layer in self._layers]

    @property
    def router_name(self) -> str:
        return type(self._layers[0].router).__name__

    @property
    def experts_per_token(self) -> int | None:
        return self._recorders[0].top_k

    @contextlib.contextmanager
    def watching(self, real_T: Tensor | None = None) -> Iterator[list[Routed]]:
        seen: list[Routed] = []
        with recording(self._recorders):
            yield seen
        for recorder in self._recorders:
            if recorder.reading is None:
                with torch.no_grad():  # finds out how the router's outputs are read
                    recorder.result(None, self._where)
            seen.append(recorder.result(real_T, self._where))
            recorder.begin()  # what it saw holds the graph of this pass

    def route(self, tokens_BM: Tensor, context: StepContext) -> list[Routed]:
        with (
            foreign_code("this model cannot be run", self._where),
            self.watching(context.real_T) as seen,
        ):
            self.run(tokens_BM, context.real_T)
        return seen

    def similarity_cost(self, tokens: int) -> Cost | None:
        settings, top_k = self.recipe.similarity, self.experts_per_token or 2
        if not settings.enabled:
            return None
        other = other_weights(self.body, self._layers)
        costs = [
            cost_of_layer(settings, layer, self._width(place), top_k, other, tokens)
            for place, layer in enumerate(self._layers)
        ]
        compared = sum(cost.comparison_flops for cost in costs)
        return Cost.within(settings.budget, compared, sum(cost.step_flops for cost in costs))

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        return self._layers[layer].dense(x_TD)

    def router(self, layer: int) -> nn.Module:
        return self._layers[layer].router

    def expert_weights(self, layer: int) -> list[Tensor]:
        return self._layers[layer].hidden_units()

    def run(self, tokens_BM: Tensor, real_T: Tensor | None = None, **options: Any) -> Any:
        """The output of transformers.

        Args:
            tokens_BM: vocabulary ids, int64, padded on the right.
            real_T: the positions of the real tokens; None: all.
            options: of its forward pass.
        """
        if real_T is not None:
            mask_T = torch.zeros(tokens_BM.numel(), dtype=torch.int64, device=tokens_BM.device)
            options["attention_mask"] = mask_T.index_fill(0, real_T, 1).view_as(tokens_BM)
        return self.body(input_ids=tokens_BM, **{"use_cache": False} | options)

    def learn(
        self, tokens_BM: Tensor, context: StepContext, **options: Any
    ) -> tuple[Any, WrappedOutcome]:
        """The output of transformers, and in training the auxiliary losses; arguments as of
        `run`."""
        if not self.training:
            return self.run(tokens_BM, context.real_T, **options), WrappedOutcome()
        with self.watching(context.real_T) as seen:
            output = self.run(tokens_BM, context.real_T, **options)
        return output, self._outcome(seen, context)

    def _outcome(self, seen: list[Routed], context: StepContext) -> WrappedOutcome:
        found = WrappedOutcome()
        found.slots = [
            routed_slots(routed.index_TK, layer.number)
            for routed, layer in zip(seen, self._layers, strict=True)
        ]
        known = [
            (routed.logits_TN, routed.index_TK) for routed in seen if routed.logits_TN is not None
        ]
        if known:
            of_all_ranks = self.recipe.moe.balance_scope == "global"
            balance = [
                index_TK.shape[1]
                * balance_loss(logits_TN.softmax(-1), index_TK, over_ranks=of_all_ranks)
                for logits_TN, index_TK in known
            ]
            found.losses["balance"] = torch.stack(balance).mean()
        if self.recipe.moe.z_weight:
            self._require_logits()
            z = [z_loss(logits_TN) for logits_TN, _ in known]
            found.losses["z"] = torch.stack(z).mean()
        for place, learning in enumerate(self.similarity):
            found.similarities.append(self._compare(place, learning, seen[place], context))
        if found.similarities:
            found.losses["similarity"] = torch.stack([r.loss for r in found.similarities]).sum()
        return found

    def _compare(
        self, place: int, learning: nn.Module, routed: Routed, context: StepContext
    ) -> SimilarityResult:
        """Similarity learning of one layer."""
        assert isinstance(learning, SimilarityLearning)
        x_TD, logits_TN = routed.input_TD, routed.logits_TN
        learning.top_k = routed.index_TK.shape[1]
        if logits_TN is None:
            if learning.top_k == 1:
                raise DataError(
                    f"the router of layer {self._layers[place].name} sends a token to one expert "
                    "and its scores are not understood, so no two experts share tokens",
                    where=self._where,
                    hint="Train with --similarity none.",
                )
            logits_TN = x_TD.new_zeros(len(x_TD), self._layers[place].number)
        when = (context.step, context.total_steps)
        run = self._layers[place].run
        found: SimilarityResult = learning(
            x_TD, routed.index_TK, logits_TN, run, *when, stands_for=context.compare
        )
        return found

    def _require_logits(self) -> None:
        """Refuse the z-loss for routers that give no logits of a softmax."""
        for place, recorder in enumerate(self._recorders):
            if recorder.reading is None or recorder.reading.kind != "softmax":
                raise UserError(
                    f"the router of layer {self._layers[place].name} gives no logits of a softmax, "
                    "which the z-loss is computed from",
                    where="moe.z_weight",
                    hint="Set it to 0.",
                )
