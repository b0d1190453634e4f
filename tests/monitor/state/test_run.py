"""What is known of a run: all that its events say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.monitor.draw.palette import PRINTED
from simsmoe_cli.monitor.panels.curves import resume_marks
from simsmoe_cli.monitor.panels.score import PANEL as SCORE
from simsmoe_cli.monitor.read.tail import Batch, Tail
from simsmoe_cli.monitor.state.alerts import Thresholds
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import Selection, ShownRun, View
from simsmoe_cli.run.event_log import EventLog, read_events
from tests.monitor.made_run import BEGAN, STEP_S, cka_of, event, score, write_run

LATER = BEGAN + STEP_S * 2000 + 1


def read(folder: Path) -> RunHistory:
    history = RunHistory(folder)
    history.take(Tail(folder / "events.jsonl").poll(), now=LATER)
    return history


def applied(*given_events: dict[str, Any], **options: Any) -> RunHistory:
    history = RunHistory(Path("some-run"), **options)
    history.apply(given_events)
    return history


@pytest.fixture
def made(tmp_path: Path) -> RunHistory:
    return read(write_run(tmp_path / "made"))


def test_a_run_that_has_not_begun_waits(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "soon")
    history.take(Batch(missing=True))
    assert (history.status, history.name, history.step) == ("waiting", "soon", 0)
    assert history.eta_seconds() is None
    assert list(history.log) == []
    assert math.isnan(history.last("train"))


def test_who_the_run_is(made: RunHistory) -> None:
    assert (made.name, made.recipe_name, made.router) == ("made", "quickstart", "smoe")
    assert (made.similarity, made.unit, made.device) == ("calibrated", "byte", "cpu")
    assert (made.parameters, made.tokens_per_step, made.total_steps) == (3_210_000, 2048, 2000)
    assert (made.step, made.progress, made.status) == (2000, 1.0, "finished")
    assert (made.scoring.name, made.scoring.in_words) == ("BPC", "bits per byte")
    assert made.reason == "all steps done"


def test_series_hold_what_was_logged(made: RunHistory) -> None:
    train = made.series["train"].points()
    assert train.step.tolist() == list(range(50, 2001, 50))
    assert train.mean.tolist() == pytest.approx([score(s, 1.0) for s in train.step], abs=1e-4)
    assert train.time[0] == BEGAN + STEP_S * 50
    assert made.series["valid"].points().step.tolist() == list(range(250, 2001, 250))
    assert set(made.named("loss.")) == {"balance", "z"}
    assert {"lr", "grad_norm", "tokens_per_s", "step_ms", "pairs.due"} <= set(made.series)
    assert list(made.named("load_cv.")) == ["0", "1", "2", "3"]
    best = made.series["best"].points().mean
    assert (np.diff(best) <= 0).all()
    assert made.best_score == pytest.approx(best[-1])
    tested = [e for e in read_events(made.path / "events.jsonl") if e.get("split") == "test"]
    assert made.test_score == tested[-1]["bpc"]


def test_mean_similarity_agrees_with_the_matrices(made: RunHistory) -> None:
    frame = made.similarities[-1]
    for number in (0, 1, 2, 3):
        layer = frame.layer(number)
        assert layer is not None
        pairs = layer.cka[np.triu_indices(layer.experts, 1)]
        assert frame.means[number] == pytest.approx(np.nanmean(pairs), abs=1e-5)
        assert made.last(f"cka.{number}") == pytest.approx(frame.means[number])
    assert made.last("cka") == pytest.approx(np.mean(list(frame.means.values())))


def test_similarity_plays_back_over_training(made: RunHistory) -> None:
    steps = [frame.step for frame in made.similarities]
    assert steps == list(range(0, 2001, 250))
    assert made.similarities.at(-1) == 0
    assert made.similarities.at(499) == 1
    assert made.similarities.at(10**9) == len(steps) - 1
    layer = made.similarities[made.similarities.at(500)].layer(2)
    assert layer is not None
    assert layer.cka[1, 4] == pytest.approx(cka_of(2, 1, 4, 500, 1.0))
    undefined = made.similarities[0].layer(3)
    assert undefined is not None
    assert np.isnan(undefined.cka[6]).all()
    assert made.similarities[0].layer(17) is None


def test_the_newest_router_event_has_loads_and_the_dead(made: RunHistory) -> None:
    layers = made.router_layers
    assert [layer.layer for layer in layers] == made.layers == [0, 1, 2, 3]
    assert [layer.dead for layer in layers] == [(), (), (3,), ()]
    assert float(layers[0].load.sum()) == pytest.approx(1, abs=1e-4)
    (died,) = [alert for alert in made.alerts if alert.kind == "dead"]
    assert (died.layer, died.label, died.experts, died.step) == (2, "5", (3,), 1250)
    assert died.text == "layer 5: expert 3 is dead (under 1% of a fair share)"


@pytest.mark.parametrize(
    ("recipe", "labels"),
    [
        ({"model": {"pattern": "sgsfss", "repeats": 2}}, ["1", "7", "2"]),
        ({"model": {"pattern": "sg" * 3, "repeats": 1}}, ["1", "3", "5"]),
        ({"model": {"pattern": ["g"], "repeats": "many"}}, ["0", "1", "2"]),
        ({}, ["0", "1", "2"]),
    ],
)
def test_layers_are_called_what_the_model_calls_them(
    recipe: dict[str, Any], labels: list[str]
) -> None:
    """By the recipe's pattern; where an event has none, or fewer layers, by their places."""
    dead = [{"layer": n, "load": [0.0, 1.0], "load_cv": 2.0, "dead": [0]} for n in range(3)]
    history = applied(
        event("run_started", 0, recipe=recipe),
        *(event("router", step, layers=dead) for step in (1, 2)),
    )
    assert history.layers == [0, 1, 2]
    assert [history.label(layer) for layer in history.layers] == labels
    told = [alert.text.partition(":")[0] for alert in history.alerts if alert.kind == "load_cv"]
    assert told == [f"layer {label}" for label in labels]


