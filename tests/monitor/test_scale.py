"""A long run in bounded memory: nothing held grows with its length, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.monitor import append_events, opened, write_run
from simsmoe_cli.monitor.read import follow
from simsmoe_cli.monitor.read.follow import Follower
from simsmoe_cli.monitor.state import probes as module
from simsmoe_cli.monitor.state.alerts import Thresholds
from simsmoe_cli.monitor.state.probes import ProbeFiles
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.run import probes

STEPS, LAYERS, EXPERTS, PROBE_EVERY = 12_000, 6, 40, 2000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "long"
    size = write_run(folder, STEPS, LAYERS, EXPERTS, PROBE_EVERY)
    assert size > 3_500_000
    return folder


@pytest.fixture(scope="module")
def history(run: Path) -> RunHistory:
    return opened(run)[0]


def test_what_is_held_is_bounded(history: RunHistory) -> None:
    assert history.total_events == 1 + STEPS + STEPS // 1000 + 2 * (STEPS // PROBE_EVERY)
    assert all(len(series) <= 4096 for series in history.series.values())
    # Matrices stay in their files until someone looks at them.
    assert all(frame.nbytes == 0 for frame in history.similarities)
    assert len(history.similarities) == STEPS // PROBE_EVERY


def test_the_curve_holds_every_extreme(run: Path, history: RunHistory) -> None:
    lines = (run / "events.jsonl").read_text().splitlines()
    train = [event for line in lines if (event := json.loads(line))["kind"] == "train"]
    for name in ("bpc", "grad_norm"):
        values = [event[name] for event in train]
        points = history.series["train" if name == "bpc" else name].points()
        assert points.low.min() == min(values)
        assert points.high.max() == max(values)
        assert points.step[-1] == STEPS


def test_every_layer_of_every_probe_can_be_looked_at(run: Path, history: RunHistory) -> None:
    written = [
        event
        for line in (run / "events.jsonl").read_text().splitlines()
        if (event := json.loads(line))["kind"] == "similarity"
    ]
    assert [frame.step for frame in history.similarities] == [event["step"] for event in written]
    for frame, event in zip(history.similarities, written, strict=True):
        matrices = probes.read(run, event["matrices"])
        for place, expected in enumerate(event["layers"]):
            layer = frame.layer(expected["layer"])
            assert layer is not None
            np.testing.assert_array_equal(layer.cka, matrices.cka_LNN[place])
            np.testing.assert_array_equal(layer.shared, matrices.shared_LNN[place])
            assert frame.means[expected["layer"]] == expected["mean"]


def test_matrices_looked_at_are_forgotten_before_they_fill_the_memory(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2 * 2 * LAYERS * EXPERTS * EXPERTS * 4
    monkeypatch.setattr(module, "CACHE_BYTES", limit)
    files = ProbeFiles(run)
    for _ in range(2):
        for step in range(PROBE_EVERY, STEPS + 1, PROBE_EVERY):
            files.read(f"probes/step-{step:07d}.npz")
            assert files.kept_bytes <= limit


def test_a_probe_is_followed_while_it_is_written(run: Path, tmp_path: Path) -> None:
    text = (run / "events.jsonl").read_bytes()
    path = tmp_path / "events.jsonl"
    begin = text.index(b'"similarity"')
    path.write_bytes(text[:begin])
    shutil.copytree(run / "probes", tmp_path / "probes")
    found, tail, *_ = opened(tmp_path)
    for end in range(begin, text.index(b"\n", begin), 100):
        path.write_bytes(text[:end])
        assert found.take(tail.poll(), live=True) == []
        assert len(found.similarities) == 0
    path.write_bytes(text)
    found.take(tail.poll(), live=True)
    assert found.similarities[0].layer(LAYERS - 1) is not None


def test_what_a_writer_appends_is_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes((run / "events.jsonl").read_bytes())
    found, tail, *_ = opened(tmp_path)
    append_events(tmp_path, STEPS + 1, 0.1, LAYERS, EXPERTS, every_s=0.01)
    found.take(tail.poll(), live=True)
    assert found.step == STEPS + 10
    assert found.similarities[-1].step == STEPS + 6


def test_matrices_that_come_after_their_event_are_found(run: Path, tmp_path: Path) -> None:
    """A copy of a run folder may be behind with some of its files."""
    (tmp_path / "events.jsonl").write_bytes((run / "events.jsonl").read_bytes())
    found, *_ = opened(tmp_path)
    frame = found.similarities[-1]
    assert frame.layer(0) is None
    assert frame.without_matrices() == f"{frame.matrices} is not there"
    shutil.copytree(run / "probes", tmp_path / "probes")
    assert frame.layer(0) is not None
    assert frame.without_matrices() == ""


def test_a_long_run_is_seen_before_it_has_been_read(
    run: Path, history: RunHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head and tail stand in for it, matrices included; then it is what all events make it."""
    monkeypatch.setattr(follow, "PREVIEW_FROM", 1 << 20)
    monkeypatch.setattr(follow, "PORTION_BYTES", 1 << 19)
    follower = Follower(run, Thresholds(), lambda: 0.0)
    follower.preview()
    shown = follower.history
    assert follower.version == 1
    assert (shown.step, shown.total_steps, shown.unit) == (STEPS, STEPS, "byte")
    assert shown.total_events < history.total_events / 2
    begun = shown.series["train"].points()
    assert (np.diff(begun.step) > 0).all()
    assert np.diff(begun.step).max() < STEPS / 20  # the whole course, not only where it ends
    lines = (run / "events.jsonl").read_text().splitlines()
    train = [event for line in lines if (event := json.loads(line))["kind"] == "train"]
    scores = {event["step"]: event["bpc"] for event in train}
    assert begun.mean.tolist() == [scores[step] for step in begun.step]
    for name in ("train", "tokens_per_s", "cka", "load_cv"):
        assert shown.last(name) == history.last(name)
    layer, expected = (found.similarities[-1].layer(LAYERS - 1) for found in (shown, history))
    assert layer is not None
    assert expected is not None
    np.testing.assert_array_equal(layer.cka, expected.cka)
    polls = 1
    while follower.poll()[0]:
        assert follower.history is shown
        polls += 1
    assert polls > 3
    assert follower.history.total_events == history.total_events
    np.testing.assert_array_equal(
        follower.history.series["train"].points().mean, history.series["train"].points().mean
    )


def test_a_run_that_goes_away_while_it_is_read_leaves_no_preview(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PREVIEW_FROM", 1 << 20)
    monkeypatch.setattr(follow, "PORTION_BYTES", 1 << 19)
    path = tmp_path / "events.jsonl"
    path.write_bytes((run / "events.jsonl").read_bytes())
    follower = Follower(tmp_path, Thresholds(), lambda: 0.0)
    follower.preview()
    assert follower.poll()[0]
    path.unlink()
    assert not follower.poll()[0]
    assert follower.history.missing
    assert follower.history.step < STEPS


def test_a_short_run_needs_no_preview(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    follower = Follower(tmp_path, Thresholds(), lambda: 0.0)
    follower.preview()
    assert follower.version == 0
    Follower(tmp_path / "none", Thresholds(), lambda: 0.0).preview()
