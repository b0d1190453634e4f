"""Four ranks train as one process does: two copies of the model, each divided between two ranks
that share its experts.

`python -m tests.parallel.grid` compares every router and every layout; this is a part of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gloo_ranks import on_ranks
from tests.parallel.cases import LAYOUTS, TOLERANCE, Case, difference, on_rank, train

RANKS = 4
CASES = [
    Case("smoe", "calibrated", micro_batches=2),
    Case("smoe", starved=True),
    Case("xmoe"),
    Case("stablemoe"),
    Case("loss-free", micro_batches=2),
    Case("remoe"),
    Case("competesmoe"),
    Case("hash", micro_batches=2, memory=True),
]


@pytest.fixture(scope="module")
def found(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the ranks got, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    layout = LAYOUTS["expert-in-copies"]
    ranks = on_ranks(on_rank, RANKS, folder, layout, CASES, corpus_dir / "sources")
    return {str(case): result for case, result in zip(CASES, ranks[0], strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_gradients_and_state_are_the_same(
    case: Case, found: dict[str, Any], corpus_dir: Path
) -> None:
    alone = train(case, corpus_dir / "sources", torch.device("cpu"), parts=RANKS)
    initial = found[str(case)]["initial"]
    assert all(torch.equal(initial[name], tensor) for name, tensor in alone["initial"].items())
    gap, where = difference(found[str(case)], alone)
    assert gap < TOLERANCE, where