def test_words_of_what_happened_are_in_order(made: RunHistory) -> None:
    texts = [line.text for line in made.log]
    assert texts[0] == "training begins, 2,000 steps in all"
    assert any("valid" in text and "best so far" in text for text in texts)
    assert "saved checkpoints/step-0001000" in texts
    assert texts[-1] == "finished: all steps done"
    assert [line.time for line in made.log] == sorted(line.time for line in made.log)


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_how_a_run_ended_is_its_status(status: str) -> None:
    end = event("run_finished", 9, status=status, reason="SIGTERM")
    history = applied(event("train", 9, loss_nats=1.0), end)
    assert (history.status, history.reason) == (status, "SIGTERM")
    history.apply([event("train", 10, loss_nats=1.0)])
    assert history.status_at(BEGAN + 21) == "training"


def test_a_run_is_stale_after_its_own_patience() -> None:
    history = applied(*(event("train", s, loss_nats=1.0) for s in range(0, 1000, 50)))
    last = history.last_time
    assert history.patience_s == 20 * 50 * STEP_S
    assert history.status_at(last + 1999) == "training"
    assert history.status_at(last + 2001) == "stale"
    told = applied(event("train", 1), thresholds=Thresholds(silent_after_s=5))
    assert told.status_at(told.last_time + 4) == "training"
    assert told.status_at(told.last_time + 6) == "stale"


def test_a_live_run_that_falls_silent_alerts_once_and_is_heard_again() -> None:
    history = RunHistory(Path("run"), Thresholds(silent_after_s=10))
    first = event("train", 1, loss_nats=1.0)
    now = first["time"]
    assert history.take(Batch([first]), now=now) == []
    assert history.take(Batch(), now=now + 9) == []
    (alert,) = history.take(Batch(), now=now + 12)
    assert (alert.kind, alert.recovered) == ("silent", False)
    assert history.take(Batch(), now=now + 60) == []
    (alert,) = history.take(Batch([event("train", 2)]), live=True, now=now + 70)
    assert alert.recovered


def test_clocks_of_two_machines_may_differ() -> None:
    """The training machine's clock is an hour behind; its events arrive all the same."""
    history = RunHistory(Path("run"))
    batch = Batch([event("train", 1, loss_nats=1.0)])
    assert history.take(batch, live=True, now=BEGAN + 3600) == []
    assert history.status_at(BEGAN + 3601) == "training"
    assert history.status_at(BEGAN + 3600 + 121) == "stale"


def test_the_time_left_follows_the_pace() -> None:
    started = event("run_started", 0, total_steps=1000)
    steps = [event("train", s, loss_nats=1.0) for s in range(0, 501, 50)]
    history = applied(started, *steps)
    assert history.eta_seconds(history.last_time) == pytest.approx(500 * STEP_S)
    assert history.eta_seconds(history.last_time + 30) == pytest.approx(500 * STEP_S - 30)
    # A night between two sessions is no pace.
    late = [{**event("train", s, loss_nats=1.0), "time": BEGAN + 40_000 + s} for s in (550, 600)]
    history.apply(late)
    left = history.eta_seconds(history.last_time)
    assert left is not None
    assert left <= 400 * STEP_S


