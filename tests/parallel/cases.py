"""Trainings that must give the same in one process and on several ranks, and how they are compared.

A case is trained for a few steps by the step of the product itself (train/step.py), without dropout
and with all tokens in every sample, so nothing is drawn that ranks would draw differently.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.parallel.sharded import bounds, local, whole
from simsmoe_cli.parallel.world import ALONE, World, join
from simsmoe_cli.recipe.parallel import Layout
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.probes import probe
from simsmoe_cli.train.sharding import let_go, shard
from simsmoe_cli.train.step import Stepper
from tests.train.tiny import recipe

STEPS = 5
# Rounding is 1e-7 of a value; sums over thousands of values and five steps add to it.
TOLERANCE = 1e-5
TOLERANCE_FP64 = 1e-10
FP32 = torch.float32
ROUTERS = ("smoe", "xmoe", "stablemoe", "loss-free", "remoe", "competesmoe", "hash")
# Of ranks: replicate, shard, expert.
LAYOUTS = {
    "shard": Layout(1, 2, 1),
    "replicate": Layout(2, 1, 1),
    "both": Layout(2, 2, 1),
    "expert": Layout(1, 2, 2),
    "expert-in-shard": Layout(1, 4, 2),
    "expert-in-copies": Layout(2, 2, 2),
}


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        router, similarity: of the recipe.
        micro_batches: of a step.
        starved: whether every token goes to the first two experts alone.
        memory: whether the model carries memory from step to step.
    """

    router: str = "smoe"
    similarity: str = "none"
    micro_batches: int = 1
    starved: bool = False
    memory: bool = False

    def __str__(self) -> str:
        return "-".join(
            [self.router, self.similarity, str(self.micro_batches)]
            + ["starved"] * self.starved
            + ["memory"] * self.memory
        )


def train(
    case: Case, corpus: Path, device: torch.device, world: World = ALONE, parts: int = 1
) -> dict[str, Any]:
    """Initial weights, losses, norms and gradients of every step, and weights, buffers, loads and
    similarity after the last; the same on every rank.

    Args:
        case, corpus, device, world: what is trained, on what, where and by whom.
        parts: of one process, how many ranks it is compared with. Ranks average the HSIC of their
            parts of a batch, so it does the same with as many parts.
    """
    fp64 = torch.get_default_dtype() == torch.float64
    relative = {"attention": "relative", "span": 16, "norm_position": "post"}
    made = recipe(
        model={"bias": True} | (relative if case.memory else {}),
        # The other backends have no fp64.
        moe={"router": case.router, "backend": "loop" if fp64 else "auto"},
        similarity={"preset": case.similarity}
        | ({"tokens": 1024, "weight": 0.003, "budget": None} if case.similarity != "none" else {}),
        # A large epsilon: where a gradient is rounding alone, Adam would take its sign.
        train={"batch": 8, "micro_batches": case.micro_batches, "eps": 1e-4, "clip_norm": 0.5},
    )
    objective = LanguageModelling(made, TokenStore.open(corpus), device, world=world)
    if case.starved:
        for layer in objective.model.moe_layers:
            bias = layer.router.gate.bias.detach()
            starved = whole(bias) + 1000.0 * (torch.arange(bias.shape[0]) < 2)
            (start,), (size,) = bounds(bias)
            local(bias).copy_(starved[start : start + size])
    for layer in objective.model.moe_layers:
        if layer.similarity is not None and parts > 1:
            layer.similarity.measure = in_parts(layer.similarity.measure, objective.rows, parts)
    shard(objective.model, world)
    initial = {name: copy(tensor) for name, tensor in objective.model.state_dict().items()}
    stepper = Stepper(objective)
    stepper.guard.found_inf = stepper.guard.found_inf.to(FP32)
    gradients: list[dict[str, Tensor]] = []
    named = list(objective.model.named_parameters())
    stepper.optimizer.register_step_pre_hook(
        lambda *_: gradients.append({name: copy(p.grad) for name, p in named if p.grad is not None})
    )
    measured = []
    for _ in range(STEPS):
        stepper.step()
        measured.append(dict(stepper.window.sums))
        stepper.window.sums = {}
    state = {name: copy(tensor) for name, tensor in objective.model.state_dict().items()}
    tokens, real = objective.probe_batch()
    found = probe(objective.model, tokens, objective.context(STEPS, real), "fp32")
    let_go(objective.model)
    loads = [torch.tensor(layer["load"]) for layer in found.router]
    similarity = [torch.from_numpy(cka).nan_to_num() for cka in found.cka]
    return {
        "initial": initial, "measured": measured, "gradients": gradients, "state": state,
        "loads": loads, "similarity": similarity,
    }  # fmt: skip


def widen() -> None:
    """Make this process and its forks compute in fp64, also where the product asks for fp32."""
    torch.set_default_dtype(torch.float64)
    # The fused Adam counts its steps in fp32.
    vars(sys.modules["torch.optim.adam"])["_get_scalar_dtype"] = lambda is_fused=None: FP32
    torch.float32 = torch.float64
    Tensor.float = Tensor.double  # type: ignore[method-assign]


def in_parts(measure: Callable[..., Tensor], rows: int, parts: int) -> Callable[..., Tensor]:
    """A measure that adds up over parts of a batch as ranks do; tokens are in their order.

    Args:
        measure: takes `total`.
        rows: sequences of a micro-batch.
        parts: how many ranks divide them.
    """
    ends = [(part + 1) * rows // parts for part in range(parts)]

    def measured(x: Tensor, y: Tensor, mask: Tensor, **options: Any) -> Tensor:
        block = x.shape[-2] // rows
        bounds = zip([0, *ends], ends, strict=False)
        cut = [
            [tensor[:, start * block : end * block] for tensor in (x, y, mask)]
            for start, end in bounds
        ]
        sums: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            sums.append(tensor)
            return tensor

        for part in cut:
            measure(*part, **options, total=note)
        return measure(*cut[0], **options, total=lambda _: torch.stack(sums).sum(0))

    return measured


def copy(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).cpu().clone()


def on_rank(
    rank: int, layout: Layout, cases: list[Case], corpus: Path, device: str = "cpu"
) -> list[dict[str, Any]]:
    """What a rank gets in each case; the process group exists."""
    size = layout.replicate * layout.shard
    on = torch.device(device, rank) if device == "cuda" else torch.device(device)
    world = join(Launch(rank, size, rank, size), on, layout, 120)
    found = [train(case, corpus, on, world) for case in cases]
    return found if world.first else []


def difference(ours: Any, theirs: Any) -> tuple[float, str]:
    """The largest difference, absolute or relative to the largest value of a tensor, and its name.

    Raises:
        AssertionError: they do not have the same parts.
    """
    worst = (0.0, "")
    pairs = theirs.items() if isinstance(theirs, dict) else enumerate(theirs)
    assert len(ours) == len(theirs)
    for name, value in pairs:
        if isinstance(value, Tensor):
            a, b = ours[name].double(), value.double()
            assert a.shape == b.shape, name
            gap = (a - b).abs().max().item() / max(1.0, b.abs().max().item())
            found = (gap, str(name))
        else:
            gap, below = difference(ours[name], value)
            found = (gap, f"{name}.{below}")
        worst = max(worst, found)
    return worst
