"""A training step of two gloo processes, how much of it is communication, and what they send.

Each process has one thread and half of the batch. The layouts take turns in the same two processes:
weights divided (FSDP2), weights divided and the experts of a layer shared, and two copies. Their
collectives are then played again with nothing to compute between them; that is what a step would
take if it only communicated, on this machine, where gloo sends through the kernel's loopback. The
bytes sent stand beside those that `pretrain --dry-run --world-size 2` predicts.

One process with two threads and the whole batch is the comparison.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.step import VOCABULARY, Shape, modern, step_case
from benchmarks.timing import Case, Timed, alternate, report
from benchmarks.traffic import EXCHANGE, GATHER, REDUCE, SCATTER, Traffic
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.rank_cost import rank_cost
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.parallel.world import World, join
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.train import sharding
from simsmoe_cli.train.optim import build_optimizer

RANKS = 2
SHAPE = Shape(2, 1024)
LAYOUTS = {
    "shard 2": [],
    "shard 2, experts shared by 2": ["parallel.expert=2"],
    "replicate 2": ["parallel.replicate=2"],
}


def parallel(runs: int) -> list[dict[str, Any]]:
    """Two processes on two cores: a step, the communication in it, bytes sent and predicted."""
    tables = []
    for experts in (16,):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_rank, (folder, experts, runs), nprocs=RANKS)
            found = torch.load(Path(folder, "found.pt"), weights_only=True)
        torch.set_num_threads(RANKS)
        alone = step_case("one process, two threads", _recipe(experts), SHAPE)
        timed = [
            *alternate([alone], runs, memory=False),
            *(
                Timed(name, SHAPE.tokens, "tokens", one["seconds"], one["cpu_seconds"])
                for name, one in found.items()
            ),
        ]
        title = f"two gloo processes, mistral-modern, 4 layers, {experts} experts, 2,048 tokens"
        tables.append(report(title, timed, alone.name) | {"traffic": found})
        for name, one in found.items():
            _print_traffic(name, one, _recipe(experts, *LAYOUTS[name]))
    return tables


def _recipe(experts: int, *overrides: str) -> Recipe:
    train = f"train.batch={SHAPE.batch}", f"train.block={SHAPE.block}"
    return modern(f"moe.experts={experts}", *train, *overrides)


def _print_traffic(name: str, one: dict[str, Any], recipe: Recipe) -> None:
    step, alone = statistics.median(one["seconds"]), one["communication"]
    print(f"{name}: communication alone takes {sum(alone.values()) / step:.0%} of a step")
    cost = rank_cost(recipe, VOCABULARY, RANKS)
    predicted = {
        GATHER: cost.all_gather_bytes,
        SCATTER: cost.reduce_scatter_bytes,
        REDUCE: cost.all_reduce_bytes,
        EXCHANGE: cost.all_to_all_bytes,
    }
    for kind, expected in predicted.items():
        sent = one["sent_bytes"].get(kind, 0)
        took = f"{1000 * alone.get(kind, 0.0):6.0f} ms"
        print(f"  {kind:15} {sent / 1e6:9.2f} MB sent {expected / 1e6:9.2f} MB predicted {took}")


def _rank(rank: int, folder: str, experts: int, runs: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    steps = {name: _step(rank, _recipe(experts, *LAYOUTS[name])) for name in LAYOUTS}
    cases = [Case(name, step, SHAPE.tokens, "tokens") for name, step in steps.items()]
    found: dict[str, dict[str, Any]] = {
        one.name: {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds}
        for one in alternate(cases, runs, memory=False)
    }
    for name, step in steps.items():
        with Traffic() as traffic:
            step()
        replays = [traffic.replay() for _ in range(runs)]
        found[name]["sent_bytes"] = dict(traffic.sent_bytes)
        found[name]["communication"] = {
            kind: statistics.median(replay[kind] for replay in replays) for kind in replays[0]
        }
    if rank == 0:
        torch.save(found, Path(folder, "found.pt"))
    dist.destroy_process_group()


def _step(rank: int, recipe: Recipe) -> Callable[[], None]:
    world: World = join(
        Launch(rank, RANKS, rank, RANKS), torch.device("cpu"), recipe.parallel.layout(RANKS), 600
    )
    torch.manual_seed(0)
    model = LanguageModel(recipe, VOCABULARY)
    sharding.shard(model, world)
    optimizer = build_optimizer(model, recipe.train)
    inputs, targets = (tokens[world.part(SHAPE.batch)] for tokens in SHAPE.draw())
    context = StepContext(step=50, total_steps=100)

    def step() -> None:
        output = model.score(inputs, targets, (), context)
        (output.nats / SHAPE.tokens + 0.01 / RANKS * output.losses["balance"]).backward()
        sharding.total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
