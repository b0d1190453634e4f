"""The JSON of runs says what their events say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsmoe_cli.monitor.json_snapshot import SNAPSHOT_SCHEMA, read, snapshot
from simsmoe_cli.monitor.state.alerts import Thresholds
from simsmoe_cli.run.event_log import finite, read_events
from tests.monitor.made_run import BEGAN, STEP_S, cka_of, write_run

NOW = BEGAN + STEP_S * 2000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made")


def test_the_snapshot_agrees_with_the_events(made: Path) -> None:
    found = snapshot([read(made)], now=NOW)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["schema"], found["time"]) == (SNAPSHOT_SCHEMA, NOW)
    (run,) = found["runs"]
    by_kind: dict[str, list[dict[str, object]]] = {}
    for e in read_events(made / "events.jsonl"):
        by_kind.setdefault(e["kind"], []).append(e)
    train = by_kind["train"][-1]
    for name in ("lr", "grad_norm", "tokens_per_s", "step_ms", "losses"):
        assert run[name] == train[name]
    assert run["train"] == train["bpc"]
    splits = {e["split"]: e["bpc"] for e in by_kind["eval"]}
    assert (run["valid"], run["test"]) == (splits["valid"], splits["test"])
    assert (run["status"], run["step"], run["total_steps"]) == ("finished", 2000, 2000)
    assert run["best"] == min(e["bpc"] for e in by_kind["eval"] if e["split"] == "valid")
    assert run["eta_s"] is None
    load = by_kind["router"][-1]["layers"]
    assert [layer["dead"] for layer in run["load"]["layers"]] == [[], [], [3], []]
    for of in (run["load"], run["cka"]):
        assert [layer["layer"] for layer in of["layers"]] == [0, 1, 2, 3]
        assert [layer["label"] for layer in of["layers"]] == ["1", "3", "5", "7"]
    assert (run["alerts"][-1]["layer"], run["alerts"][-1]["label"]) == (2, "5")
    for mine, theirs in zip(run["load"]["layers"], load, strict=True):
        assert mine["load"] == pytest.approx(theirs["load"], rel=1e-6)
    for mine, theirs in zip(run["cka"]["layers"], by_kind["similarity"][-1]["layers"], strict=True):
        assert mine["mean"] == theirs["mean"]
        pairs = {(i, j): cka_of(mine["layer"], i, j, 2000, 1.0) for j in range(8) for i in range(j)}
        highest = max(value for value in pairs.values() if value is not None)
        assert mine["highest"] == pytest.approx(highest, rel=1e-6)
        assert pairs[tuple(mine["pair"])] == highest
    assert run["alerts"][-1]["kind"] == "dead"
    assert run["skipped"] == {}


def test_the_snapshot_of_a_run_that_has_not_begun_is_full_of_nulls(tmp_path: Path) -> None:
    (run,) = snapshot([read(tmp_path / "soon")])["runs"]
    assert (run["status"], run["step"], run["load"], run["cka"]) == ("waiting", 0, None, None)
    assert run["train"] is run["recipe"] is run["last_event_time"] is None


def test_every_field_of_the_snapshot_is_documented(made: Path) -> None:
    from simsmoe_cli.monitor import json_snapshot as module

    assert module.__doc__ is not None
    (run,) = snapshot([read(made)])["runs"]
    for name in run:
        assert name in module.__doc__, name


def test_thresholds_decide_what_is_an_alert(made: Path) -> None:
    calm = read(made, Thresholds(load_cv_above=9, cka_above=1)).history
    strict = read(made, Thresholds(load_cv_above=0.1, cka_above=0.1)).history
    assert {alert.kind for alert in calm.alerts} == {"dead"}
    assert {alert.kind for alert in strict.alerts} == {"dead", "load_cv", "cka"}


def test_skipped_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('junk\n{"schema":9,"kind":"train","step":1}\n')
    (run,) = snapshot([read(tmp_path)])["runs"]
    assert run["skipped"] == {"broken": 1, "newer": 1}


def test_nothing_in_a_snapshot_is_what_json_cannot_hold(made: Path) -> None:
    found = snapshot([read(made)])
    assert finite(found) == found
