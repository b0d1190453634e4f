"""Training brainformer-tiny by simsmoe and by the published code of SimSMoE, in turn.

    python -m benchmarks.run published --checkout DIR --fastmoe DIR [--runs 5] [--json FILE]

Each side takes its own training steps: the published code its `_train_batch`, simsmoe what
`simsmoe pretrain` does between two steps. Both read the same tokens in the same order (Python's
standard library), in fp32, with dropout 0.1, and update with Adam. docs/benchmarks.md says how to
get the two folders.

Tokens a second are medians, by the wall clock and by the processor's time of all threads: the
second is what to look at on a machine with other work. Peak memory is that of a process that trains
one side alone, beyond what it held before the model was built.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import published_code
from benchmarks.step import Shape, model_flops, product_case
from benchmarks.text import standard_library
from benchmarks.timing import Case, PeakMemory, Timed, alternate
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.allocator import keep_freed_memory
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling

SPANS = (512, 2048)
BYTES = 4_000_000
OURS, THEIRS, PEAK = "simsmoe", "published code", "fp32 product"
CPU = torch.device("cpu")
STEPS_FOR_MEMORY = 4


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        checkout, fastmoe: folders of the published code and of fastmoe.
        overrides: of the recipe brainformer-tiny.
        plain_allocator: whether freed memory goes back to the system.
    """

    checkout: Path
    fastmoe: Path
    overrides: tuple[str, ...] = ("train.batch=8",)
    plain_allocator: bool = False

    def recipe(self, span: int) -> Recipe:
        fixed = ["train.micro_batches=1", "train.precision=fp32", "similarity.preset=none"]
        return load_recipe("brainformer-tiny", [*fixed, *self.overrides, f"model.span={span}"])

    def step(self, side: str, span: int, store: TokenStore, folder: Path) -> Callable[[], object]:
        """What takes the next step of a side."""
        recipe = self.recipe(span)
        if side == OURS:
            trainer = Trainer(LanguageModelling(recipe, store, CPU), RunDir(folder / "run"))
            return trainer.step
        split = store.split("train")
        tokens = torch.from_numpy(split[0 : len(split)].astype("int64"))
        size = store.manifest.vocab_size
        return published_code.training(self.checkout, self.fastmoe, recipe, size, tokens)


def published(setting: Setting, runs: int) -> list[dict[str, Any]]:
    """Training brainformer-tiny by simsmoe and by SimSMoE's published code (--checkout)."""
    tables = []
    for span in SPANS:
        recipe = setting.recipe(span)
        shape = Shape(recipe.train.batch, recipe.train.block)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            store = standard_library(folder, BYTES)
            cases = [
                Case(side, setting.step(side, span, store, folder), shape.tokens, "tokens")
                for side in (THEIRS, OURS)
            ]
            timed = alternate(
                [*cases, product_case(PEAK, recipe, shape, torch.float32)], runs, memory=False
            )
        for one in timed[:2]:
            one.peak_mb = _peak_mb(setting, one.name, span)
        tables.append(_report(recipe, shape, timed))
    return tables


def _report(recipe: Recipe, shape: Shape, timed: list[Timed]) -> dict[str, Any]:
    title = (
        f"brainformer-tiny, span {recipe.model.span:,}, {shape.batch} x {shape.block} tokens, "
        f"dropout {recipe.model.dropout}"
    )
    theirs, ours, product = timed
    print(f"\n{title}\n{'':16}{'tokens/s':>10}{'by CPU time':>13}{'peak memory':>14}")
    for one in (theirs, ours):
        print(f"{one.name:16}{one.rate:10,.0f}{one.cpu_rate:13,.0f}{one.peak_mb:11,.0f} MB")
    ratios = {
        "by the clock": ours.rate / theirs.rate,
        "by CPU time": ours.cpu_rate / theirs.cpu_rate,
        "memory": ours.peak_mb / theirs.peak_mb,
    }
    print(
        f"{'ratio':16}{ratios['by the clock']:10.2f}{ratios['by CPU time']:13.2f}"
        f"{ratios['memory']:14.2f}"
    )
    share = model_flops(recipe, shape) * ours.cpu_rate / shape.tokens / 1e9 / product.cpu_rate
    print(
        f"model FLOPs of simsmoe over the measured fp32 peak: {share:.0%} "
        f"({product.cpu_rate:.0f} GFLOP a CPU second)",
        flush=True,
    )
    return {
        "title": title,
        "cases": [asdict(one) for one in timed],
        "ratios": ratios,
        "utilisation": share,
    }


def _peak_mb(setting: Setting, side: str, span: int) -> float:
    """Peak memory of a process that trains this side alone."""
    words = ["--checkout", setting.checkout, "--fastmoe", setting.fastmoe, "--side", side]
    words += ["--span", span, *(["--plain-allocator"] if setting.plain_allocator else [])]
    words += [word for change in setting.overrides for word in ("--set", change)]
    command = [sys.executable, "-m", "benchmarks.published", *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Print the peak memory of training one side, in MB."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--fastmoe", type=Path, required=True)
    parser.add_argument("--side", choices=(OURS, THEIRS), required=True)
    parser.add_argument("--span", type=int, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--plain-allocator", action="store_true")
    given = parser.parse_args()
    if not given.plain_allocator:
        keep_freed_memory(CPU)
    setting = Setting(given.checkout, given.fastmoe, tuple(given.overrides))
    with tempfile.TemporaryDirectory() as name:
        store = standard_library(Path(name), BYTES)
        with PeakMemory() as peak:
            step = setting.step(given.side, given.span, store, Path(name))
            for _ in range(STEPS_FOR_MEMORY):
                step()
    print(peak.mb)


if __name__ == "__main__":
    main()
