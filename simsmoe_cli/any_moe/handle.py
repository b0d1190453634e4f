"""Attach similarity learning and its measures to any model with experts, in your own training loop.

handle = attach(model, similarity="calibrated")
...                       # the loop stays as it is: forward, loss.backward(), optimizer.step()
handle.step()             # once per optimizer step
handle.metrics()          # numbers for a logger
handle.detach()
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simsmoe_cli.any_moe.budget import other_weights
from simsmoe_cli.any_moe.find_layers import ExpertLayer, find_expert_layers, no_experts
from simsmoe_cli.any_moe.hooks import AttachedLayer, Probe, Progress
from simsmoe_cli.any_moe.numbers import LayerNumbers, metrics_of
from simsmoe_cli.any_moe.run_writer import RunWriter
from simsmoe_cli.any_moe.settings import (
    Similarity,
    experts_per_token,
    require_arguments,
    require_rows_alone,
    similarity_settings,
    unwrapped,
)
from simsmoe_cli.any_moe.similarity import seed_of
from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.recipe.schedule import value_at
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.run.events import RunStarted
from simsmoe_cli.run.layer_labels import layer_labels

Finder = Callable[[nn.Module], Sequence[ExpertLayer]]
_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def attach(
    model: nn.Module,
    similarity: Similarity = "calibrated",
    *,
    run: str | Path | None = None,
    resume: bool = False,
    layers: Finder | None = None,
    total_steps: int | None = None,
    probe_every: int = 200,
    log_every: int | None = 10,
    seed: int = 0,
) -> Handle:
    """Watch the expert layers of a model while it trains, and keep the experts different.

    The model's outputs do not change. In the backward pass the experts also get the gradient of the
    similarity loss.

    Args:
        model: any module with expert layers; wrapped (DDP, PEFT, FSDP2) or not.
        similarity: a preset ("none" only measures), or settings of a recipe's section
            `similarity`, for example {"preset": "calibrated", "weight": 0.01}.
        run: a run folder to write, which `simsmoe monitor` shows live. Of several processes the
            first one writes.
        resume: whether to go on with the run that is in the folder; call `load_state_dict` before
            the first step.
        layers: finds the expert layers where the built-in finder does not see them.
        total_steps: of the whole training; needed where you set a schedule. Without it, the
            weight of `calibrated` has its last value from the first step.
        probe_every: optimizer steps between two measurements of all pairs.
        log_every: optimizer steps that one line of metrics sums up; None: `log` is called for each.
        seed: of the tokens that are drawn. Nothing is drawn from PyTorch's own generators.

    Raises:
        UserError: the model has no expert layers, is attached already, a setting is wrong, or
            the run folder is in use or holds another run. The model is left as it is.
    """
    require_arguments(
        model, layers, probe_every=probe_every, log_every=log_every, total_steps=total_steps
    )
    if any(isinstance(part, nn.DataParallel) for part in model.modules()):
        raise UserError(
            "a model in nn.DataParallel cannot be attached: its copies share their hooks",
            where=type(model).__name__,
            hint="Use DistributedDataParallel (torchrun), or one GPU (CUDA_VISIBLE_DEVICES=0).",
        )
    settings = similarity_settings(similarity, total_steps)
    found = list((layers or find_expert_layers)(model))
    name = type(model).__name__
    if not found and layers is not None:
        raise UserError("the finder found no layer in this model", where="layers")
    if not found:
        raise no_experts(model, name, finder=True)
    if wrong := [layer for layer in found if not isinstance(layer, ExpertLayer)]:
        raise UserError(
            f"the finder returned a {type(wrong[0]).__name__}",
            where="layers",
            hint="It must return a list of simsmoe.ExpertLayer or simsmoe.ListedLayer.",
        )
    if any(layer.module in _attached for layer in found):
        raise UserError(
            "the model is attached already",
            where=name,
            hint="Call detach() of the first handle, or use that handle.",
        )
    require_rows_alone(found, name)
    writer = None if run is None or _rank() else RunWriter(Path(run), resume=resume)
    return Handle(model, found, settings, writer, total_steps, probe_every, log_every, seed)


class Handle:
    """An attached model; made by `attach`.

    Attributes:
        loss_scale: the factor that your loop applies to its own loss before `backward()`; the
            similarity loss is scaled by the same factor. It is 1 / (batches per optimizer step)
            with gradient accumulation, times `scaler.get_scale()` with a GradScaler.
        model_folder: where your loop saves the model, if you say so before the first step; commands
            that need its weights then name it.
        layers: the expert layers, in the model's order.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[ExpertLayer],
        settings: SimilaritySettings | None,
        writer: RunWriter | None,
        total_steps: int | None,
        probe_every: int,
        log_every: int | None,
        seed: int,
    ):
        self.loss_scale = 1.0
        self.model_folder: str | Path | None = None
        self._model = model
        self._settings = settings
        self._writer = writer
        self._total_steps = total_steps
        self._probe_every = probe_every
        self._log_every = log_every
        self._progress = Progress(total_steps=total_steps or 1, coefficient=self._coefficient)
        self._progress.probing = True
        self._progress.other_weights = other_weights(model, found)
        self._given: Tensor | None = None
        self._logged = 0  # the step of the last log
        self._numbers: list[LayerNumbers] = []
        self._probed: list[Probe] = []
        own = unwrapped(model)
        name, top_k = type(model).__name__, experts_per_token(own)
        self._signature: inspect.Signature | None
        try:
            self._signature = inspect.signature(own.forward)
        except (TypeError, ValueError):
            self._signature = None
        self.layers = [
            AttachedLayer(
                layer, top_k, settings, self._progress, name, seed_of(seed, index, _rank())
            )
            for index, layer in enumerate(found)
        ]
        self._hooks: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._before, with_kwargs=True)
        ]
        for attached in self.layers:
            attached.attach()
            _attached.add(attached.layer.module)

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return self._progress.step

    def batch(self, attention_mask: Tensor | None) -> None:
        """Set the padding mask of the next forward passes.

        Without this call the mask is read from the model's own argument `attention_mask`.

        Args:
            attention_mask: [B, M], 0 or False where a token is padding; None: read it from the
                model's calls again.

        Raises:
            UserError: it is not a matrix. The forward pass raises one if it has another number of
                tokens than the batch.
        """
        if attention_mask is not None and getattr(attention_mask, "ndim", 0) != 2:
            raise UserError("the padding mask must be a tensor [B, M]", where="batch")
        self._given = attention_mask

    def step(
        self,
        loss: float | Tensor | None = None,
        lr: float | None = None,
        grad_norm: float | Tensor | None = None,
    ) -> None:
        """Tell simsmoe that the optimizer made a step.

        Args:
            loss: the loss of your loop, in nats per token, for the run folder; it is read once per
                `log_every` steps.
            lr: the learning rate, likewise.
            grad_norm: the norm of the gradient before it is clipped, likewise.
        """
        progress = self._progress
        if self._writer is not None and not self._writer.started:
            self._writer.start(self._started())
        progress.step += 1
        probed = [attached.probe for attached in self.layers if attached.probe is not None]
        for attached in self.layers:
            attached.end_step()
            attached.probe = None
        if len(probed) == len(self.layers):
            self._probed = probed
            if self._writer is not None:
                self._writer.probe(progress.step, probed)
        progress.probing = progress.step % self._probe_every == 0
        if self._log_every is not None and progress.step % self._log_every == 0:
            self.log(loss, lr, grad_norm)

    def log(
        self,
        loss: float | Tensor | None = None,
        lr: float | None = None,
        grad_norm: float | Tensor | None = None,
    ) -> None:
        """Sum up the steps since the last log, for `metrics` and the run folder.

        `step` does this every `log_every` steps; call it yourself where `log_every` is None.

        Args:
            loss, lr, grad_norm: as of `step`.
        """
        step = self._progress.step
        self._numbers = self._read()
        if self._writer is not None and self._writer.started:
            self._writer.train(step, self._numbers, self._known(loss, lr, grad_norm))
        self._logged = step
        for attached, numbers in zip(self.layers, self._numbers, strict=True):
            attached.start_window(numbers.unjudged)

    def metrics(self) -> dict[str, float]:
        """Numbers for a logger, over the steps of the last log; the host waits on the device.

        Keys: per layer `layer_L/load_max` (the busiest expert's load over a fair share),
        `layer_L/dead` (experts with less than a hundredth of a fair share), `layer_L/entropy` (of
        the router's distribution, in nats), and of the last probe `layer_L/cka_mean` and
        `layer_L/cka_max`. Without a layer: `dead`, `cka_mean` and `cka_max` over all layers, and
        `similarity`, the mean similarity of the pairs that were compared for the loss.
        """
        return metrics_of(self._numbers or self._read())

    def detach(self) -> None:
        """Remove all hooks from the model; `metrics` still works."""
        self._numbers = self._numbers or self._read()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for attached in self.layers:
            attached.detach()
            _attached.discard(attached.layer.module)
        if self._writer is not None:
            self._writer.finish(self._progress.step, "detached")
            self._writer = None

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed training needs: the pair trackers' sums, by layer.

        It is the same on all processes.
        """
        return {
            f"layer_{index}.{name}": tensor
            for index, attached in enumerate(self.layers)
            for name, tensor in attached.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor], step: int) -> None:
        """Restore a state from `state_dict`.

        Args:
            state: empty, or of the same model and settings.
            step: optimizer steps done, 0 or more.

        Raises:
            UserError: the state belongs to another model or other settings, or the step is
                negative.
        """
        if step < 0:
            raise UserError(f"expected 0 or more steps, got {step}", where="load_state_dict")
        self._progress.step = self._logged = step
        self._progress.probing = step % self._probe_every == 0
        for index, attached in enumerate(self.layers):
            prefix = f"layer_{index}."
            own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            attached.load_state_dict(own)
        unknown = [name for name in state if name.split(".")[0] not in self._places]
        if unknown:
            raise UserError(
                f"the state has '{printable(unknown[0])}', and the model {len(self.layers)} layers "
                "with experts",
                where="load_state_dict",
                hint="Give it the state of the same model.",
            )

    @property
    def _places(self) -> set[str]:
        return {f"layer_{index}" for index in range(len(self.layers))}

    def _coefficient(self) -> float:
        assert self._settings is not None
        progress = self._progress
        weight = value_at(self._settings.weight, progress.step / progress.total_steps)
        return weight * float(self.loss_scale)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the padding mask of a forward pass."""
        mask = self._given if self._given is not None else self._mask_of(args, kwargs)
        progress = self._progress
        progress.real_T, progress.mask_given = None, self._given is not None
        if isinstance(mask, Tensor) and mask.ndim == 2:
            progress.real_T = mask.flatten() != 0

    def _mask_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument attention_mask of a call, given by name or by its place."""
        if "attention_mask" in kwargs or self._signature is None:
            return kwargs.get("attention_mask")
        try:
            return self._signature.bind_partial(*args, **kwargs).arguments.get("attention_mask")
        except TypeError:  # the call itself will say what is wrong with it
            return None

    def _read(self) -> list[LayerNumbers]:
        probed: Sequence[Probe | None] = self._probed or [None] * len(self.layers)
        return [
            LayerNumbers.of(index, attached, probe)
            for index, (attached, probe) in enumerate(zip(self.layers, probed, strict=True))
        ]

    def _started(self) -> RunStarted:
        parameter = next(self._model.parameters())
        settings = self._settings or SimilaritySettings(preset="none")
        event: RunStarted = {
            "kind": "run_started",
            "step": self._progress.step,
            "model": type(self._model).__name__,
            "recipe": {"similarity": settings.model_dump(mode="json")},
            "parameters": sum(part.numel() for part in self._model.parameters()),
            "unit": "token",
            "device": str(parameter.device),
            "precision": str(parameter.dtype).removeprefix("torch."),
        }
        event["layer_labels"] = layer_labels([attached.layer.name for attached in self.layers])
        if self._total_steps is not None:
            event["total_steps"] = self._total_steps
        if self.model_folder is not None:
            event["model_folder"] = str(Path(self.model_folder).absolute())
        costs = [layer.similarity.cost for layer in self.layers if layer.similarity is not None]
        if costs:
            spent = sum(cost.comparison_flops / cost.every for cost in costs)
            event["compare_every"] = max(cost.every for cost in costs)
            event["similarity_flops"] = round(spent / sum(cost.step_flops for cost in costs), 6)
        return event

    def _known(
        self, loss: float | Tensor | None, lr: float | None, grad_norm: float | Tensor | None
    ) -> dict[str, Any]:
        """The fields of a train event that do not come from the layers."""
        given = {"loss_nats": loss, "lr": lr, "grad_norm": grad_norm}
        known: dict[str, Any] = {
            name: float(value.detach() if isinstance(value, Tensor) else value)
            for name, value in given.items()
            if value is not None
        }
        if self._settings is not None:
            pairs = sum(numbers.pairs_due for numbers in self._numbers)
            summed = sum(numbers.similarity for numbers in self._numbers)
            known["similarity"] = {
                "pairs_due": pairs / max(1, self._progress.step - self._logged),
                "mean": summed / pairs if pairs else None,
                **self._settings.in_force(self._progress.step / self._progress.total_steps),
            }
        return known


def _rank() -> int:
    """The number of this process among those that train together; the first one, 0, writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
