"""What similarity learning `calibrated` costs a step under its budget, at any batch size.

    python -m benchmarks.run budget [--runs 5]
    python -m benchmarks.similarity_budget [--models MODEL ...] [--tokens T ...] [--experts N ...]

Two models, one repeat of brainformer-tiny's layers and two of mistral-modern's, take training
steps without and with similarity learning, in turn, in one process with one thread. A round is as
many steps as lie between two comparisons. Reported: how often experts are compared, the counted
share of FLOPs, and the share of CPU time, as the median over rounds. The aim is 5% of both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.step import VOCABULARY, Shape, step_case
from benchmarks.timing import machine
from simsmoe_cli.model.size import measure
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.train.allocator import keep_freed_memory

MODELS = {"brainformer-tiny": (1, 512), "mistral-modern": (2, 1024)}  # repeats, block
TOKENS = (2048, 8192, 49152)
EXPERTS = (8, 16, 64)
_COLUMNS = (18, 8, 9, 7, 8, 10, 18)


def recipe_of(model: str, tokens: int, experts: int, preset: str) -> Recipe:
    """A recipe's layers, with this many tokens a step and experts a layer."""
    repeats, block = MODELS[model]
    return load_recipe(
        model,
        [
            f"model.repeats={repeats}",
            f"moe.experts={experts}",
            f"similarity.preset={preset}",
            f"train.batch={tokens // block}",
            f"train.block={block}",
            "train.micro_batches=1",
        ],
    )


def _contexts(cost: Cost) -> Iterator[StepContext]:
    """Those of a training's steps."""
    step = 0
    while True:
        yield StepContext(step, 10_000, compare=cost.at(step))
        step += 1


def rounds(model: str, tokens: int, experts: int, runs: int) -> dict[str, Any]:
    """Time both in turn: shares of FLOPs and of CPU time, and seconds of a step."""
    recipes = [recipe_of(model, tokens, experts, preset) for preset in ("none", "calibrated")]
    cost = measure(recipes[1], VOCABULARY).similarity
    assert cost is not None
    shape = Shape(recipes[0].train.batch, recipes[0].train.block)
    plain, with_it = (
        step_case(one.similarity.preset, one, shape, contexts=_contexts(cost)) for one in recipes
    )
    taken: list[tuple[float, float]] = []
    for _ in range(runs + 1):
        sums = [0.0, 0.0]
        for _ in range(cost.every):
            for place, case in enumerate((plain, with_it)):
                start = time.process_time()
                case.run()
                sums[place] += time.process_time() - start
        taken.append((sums[0], sums[1]))
    timed = taken[1:]  # the first round warms up
    return {
        "model": model,
        "tokens": tokens,
        "experts": experts,
        "every": cost.every,
        "flops": cost.share,
        "cpu": statistics.median(after / before for before, after in timed) - 1,
        "spread": sorted(after / before - 1 for before, after in timed),
        "step_s": statistics.median(before for before, _ in timed) / cost.every,
    }


def budget(
    runs: int,
    models: Sequence[str] = tuple(MODELS),
    tokens: Sequence[int] = TOKENS,
    experts: Sequence[int] = EXPERTS,
) -> list[dict[str, Any]]:
    """What similarity learning adds under its budget, by tokens a step and experts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("\nsimilarity learning under its budget: shares of a step without it, one thread")
    names = ("model", "tokens", "experts", "every", "FLOPs", "CPU time", "lowest to highest")
    _row(*names)
    rows = []
    for model in models:
        for count in tokens:
            for number in experts:
                few = min(runs, 3) if count > 8192 else runs
                row = rounds(model, count, number, few)
                spread = f"{row['spread'][0]:+.1%} to {row['spread'][-1]:+.1%}"
                shares = f"{row['flops']:+.1%}", f"{row['cpu']:+.1%}"
                _row(model, f"{count:,}", number, row["every"], *shares, spread)
                rows.append(row)
    torch.set_num_threads(threads)
    return rows


def _row(*cells: object) -> None:
    print(
        "".join(f"{cell!s:<{width}}" for cell, width in zip(cells, _COLUMNS, strict=True)),
        flush=True,
    )


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--experts", nargs="+", type=int, default=EXPERTS)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    keep_freed_memory(torch.device("cpu"))
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    budget(given.runs, given.models, given.tokens, given.experts)


if __name__ == "__main__":
    main()