def test_a_classifier_has_an_accuracy_and_the_highest_is_the_best() -> None:
    valid = [
        event("eval", step, split="valid", loss_nats=0.1, bpc=None, accuracy=accuracy, best=True)
        for step, accuracy in ((1, 0.5), (2, 0.75), (3, 0.625))
    ]
    history = applied(
        event("run_started", 0, unit="text", task="letters", total_steps=10),
        event("train", 1, loss_nats=1.0, bpc=None, accuracy=0.25),
        *valid,
        event("eval", 3, split="test", loss_nats=0.1, bpc=None, accuracy=0.7),
    )
    assert (history.scoring.name, history.best_step) == ("accuracy", 2)
    assert (history.last("train"), history.best_score, history.test_score) == (0.25, 0.75, 0.7)
    assert history.series["best"].points().mean.tolist() == [0.5, 0.75, 0.75]
    assert [line.text for line in history.log][-2:] == [
        "valid accuracy 62.50%",
        "test accuracy 70.00%",
    ]
    assert "loss" not in " ".join(line.text for line in history.log)


def test_tokens_that_are_no_characters_have_a_loss_and_a_perplexity() -> None:
    history = applied(
        event("run_started", 0, unit="word", total_steps=10),
        event("train", 1, loss_nats=6.0, bpc=None),
        event("eval", 1, split="valid", loss_nats=5.0, bpc=None, perplexity=148.4, best=True),
        event("eval", 1, split="test", loss_nats=5.5, bpc=None, perplexity=244.7, best=True),
    )
    assert (history.scoring.name, history.scoring.in_words) == ("loss", "nats per word")
    assert (history.last("train"), history.best_score, history.test_score) == (6.0, 5.0, 5.5)
    assert "perplexity 148.4" in history.log[1].text
    assert list(history.alerts) == []


def test_a_loss_that_is_null_is_not_finite_but_a_bpc_that_is_null_is_nothing() -> None:
    history = applied(event("train", 1, loss_nats=None, bpc=None), event("train", 2, loss_nats=2.0))
    assert [(a.kind, a.recovered) for a in history.alerts] == [
        ("non_finite", False),
        ("non_finite", True),
    ]
    assert np.isnan(history.series["train"].points().mean).tolist() == [True, False]


def test_alerts_follow_the_order_of_events_within_a_batch() -> None:
    layers = [{"layer": 0, "load": [0.5, 0.5], "load_cv": 2.0, "dead": []}]
    history = applied(
        event("train", 1, loss_nats=None),
        event("router", 1, layers=layers),
        event("router", 2, layers=layers),
        event("train", 3, loss_nats=1.0),
    )
    assert [alert.kind for alert in history.alerts] == ["non_finite", "load_cv", "non_finite"]


