"""A dense run becomes a run with experts that computes the same; `pretrain --from` trains it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import plan_training
from simsmoe_cli.upcycle.experts import Settings
from simsmoe_cli.upcycle.run import upcycle_run
from tests.train.transfer import pretrain

MODELS = {
    "paper": {"pattern": "sff", "repeats": 1, "attention": "relative", "ffn_hidden": 40},
    "modern": {"pattern": "sf", "repeats": 2, "activation": "swiglu", "bias": False},
}


@pytest.fixture(scope="module", params=MODELS)
def dense(request: pytest.FixtureRequest, corpus_dir: Path) -> RunDir:
    """A trained run without experts."""
    name = f"dense-{request.param}"
    run = RunDir(corpus_dir / "runs" / name)
    plain = {"similarity": {"preset": "none"}, "train": {"steps": 4, "checkpoint_every": 4}}
    return pretrain(corpus_dir, run, model=MODELS[request.param], **plain)


def logits(run: RunDir, corpus_dir: Path) -> Tensor:
    opened = OpenedRun.open(run, "best", corpus_dir)
    model = opened.language_model(torch.device("cpu"))
    tokens_BM = torch.arange(48).view(3, 16) % opened.state["vocab_size"]
    memory = model.initial_memory(3)
    with torch.no_grad():
        found: Tensor = model(tokens_BM, memory, opened.context()).logits
    return found


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_function_stays(dense: RunDir, corpus_dir: Path, tmp_path: Path, top_k: int) -> None:
    done = upcycle_run(dense, tmp_path / "moe", Settings(4, top_k))
    new = RunDir(tmp_path / "moe")
    torch.testing.assert_close(logits(new, corpus_dir), logits(dense, corpus_dir))
    recipe = OpenedRun.open(new, "best", corpus_dir).recipe
    assert "f" not in recipe.model.pattern
    assert (recipe.moe.experts, recipe.moe.top_k) == (4, top_k)
    assert done.active < done.parameters


def test_experts_differ_where_asked(dense: RunDir, corpus_dir: Path, tmp_path: Path) -> None:
    upcycle_run(dense, tmp_path / "moe", Settings(4, 2, drop_ratio=0.5))
    model = OpenedRun.open(RunDir(tmp_path / "moe"), "best", corpus_dir).language_model(
        torch.device("cpu")
    )
    experts = next(layer.moe.experts for layer in model.layers if layer.kind == "g")  # type: ignore[attr-defined]
    w_in, w_out = experts.w_in[0], experts.w_out[0]
    others = experts.w_in[1:], experts.w_out[1:]
    old_in = (w_in == others[0]).any(0).all(1)  # units that expert 0 shares with another
    old_out = (w_out == others[1]).any(0).all(0)
    hidden = w_out.shape[1]
    assert 0 < old_out.sum() < hidden
    for part in old_in.split(hidden):  # of SwiGLU a gate and an up projection
        assert torch.equal(part, old_out)


def test_it_trains_on_from_there(dense: RunDir, corpus_dir: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    upcycle_run(dense, runs / "moe", Settings(4, 2))
    changes = ["similarity.preset=calibrated", "train.steps=2", "train.lr=1e-9"]
    plan = plan_training(None, changes, runs, source=Path("moe"), data_dir=corpus_dir)
    store = session.open_corpus(plan, corpus_dir)
    session.train(plan, store, torch.device("cpu"))
    assert plan.run.path == runs / "moe-calibrated"
    trained = logits(plan.run, corpus_dir)
    torch.testing.assert_close(trained, logits(dense, corpus_dir), rtol=1e-3, atol=1e-3)
    state = checkpoint.read_state(checkpoint.find(plan.run, "last"))
    moe = checkpoint.read_state(runs / "moe/best")
    assert state["pretrained"]["run"] == "moe"
    assert state["pretrained"]["sha256"] in moe["sha256"].values()
    again = plan_training(None, ["train.steps=4"], runs, resume="moe-calibrated")
    assert again.origin == state["pretrained"]


def test_what_cannot_be_upcycled_or_trained_on(corpus_dir: Path, tmp_path: Path) -> None:
    moe = pretrain(corpus_dir, RunDir(tmp_path / "moe"), train={"steps": 2})
    with pytest.raises(DataError, match="already is a mixture of experts"):
        upcycle_run(moe, tmp_path / "new", Settings(4, 2))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"cannot be changed: moe\.experts \(4 -> 8\)"):
        plan_training(None, ["moe.experts=8"], tmp_path, source=Path("moe"), data_dir=corpus_dir)
    with pytest.raises(UserError, match="Did you mean 'moe'"):
        plan_training(None, [], tmp_path, source=Path("mo"), data_dir=corpus_dir)
    changed = plan_training(
        None, ["data.corpus=words"], tmp_path, source=Path("moe"), data_dir=corpus_dir
    )
    with pytest.raises(UserError, match=r"wants|another tokenizer or vocabulary"):
        session.open_corpus(changed, corpus_dir)
