"""Tiny language models with planted experts, and windows on which each of them is good.

The targets are drawn from the model's own predictions, so the unchanged model is the best one for
them, and an expert that is needed is missed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.sources.run_replay import RunReplay
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.moe.routers.base import StepContext
from tests.train.tiny import recipe

EXPERTS, HIDDEN, WIDTH, VOCABULARY, WINDOWS, BLOCK = 6, 8, 16, 11, 24, 16


def model(
    seed: int = 0,
    model: dict[str, Any] | None = None,
    vocabulary: int = VOCABULARY,
    **moe: Any,
) -> LanguageModel:
    """A model of two layers with experts whose outputs matter."""
    settings = {"pattern": "sg", "repeats": 2, "width": WIDTH, "heads": 2, **(model or {})}
    made = recipe(model=settings, moe={"experts": EXPERTS, "hidden": HIDDEN, "top_k": 2, **moe})
    torch.manual_seed(seed)
    found = LanguageModel(made, vocabulary).eval()
    with torch.no_grad():
        found.embedding.weight.normal_()
        found.output.weight.mul_(100)
        for layer in found.moe_layers:
            layer.router.gate.weight.mul_(4)
            layer.experts.w_out.mul_(4)
    return found


def experts(found: LanguageModel, layer: int = 0) -> Experts:
    """The experts of a layer."""
    return found.moe_layers[layer].experts


def copy_expert(
    found: LanguageModel, layer: int, source: int, target: int, turn_DD: Tensor | None = None
) -> None:
    """Give an expert the weights of another, with its hidden units in another order.

    Args:
        found: changed in place.
        layer, source, target: which.
        turn_DD: applied to the outputs.
    """
    own = experts(found, layer)
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(5))
    both = torch.cat([order, order + HIDDEN]) if own.swiglu else order
    with torch.no_grad():
        own.w_in[target] = own.w_in[source][both]
        out_DH = own.w_out[source][:, order]
        own.w_out[target] = out_DH if turn_DD is None else turn_DD @ out_DH
        for bias, rows in ((own.b_in, both), (own.b_out, None)):
            if bias is not None:
                moved = bias[source] if rows is None else bias[source][rows]
                bias[target] = moved if rows is not None or turn_DD is None else turn_DD @ moved


@torch.no_grad()
def batches(found: LanguageModel, parts: int = 2, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Windows of random tokens with targets that the model predicts, in some batches.

    Where the model carries memory, the batches are consecutive blocks of the same streams.
    """
    generator = torch.Generator().manual_seed(seed)
    memory: list[Tensor] = []
    made = []
    for _ in range(parts):
        inputs = torch.randint(found.vocab_size, (WINDOWS // parts, BLOCK), generator=generator)
        output = found(inputs, memory, StepContext())
        memory = output.memory
        drawn = torch.multinomial(output.logits.flatten(0, 1).softmax(-1), 1, generator=generator)
        made.append((inputs, drawn.view_as(inputs)))
    return made


@torch.no_grad()
def nats(found: LanguageModel, some: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Nats of each window by the model as it is, read plainly from the start: the oracle."""
    memory: list[Tensor] = []
    windows = []
    for inputs, targets in some:
        output = found(inputs, memory, StepContext())
        memory = output.memory
        log_p = output.logits.double().log_softmax(-1)
        windows.append(-log_p.gather(2, targets[..., None]).squeeze(2).sum(1))
    return torch.cat(windows)


def replay(found: LanguageModel, some: list[tuple[Tensor, Tensor]]) -> RunReplay:
    return RunReplay(found, StepContext(), some)