def test_a_file_cut_back_forgets_what_it_said(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    log, history, tail = EventLog(path), RunHistory(path.parent), Tail(path)
    log.emit({"kind": "train", "step": 1, "loss_nats": 5.0})
    kept = log.position()
    log.emit({"kind": "train", "step": 2, "loss_nats": 4.0})
    log.close()
    history.take(tail.poll())
    log = EventLog(path, keep_bytes=kept)
    log.emit({"kind": "train", "step": 2, "loss_nats": 3.0})
    log.close()
    history.take(tail.poll())
    assert history.series["train"].points().mean.tolist() == [5.0, 3.0]
    assert "was replaced" in history.log[0].text


def test_a_file_that_vanishes_is_said_and_what_is_known_stays(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    history, tail = RunHistory(folder), Tail(folder / "events.jsonl")
    history.take(tail.poll())
    (folder / "events.jsonl").unlink()
    for _ in range(3):
        history.take(tail.poll())
    assert history.missing
    assert history.step == 2000
    assert sum("gone" in line.text for line in history.log) == 1


def test_notices_of_the_tail_are_in_the_log() -> None:
    history = RunHistory(Path("run"))
    history.take(Batch(notices=["events of schema 2 are skipped"]))
    assert [(line.level, line.text) for line in history.log] == [
        ("warning", "events of schema 2 are skipped")
    ]


def test_texts_of_events_cannot_write_to_the_terminal() -> None:
    history = applied(
        event("run_started", 0, recipe={"name": "a\x1b[31mb\nc"}, unit="x" * 5000),
        event("warning", 0, message="line one\nline two\x07\x1b]0;title\x07"),
        event("train", 1, losses={"\x1b[2J": 1.0}),
    )
    shown = [history.recipe_name, history.unit, *history.series, *(x.text for x in history.log)]
    assert all(text.isprintable() and len(text) <= 400 for text in shown)
    assert history.recipe_name == "a [31mb c"


def test_one_batch_or_many_make_the_same_history(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    whole = list(read_events(folder / "events.jsonl"))
    one, many = RunHistory(folder), RunHistory(folder)
    one.apply(whole)
    for single in whole:
        many.apply([single])
    assert one.series.keys() == many.series.keys()
    for name, series in one.series.items():
        for field in ("step", "time", "mean", "low", "high"):
            np.testing.assert_array_equal(
                getattr(series.points(), field), getattr(many.series[name].points(), field), name
            )
    assert list(one.log) == list(many.log)


def test_frames_are_thinned_evenly_and_keep_the_first_and_the_last() -> None:
    history = RunHistory(Path("run"))
    for step in range(3000):
        layers = [{"layer": 0, "mean": 0.5}]
        history.apply([event("similarity", step, layers=layers)])
    steps = [frame.step for frame in history.similarities]
    assert 200 < len(steps) <= 512
    assert (steps[0], steps[-1]) == (0, 2999)
    assert len(set(np.diff(steps[:-1]))) == 1


@pytest.mark.parametrize("corpus", ["sources", "words"])
def test_a_real_training_is_known_to_its_last_number(
    corpus: str, corpus_dir: Path, tmp_path: Path
) -> None:
    """The trainer and the monitor meet only in the run folder; here they do."""
    import torch

    from simsmoe_cli.run.folder import RunDir
    from simsmoe_cli.train import session
    from simsmoe_cli.train.plan_pretraining import Plan
    from tests.train.tiny import recipe

    tokenizer = "bytes" if corpus == "sources" else "words"
    made = recipe(
        data={"corpus": corpus, "tokenizer": tokenizer}, similarity={"preset": "calibrated"}
    )
    run = RunDir(tmp_path / "run")
    session.train(Plan(made, run, None), session.open_store(made, corpus_dir), torch.device("cpu"))
    history, tail = RunHistory(run.path), Tail(run.events)
    history.take(tail.poll())
    assert not tail.skipped
    assert (history.status, history.step, history.total_steps) == ("finished", 8, 8)
    assert (history.router, history.similarity) == (made.moe.router, "calibrated")
    assert {"loss.balance", "loss.similarity", "pairs.due", "cka.1", "load_cv.1"} <= set(
        history.series
    )
    assert history.scoring.name == ("BPC" if corpus == "sources" else "loss")
    for name in ("train", "valid", "best", "lr", "grad_norm", "tokens_per_s", "step_ms", "cka"):
        assert math.isfinite(history.last(name)), name
    (end,) = (e for e in read_events(run.events) if e["kind"] == "run_finished")
    assert history.test_score == end["test_bpc" if corpus == "sources" else "test_loss_nats"]
    assert history.best_step == end["best_step"]
    assert [frame.step for frame in history.similarities] == [0, 4, 8]
    layer = history.similarities[-1].layer(1)
    assert layer is not None
    assert layer.cka.shape == layer.shared.shape == (4, 4)


def test_the_dead_are_those_of_the_last_event_that_judged_them() -> None:
    def router(step: int, dead: list[int] | None) -> dict[str, Any]:
        layer = {"layer": 0, "load": [0.0, 1.0], "slots": [0, 5000 * step], "dead": dead}
        return event("router", step, layers=[layer])

    history = applied(router(1, None))
    (layer,) = history.router_layers
    assert (layer.dead, history.routers[-1].dead) == (None, None)
    history = applied(router(1, None), router(2, [0]), router(3, None))
    (layer,) = history.router_layers
    assert (layer.dead, layer.slots, layer.judged) == ((0,), 10_000, False)
    assert list(history.alerts) == []  # judged once
    history.apply([router(4, [0])])
    assert [alert.experts for alert in history.alerts] == [(0,)]


def test_a_resumed_run_with_other_settings_is_marked_where_results_change() -> None:
    changes = [{"setting": "train.lr", "before": 0.001, "after": 0.01}]
    watched = [{"setting": "train.log_every", "before": 10, "after": 20}]
    history = applied(
        event("run_started", 0),
        event("train", 98, loss_nats=1.0),
        event("run_started", 98, changes=changes),
        event("run_started", 120, changes=watched),
    )
    assert history.changes == [98]
    told = [line.text for line in history.log if "continues" in line.text]
    assert told == [
        "training continues at step 98 with train.lr 0.001 -> 0.01",
        "training continues at step 120 with train.log_every 10 -> 20",
    ]
    view = View((ShownRun(history),), Selection(), PRINTED, 0.0)
    assert resume_marks(view) == [(98.0, view.color_of(0))]
    lines = [line.plain for line in SCORE.draw(view, 78, 20).lines]
    assert any("┊" in line for line in lines)
