"""Attach similarity learning and its measures to any model with experts, in anyone's loop.

handle = attach(model, similarity="calibrated")
...                       # the loop stays as it is: forward, loss.backward(), optimizer.step()
handle.step()             # once per optimizer step
handle.metrics()          # numbers for a logger
handle.detach()
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simsmoe_cli.attach.find_layers import ExpertLayer, find_expert_layers, no_experts
from simsmoe_cli.attach.hooks import AttachedLayer, Probe, Progress
from simsmoe_cli.attach.settings import (
    Similarity,
    experts_per_token,
    require_rows_alone,
    similarity_settings,
)
from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.schedule import value_at
from simsmoe_cli.recipe.similarity import SimilaritySettings

Finder = Callable[[nn.Module], Sequence[ExpertLayer]]
DEAD_BELOW = 0.01  # of a fair share of the load
_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def attach(
    model: nn.Module,
    similarity: Similarity = "calibrated",
    *,
    layers: Finder | None = None,
    total_steps: int | None = None,
    probe_every: int = 200,
    log_every: int = 10,
    seed: int = 0,
) -> Handle:
    """Watch the expert layers of a model while it trains, and keep the experts different.

    The model computes what it computed before. In the backward pass the experts get the gradient
    of the similarity loss as well.

    Args:
        model: any module with expert layers; wrapped (DDP, PEFT, FSDP2) or not.
        similarity: a preset ("none" only measures), or settings of a recipe's section
            `similarity`, for example {"preset": "calibrated", "weight": 0.01}.
        layers: finds the expert layers where the built-in finder does not see them.
        total_steps: of the whole training; needed where a setting is a schedule.
        probe_every: optimizer steps between two measurements of all pairs.
        log_every: optimizer steps that one line of metrics sums up.
        seed: of the tokens that are drawn. Nothing is drawn from PyTorch's own generators.

    Raises:
        UserError: the model has no expert layers, is attached already, or a setting is wrong.
    """
    settings = similarity_settings(similarity, total_steps)
    found = list((layers or find_expert_layers)(model))
    name = type(model).__name__
    if not found:
        raise no_experts(model, name)
    if any(layer.module in _attached for layer in found):
        raise UserError(
            "the model is attached already",
            where=name,
            hint="Call detach() of the first handle, or use that handle.",
        )
    require_rows_alone(found, name)
    for what, value in {"probe_every": probe_every, "log_every": log_every}.items():
        if value < 1:
            raise UserError(f"{what} must be 1 or more, and is {value}", where="attach")
    return Handle(model, found, settings, total_steps, probe_every, log_every, seed)


class Handle:
    """An attached model; made by `attach`.

    Attributes:
        loss_scale: what the loop multiplies its own loss with before `backward()`, so that the
            similarity loss is scaled alike: 1 / (batches per optimizer step) with gradient
            accumulation, times `scaler.get_scale()` with a GradScaler.
        layers: the expert layers, in the model's order.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[ExpertLayer],
        settings: SimilaritySettings | None,
        total_steps: int | None,
        probe_every: int,
        log_every: int,
        seed: int,
    ):
        self.loss_scale = 1.0
        self._settings = settings
        self._probe_every = probe_every
        self._log_every = log_every
        self._progress = Progress(total_steps=total_steps or 1, coefficient=self._coefficient)
        self._progress.probing = True
        self._given: Tensor | None = None
        self._numbers: dict[str, float] = {}
        self._probes: dict[int, Probe] = {}
        name, top_k = type(model).__name__, experts_per_token(model)
        self.layers = [
            AttachedLayer(layer, top_k, settings, self._progress, name, seed + place)
            for place, layer in enumerate(found)
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
        """Say which tokens of the next forward passes are padding.

        Without this call the mask is read from the model's own argument `attention_mask`.

        Args:
            attention_mask: [B, M], 0 or False where a token is padding; None: read it from the
                model's calls again.
        """
        self._given = attention_mask

    def step(self) -> None:
        """Say that the optimizer made a step."""
        self._progress.step += 1
        for place, attached in enumerate(self.layers):
            attached.end_step()
            if attached.probe is not None:
                self._probes[place], attached.probe = attached.probe, None
        self._progress.probing = self._progress.step % self._probe_every == 0
        if self._progress.step % self._log_every == 0:
            self._numbers = self._read()
            for attached in self.layers:
                attached.start_window()

    def metrics(self) -> dict[str, float]:
        """Numbers for a logger, of the last `log_every` steps; the host waits on the device.

        Keys: per layer `layer_L/load_max` (the busiest expert's load over a fair share),
        `layer_L/dead` (experts with less than a hundredth of a fair share), `layer_L/entropy` (of
        the router's distribution, in nats), and of the last probe `layer_L/cka_mean` and
        `layer_L/cka_max`. Without a layer: `dead`, `cka_mean` and `cka_max` over all layers, and
        `similarity`, the mean similarity of the pairs that were compared for the loss.
        """
        return self._numbers or self._read()

    def detach(self) -> None:
        """Take everything out of the model again; the numbers stay readable."""
        self._numbers = self.metrics()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for attached in self.layers:
            attached.detach()
            _attached.discard(attached.layer.module)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on from."""
        return {
            "step": self._progress.step,
            "layers": [attached.state_dict() for attached in self.layers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is of another model.
        """
        if len(state["layers"]) != len(self.layers):
            raise ValueError(
                f"a state of {len(state['layers'])} layers for a model with {len(self.layers)}"
            )
        self._progress.step = int(state["step"])
        for attached, saved in zip(self.layers, state["layers"], strict=True):
            attached.load_state_dict(saved)

    def _coefficient(self) -> float:
        assert self._settings is not None
        progress = self._progress
        weight = value_at(self._settings.weight, progress.step / progress.total_steps)
        return weight * float(self.loss_scale)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the padding mask of a forward pass."""
        mask = self._given if self._given is not None else kwargs.get("attention_mask")
        progress = self._progress
        progress.tokens, progress.real_T = 0, None
        if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all()):
            progress.tokens = mask.numel()
            progress.real_T = mask.flatten().nonzero().flatten()

    def _read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        pairs = similarity = 0.0
        for place, attached in enumerate(self.layers):
            prefix = f"layer_{place}/"
            loads = attached.slots_N.tolist()
            if sum(loads):
                share = [load * len(loads) / sum(loads) for load in loads]
                found[f"{prefix}load_max"] = max(share)
                found[f"{prefix}dead"] = sum(load < DEAD_BELOW for load in share)
            sums = {name: value.item() for name, value in attached.window.items()}
            if "entropy" in sums:
                found[f"{prefix}entropy"] = sums["entropy"] / sums["batches"]
            pairs += sums.get("pairs_due", 0.0)
            similarity += sums.get("similarity", 0.0)
            if probe := self._probes.get(place):
                number = len(probe.cka_NN)
                cka = probe.cka_NN[tuple(torch.triu_indices(number, number, 1))]
                cka = cka[~cka.isnan()]
                if len(cka):
                    found[f"{prefix}cka_mean"] = cka.mean().item()
                    found[f"{prefix}cka_max"] = cka.max().item()
        joined: dict[str, Callable[[Sequence[float]], float]]
        joined = {"dead": sum, "cka_mean": _mean, "cka_max": max}
        for name, join in joined.items():
            values = [value for key, value in found.items() if key.endswith(f"/{name}")]
            if values:
                found[name] = join(values)
        if pairs:
            found["similarity"] = similarity / pairs
        return {name: value for name, value in found.items() if math.isfinite(value)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
