"""The whole step compiles to one graph, and changing loads compile nothing again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from simsmoe_cli.train.loop import Trainer
from tests.train.test_resume import PAPER_MODEL

# torch.compile's own tracing of autograd functions does what torch warns about.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

BUSY = {"check_every": 0.0, "weight": 0.003, "tokens": 16, "min_tokens": 4, "budget": None}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts the graphs torch.compile makes; a graph break is an error."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function: compiled(function, backend=counter, fullgraph=True)
    )
    return counter


@pytest.mark.parametrize(
    ("precision", "model", "similarity"),
    [
        ("bf16", {**PAPER_MODEL, "repeats": 1}, {"preset": "published", **BUSY}),
        ("fp32", {"repeats": 1}, {"preset": "calibrated", **BUSY}),
        ("bf16", {"repeats": 1}, {}),
    ],
    ids=["paper", "modern", "plain"],
)
def test_one_graph_for_forty_steps(
    trainer: Callable[..., Trainer],
    graphs: CompileCounter,
    precision: str,
    model: dict[str, Any],
    similarity: dict[str, Any],
) -> None:
    settings = {"compile": "on", "precision": precision, "steps": 40}
    run = trainer(model=model, similarity=similarity, train=settings)
    for _ in range(40):
        run.step()
    assert graphs.frame_count == 1


@pytest.mark.parametrize(
    ("router", "most"), [("xmoe", 1), ("loss-free", 1), ("hyperrouter", 1), ("stablemoe", 3)]
)
def test_graphs_of_other_routers(
    trainer: Callable[..., Trainer], graphs: CompileCounter, router: str, most: int
) -> None:
    """One each; one more per stage, and one for step 0, where a router has stages."""
    one = {"repeats": 1}
    run = trainer(
        moe={"router": router}, model=one, train={"compile": "on", "precision": "bf16", "steps": 30}
    )
    for _ in range(30):
        run.step()
    assert graphs.frame_count <= most


def test_one_graph_for_steps_that_look_at_pairs_and_one_for_those_that_count(
    trainer: Callable[..., Trainer], graphs: CompileCounter
) -> None:
    """And one more each for steps 0 and 1, before the step is known to change."""
    similarity = {"preset": "published", "tokens": 16, "min_tokens": 4}
    train = {"compile": "on", "precision": "bf16", "steps": 40}
    run = trainer(similarity=similarity, model={"repeats": 1}, train=train)
    for _ in range(40):
        run.step()
    assert graphs.frame_count <= 4


def test_one_graph_more_for_steps_that_a_budget_leaves_out(
    trainer: Callable[..., Trainer], graphs: CompileCounter
) -> None:
    similarity = {"preset": "calibrated", **BUSY, "budget": 0.1}
    train = {"compile": "on", "precision": "bf16", "steps": 20}
    run = trainer(similarity=similarity, model={"repeats": 1}, train=train)
    cost = run.objective.similarity_cost
    assert cost is not None
    assert 1 < cost.every < 10
    for _ in range(20):
        run.step()
    assert graphs.frame_count == 2


def test_compiled_steps_learn_the_same(
    trainer: Callable[..., Trainer], graphs: CompileCounter
) -> None:
    """In fp32, where compiled experts go through an operator with gradients of its own."""
    weights = []
    for compiled in ("off", "on"):
        run = trainer(train={"compile": compiled, "precision": "fp32"})
        for _ in range(3):
            run.step()
        weights.append([p.detach().clone() for p in run.model.parameters()])
    for plain, other in zip(*weights, strict=True):
        torch.testing.assert_close(plain, other, atol=1e-5, rtol=1e-4)
