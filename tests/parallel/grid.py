"""Compares trainings on several ranks with the same in one process: every router and every layout.

    python -m tests.parallel.grid                      # gloo, two and four processes
    python -m tests.parallel.grid --device cuda        # NCCL, a GPU for each rank
    python -m tests.parallel.grid --layouts shard --routers smoe,hash

Similarity learning estimates CKA from the rows that each rank draws for itself, so its numbers
depend on the number of ranks. It is compared with as many whole copies of the model.

Exits with 1 if any difference is larger than rounding explains (`cases.TOLERANCE`).
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import tempfile
import typing
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.recipe.parallel import Layout
from tests.gloo_ranks import on_ranks
from tests.parallel.cases import LAYOUTS, ROUTERS, TOLERANCE, Case, difference, on_rank, train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--routers", default=",".join(ROUTERS))
    given = parser.parse_args()
    cases = [
        Case(router, similarity, micro_batches)
        for router, similarity, micro_batches in itertools.product(
            given.routers.split(","), ("none", "calibrated"), (1, 2)
        )
    ]
    cases += [Case(starved=True), Case("hash", micro_batches=2, memory=True)]
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        Path(folder, "text.txt").write_text(inspect.getsource(argparse) + inspect.getsource(typing))
        prepare(str(Path(folder, "text.txt")), corpus)
        alone = {
            case: train(case, corpus, torch.device(given.device))
            for case in cases
            if case.similarity == "none"
        }

        def on(name: str, layout: Layout) -> dict[Case, Any]:
            files = Path(folder, name)
            files.mkdir()
            ranks = layout.replicate * layout.shard
            found = on_ranks(on_rank, ranks, files, layout, cases, corpus, given.device)
            return dict(zip(cases, found[0], strict=True))

        copies: dict[int, dict[Case, Any]] = {}
        for name in given.layouts.split(","):
            layout = LAYOUTS[name]
            ranks = layout.replicate * layout.shard
            found = on(name, layout)
            if ranks not in copies:
                plain = layout == Layout(ranks)
                copies[ranks] = found if plain else on(f"copies-{ranks}", Layout(ranks))
            for case, ours in found.items():
                theirs = alone[case] if case in alone else copies[ranks][case]
                gap, where = difference(ours, theirs)
                failed += gap > TOLERANCE
                verdict = "same" if gap <= TOLERANCE else "DIFFERENT"
                print(f"{name:12} {case!s:28} {gap:.1e}  {verdict}  {where}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
