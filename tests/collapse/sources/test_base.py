"""Opening run folders: the right weights, the right text, and clear errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simsmoe_cli.collapse.measure.training_history import LOSSES_KEPT, read_history
from simsmoe_cli.collapse.sources.open_run import checkpoints, open_run
from simsmoe_cli.collapse.sources.run import CorpusSource
from simsmoe_cli.collapse.sources.text_windows import tokens_together, windows
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.run.folder import EventLog
from simsmoe_cli.train import checkpoint
from tests.collapse.runs import opened, write_run
from tests.train.tiny import recipe


def first_weight(step: int, store: TokenStore) -> torch.Tensor:
    torch.manual_seed(step)
    return LanguageModel(recipe(), store.manifest.vocab_size).moe_layers[0].experts.w_in.detach()


def test_the_checkpoint_asked_for_is_opened(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store, steps=(2, 4, 6), best=3)
    for which, step in (("best", 3), ("last", 6), ("4", 4)):
        source = opened(run, store, which)
        assert source.subject.step == step
        assert source.subject.checkpoint == which
        weight = source.model.moe_layers[0].experts.w_in
        assert torch.equal(weight, first_weight(step, store))


def test_all_checkpoints_are_named_oldest_first(store: TokenStore, tmp_path: Path) -> None:
    assert checkpoints(write_run(tmp_path / "a", store, (2, 6), 4), "all") == ["2", "best", "6"]
    assert checkpoints(write_run(tmp_path / "b", store, (2, 6), 6), "all") == ["2", "6"]
    assert checkpoints(write_run(tmp_path / "c", store, (), 6), "all") == ["best"]
    assert checkpoints(write_run(tmp_path / "d", store, (2, 6), 4), "last") == ["last"]
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints(write_run(tmp_path / "e", store, (), None), "all")


def test_the_split_asked_for_is_read(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store)
    for split in ("valid", "test"):
        source = opened(run, store, split=split)
        assert source.split == split
        ids = torch.cat([part.ids_T for part in source.read(10**6, 64)])
        assert len(ids) == len(store.split(split)) - 1


def test_a_corpus_that_moved_is_found_where_training_had_it(
    store: TokenStore, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", store)
    source = open_run(run, data_dir=tmp_path / "elsewhere", device=torch.device("cpu"))
    assert isinstance(source, CorpusSource)
    assert source.store.path == store.path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"which": "7"}, "no checkpoint '7'.*4, last, best"),
        ({"split": "vaild"}, "no split 'vaild'.*Did you mean 'valid'"),
    ],
)
def test_what_is_not_there_is_said(
    store: TokenStore, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    run = write_run(tmp_path / "run", store)
    with pytest.raises(UserError, match=said):
        opened(run, store, **options)


def test_another_corpus_under_the_same_name_is_refused(
    store: TokenStore, corpus_dir: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", store)
    shutil.copytree(corpus_dir / "words", tmp_path / "data" / "sources")
    other = TokenStore.open(tmp_path / "data" / "sources")
    with pytest.raises(UserError, match="not the one this run was trained on") as caught:
        opened(run, other)
    assert caught.value.code == EXIT_DATA


def test_a_model_without_experts_is_refused(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store, recipe=recipe(model={"pattern": "sf"}))
    with pytest.raises(UserError, match="no experts"):
        opened(run, store)


def test_damage_is_said(store: TokenStore, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", store)
    weights = checkpoint.find(run, "last") / checkpoint.MODEL
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="checksum"):
        opened(run, store, "last")


@pytest.mark.parametrize("activation", ["swiglu", "relu"])
def test_hidden_units_are_what_an_expert_is_made_of(
    store: TokenStore, tmp_path: Path, activation: str
) -> None:
    changed = recipe(model={"activation": activation, "bias": activation == "relu"})
    source = opened(write_run(tmp_path / "run", store, recipe=changed), store)
    experts = source.model.moe_layers[1].experts
    parts = source.weights(1)
    x = torch.randn(7, 32)
    for expert in range(4):
        if activation == "swiglu":
            gate, up, leaving = (part[expert] for part in parts)
            out = (F.silu(x @ gate.T) * (x @ up.T)) @ leaving
        else:
            entering, leaving = (part[expert] for part in parts)
            out = F.relu(torch.cat([x, torch.ones(7, 1)], 1) @ entering.T) @ leaving
            assert experts.b_out is not None
            out = out + experts.b_out[expert]
        assert torch.allclose(source.dense(1, x)[expert], out, atol=1e-5)


def test_tokens_are_shown_as_text(store: TokenStore, tmp_path: Path) -> None:
    source = opened(write_run(tmp_path / "run", store), store)
    ids = store.tokenizer.encode("def f").tolist()
    assert source.text_of(ids) == ["d", "e", "f", " ", "f"]


def test_windows_measure_evenly_spread_blocks_and_read_none_twice() -> None:
    tokens = np.arange(10_001, dtype=np.uint16)
    parts = list(windows(tokens, 50, 4000, 1000, False, 400))
    seen = torch.cat([inputs.flatten() for inputs, _, _ in parts])
    assert len(seen) == 4000 == len(seen.unique())
    assert all(torch.equal(targets, inputs + 1) for inputs, targets, _ in parts)
    assert max(inputs.numel() for inputs, _, _ in parts) <= 400
    rows = torch.cat([inputs for inputs, _, measured in parts if measured])
    assert rows.shape == (20, 50)
    gaps = rows[:, 0].sort().values.diff()
    assert gaps.max() < 2 * gaps.min()
    assert rows[:, 0].max() - rows[:, 0].min() > 9000


def test_a_large_vocabulary_means_fewer_tokens_at_once() -> None:
    assert tokens_together(205) == 8192
    assert tokens_together(267_735) * 267_735 <= 2**27


def test_history_tells_losses_and_probes(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("run_started", 0, total_steps=9000)
    for step in range(1, 9001):
        log.emit("train", step, loss_nats=3.0, bpc=None if step == 7 else 4.0)
    log.emit("eval", 9000, split="valid", loss_nats=2.0, bpc=2.9, best=True)
    for step, first in ((10, 0.5), (20, 0.9)):
        log.emit(
            "router",
            step,
            layers=[{"layer": 0, "load": [first, 1 - first], "load_cv": 0.1, "dead": [1]}],
        )
        log.emit("similarity", step, tokens=64, layers=[{"layer": 0, "mean": float("nan")}])
    log.close()
    history = read_history(tmp_path / "events.jsonl")
    trained = [point for point in history.losses if point.split == "train"]
    assert LOSSES_KEPT / 2 < len(trained) <= LOSSES_KEPT + 1
    assert trained[-1].step == 9000
    (valid,) = [point for point in history.losses if point.split == "valid"]
    assert (valid.step, valid.bpc, valid.best) == (9000, 2.9, True)
    first, second = history.probes
    assert (first.step, first.cka_mean, first.dead) == (10, [None], [1])
    assert first.drift == [None]
    assert second.drift == [pytest.approx(0.4)]
    assert (history.total_steps, history.probe_tokens) == (9000, 64)


def test_history_passes_over_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    strange = [
        {"kind": "train", "step": 1, "loss_nats": "much"},
        {"kind": "train"},
        {"kind": "dance", "step": 2},
        {"kind": "router", "step": 3, "layers": None},
        {"kind": "similarity", "step": 3},
        ["no", "event"],
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in strange) + '{"kind": "tr')
    history = read_history(path)
    assert [(point.step, point.loss_nats) for point in history.losses] == [(1, None)]
    assert [point.step for point in history.probes] == [3]
    assert read_history(tmp_path / "none").losses == []
