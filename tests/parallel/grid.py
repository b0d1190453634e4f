"""Compares trainings on several ranks with the same in one process: every router and every layout.

    python -m tests.parallel.grid                      # gloo, two and four processes
    python -m tests.parallel.grid --device cuda        # NCCL, a GPU for each rank
    python -m tests.parallel.grid --layouts shard --routers smoe,hash
    python -m tests.parallel.grid --fp64               # everything in fp64

Ranks average the HSIC of their own rows before they take the ratio of CKA. So with similarity
learning the one process averages over as many parts of a batch.

Exits with 1 if any difference is larger than rounding explains (`cases.TOLERANCE`). With --fp64 it
explains 1e-10 only, so a wrong sum cannot hide behind it.
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
from tests.gloo_ranks import on_ranks
from tests.parallel.cases import (
    LAYOUTS,
    ROUTERS,
    TOLERANCE,
    TOLERANCE_FP64,
    Case,
    difference,
    on_rank,
    train,
    widen,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--routers", default=",".join(ROUTERS))
    parser.add_argument("--fp64", action="store_true", help="compute everything in fp64")
    given = parser.parse_args()
    tolerance = TOLERANCE_FP64 if given.fp64 else TOLERANCE
    if given.fp64:
        widen()
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
        alone: dict[tuple[Case, int], Any] = {}
        for name in given.layouts.split(","):
            layout, files = LAYOUTS[name], Path(folder, name)
            files.mkdir()
            ranks = layout.replicate * layout.shard
            found = on_ranks(on_rank, ranks, files, layout, cases, corpus, given.device)[0]
            for case, ours in zip(cases, found, strict=True):
                parts = 1 if case.similarity == "none" else ranks
                if (case, parts) not in alone:
                    device = torch.device(given.device)
                    alone[case, parts] = train(case, corpus, device, parts=parts)
                theirs = alone[case, parts]
                gap, where = difference(ours, theirs)
                failed += gap > tolerance
                verdict = "same" if gap <= tolerance else "DIFFERENT"
                print(f"{name:12} {case!s:28} {gap:.1e}  {verdict}  {where}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
