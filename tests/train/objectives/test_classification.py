"""Fine-tuning: what is taken over, what is computed and reported, and that it resumes exactly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simsmoe_cli.data.tasks.batches import TaskBatches
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.classification import some
from simsmoe_cli.train.probes import probe
from simsmoe_cli.train.signals import Stopped
from tests.no_waiting import NoWaiting
from tests.train.test_resume import assert_same_run
from tests.train.test_routers import sections
from tests.train.tiny import events, without_times
from tests.train.transfer import objective_of, planned, pretrain

Make = Callable[..., Trainer[TaskEvaluation]]
CPU = torch.device("cpu")
# Routers that differ in what they keep, look at or do: a buffer, token ids, two stages, dense
# experts, empty slots, one expert a token.
ROUTERS = [
    ("smoe", "published"),
    ("switch", "calibrated"),
    ("stablemoe", "none"),
    ("competesmoe, competing", "calibrated"),
    ("hash", "published"),
    ("loss-free", "none"),
    ("remoe", "calibrated"),
    ("expert-choice", "none"),
]


# What is computed


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_model_learns_the_task(finetune: Make, pooling: str) -> None:
    run = finetune(f"finetune.pooling={pooling}", "finetune.epochs=8")
    result = run.train()
    assert result.accuracy >= 0.9
    assert result.accuracy == events(run.run)[-1]["test_accuracy"]
    accuracies = [event["accuracy"] for event in events(run.run, "train")]
    assert accuracies[-1] > accuracies[0]


@pytest.mark.parametrize(("case", "preset"), ROUTERS)
def test_every_kind_of_router_fine_tunes_and_resumes(
    case: str, preset: str, data_dir: Path, tmp_path: Path, finetune: Make
) -> None:
    """A stopped run goes on as one that never stopped, bit for bit."""
    train = {"steps": 2, "validate_every": 2, "probe_every": 0, "checkpoint_every": 0}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), **sections(case, train=train))
    changes = [
        f"similarity.preset={preset}",
        "finetune.epochs=2",
        "train.checkpoint_every=5",
        "train.log_every=4",
        "train.micro_batches=2",
        "model.dropout=0.1",
    ]
    if preset != "none":
        changes += ["similarity.min_tokens=4", "similarity.tokens=16", "similarity.check_every=0"]
        changes += ["similarity.weight=0.003"]
    whole = finetune(*changes, name="whole", start=start)
    whole.train()
    stopped = finetune(*changes, name="stopped", start=start)
    stopped.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 7 else None
    with pytest.raises(Stopped):
        stopped.train()
    folder = checkpoint.find(stopped.run, "7")
    resumed = finetune(*changes, name="stopped", start=start, resume_from=folder)
    resumed.train()
    assert_same_run(resumed.run, whole.run, "checkpoint")


def test_micro_batches_add_up_to_the_batch(finetune: Make) -> None:
    """Also the last batch of an epoch, which is smaller; the balance loss left out."""
    found = []
    for number in (1, 4):
        run = finetune(
            f"train.micro_batches={number}", "moe.balance_weight=0.0", "train.eps=1e-3",
            name=f"run-{number}",
        )  # fmt: skip
        for _ in range(6):
            run.step()
        window = run.stepper.window.sums
        found.append((dict(run.model.named_parameters()), window["task"], window["accuracy"]))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1][2], found[0][2])


@pytest.mark.parametrize("preset", ["none", "published", "calibrated"])
def test_a_step_does_not_wait_on_the_device(finetune: Make, preset: str) -> None:
    weight = "0" if preset == "none" else "0.003"
    given = [f"similarity.preset={preset}", f"similarity.weight={weight}"]
    run = finetune(*given, "train.micro_batches=2")
    run.step()
    with NoWaiting():
        run.step()


def test_the_best_epoch_is_the_most_accurate(finetune: Make) -> None:
    """The first of equals; its weights are what is tested."""
    run = finetune("finetune.epochs=6")
    result = run.train()
    accuracies = [e["accuracy"] for e in events(run.run, "eval") if e["split"] == "valid"]
    best = 1 + accuracies.index(max(accuracies))
    finished = events(run.run)[-1]
    assert finished["best_step"] == best * 6
    state = checkpoint.read_state(run.run.best)
    assert state["accuracy"] == max(accuracies)
    assert result.accuracy == finished["test_accuracy"]


def test_the_documented_events(finetune: Make) -> None:
    run = finetune("finetune.epochs=2", "train.log_every=3", "train.block=4")
    run.train()
    written = events(run.run)
    assert [(event["kind"], event["step"]) for event in written] == [
        ("run_started", 0), ("warning", 0), ("warning", 0), ("warning", 0),
        ("router", 0), ("similarity", 0),
        ("train", 3), ("train", 6), ("eval", 6), ("router", 6), ("similarity", 6),
        ("checkpoint", 6),
        ("train", 9), ("train", 12), ("eval", 12), ("router", 12), ("similarity", 12),
        ("checkpoint", 12), ("eval", 12), ("run_finished", 12),
    ]  # fmt: skip
    started = written[0]
    assert (started["task"], started["steps_per_epoch"], started["total_steps"]) == (
        "letters", 6, 12,
    )  # fmt: skip
    assert started["labels"] == ["down", "even", "up"]
    assert started["unit"] == "text"
    assert [event["split"] for event in events(run.run, "eval")] == ["valid", "valid", "test"]
    for event in events(run.run, "eval"):
        assert 0 <= event["accuracy"] <= 1
        assert event["bpc"] is None
        assert event["examples"] == (18 if event["split"] == "test" else 12)
    messages = [event["message"] for event in events(run.run, "warning")]
    assert all("texts are longer than 4 tokens, and their start was kept" in m for m in messages)
    lengths = run.objective.batches.split.lengths  # type: ignore[attr-defined]
    assert lengths.max() == 4
    assert [event["tokens"] for event in events(run.run, "train")][1::2] == [
        lengths.sum(), 2 * lengths.sum(),
    ]  # fmt: skip
    for event in events(run.run, "similarity"):
        assert 1 <= event["tokens"] <= 64
    for event in events(run.run, "router"):
        assert all(sum(layer["load"]) == pytest.approx(1) for layer in event["layers"])


def test_tokens_are_those_of_the_batches_read(finetune: Make) -> None:
    batches = finetune().objective.batches  # type: ignore[attr-defined]
    assert isinstance(batches, TaskBatches)
    read = 0
    for step in range(14):
        assert batches.tokens_read(step) == read
        read += int(batches.read(step).mask.sum())


def test_probes_see_no_padding(finetune: Make) -> None:
    """The same numbers from texts padded further, with another token."""
    run = finetune()
    run.step()
    ids_BM, real_T = run.objective.probe_batch()
    assert real_T is not None
    assert 0 < len(real_T) < ids_BM.numel()
    more = 5
    padded_BM = F.pad(ids_BM, (0, more), value=3)
    row_T = real_T // ids_BM.shape[1]
    found = [
        probe(run.model, batch_BM, StepContext(step=1, total_steps=9, real_T=places_T), "fp32")
        for batch_BM, places_T in ((ids_BM, real_T), (padded_BM, real_T + more * row_T))
    ]
    ours, theirs = found
    for layer, other in zip(
        [*ours.router, *ours.similarity], [*theirs.router, *theirs.similarity], strict=True
    ):
        assert layer.keys() == other.keys()
        for name, value in layer.items():
            if value is None:  # too few shared tokens
                assert other[name] is None
            else:
                np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(ours.cka, theirs.cka, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(ours.shared, theirs.shared)
    assert ours.tokens == theirs.tokens == len(real_T)


def test_fewer_examples(finetune: Make) -> None:
    run = finetune("finetune.examples=10", "finetune.epochs=3")
    assert run.settings.steps == 3 * 2
    seen: set[int] = set()
    batches = run.objective.batches  # type: ignore[attr-defined]
    for step in range(2):
        seen |= set(batches.read(step).index.tolist())
    assert seen == set(range(10))
    everything = list(range(42))
    drawn = some(everything, 10, seed=3)  # type: ignore[type-var]
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn)
    assert drawn == some(everything, 10, seed=3)  # type: ignore[type-var]
    assert drawn != some(everything, 10, seed=4)  # type: ignore[type-var]


def test_another_task_under_the_same_name_is_not_resumed(
    finetune: Make, data_dir: Path, tmp_path: Path
) -> None:
    run = finetune("finetune.epochs=1")
    run.train()
    state = checkpoint.read_state(checkpoint.find(run.run, "last"))
    run.objective.require_same(state)
    state["task"]["fingerprint"] = "other"
    with pytest.raises(UserError, match="not the one this run was trained on") as caught:
        run.objective.require_same(state)
    assert caught.value.code == EXIT_DATA


def test_seeds_decide_everything(finetune: Make) -> None:
    logged = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        run = finetune(f"train.seed={seed}", "finetune.epochs=1", "model.dropout=0.1", name=name)
        run.train()
        logged.append([without_times(event) for event in events(run.run, "train")])
    assert logged[0] == logged[1]
    assert logged[0] != logged[2]


def test_a_word_model_fine_tunes(data_dir: Path, tmp_path: Path) -> None:
    """Unknown words are counted and said."""
    words = {"corpus": "words", "tokenizer": "words"}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), data=words)
    objective = objective_of(planned(start, data_dir))
    assert any("became <unk>" in message for message in objective.warnings)
    trainer = Trainer(objective, RunDir(tmp_path / "run"))
    trainer.step()
    assert np.isfinite(trainer.stepper.window.sums["task"].item())
