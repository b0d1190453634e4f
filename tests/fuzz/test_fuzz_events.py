"""Event files that somebody or something has damaged: no reader stops, hangs or fails at them."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.collapse.measure.training_history import read_history
from tests.fuzz.driving import ODD, cases, damaged, disturbed, require_clear, simsmoe
from tests.monitor.driving import monitor, ready
from tests.monitor.made_run import event
from tests.train.tiny import recipe

KINDS = ("run_started", "train", "eval", "router", "similarity", "checkpoint", "warning")


def whole_run() -> list[dict[str, Any]]:
    """The events of a small run in which every kind occurs."""
    similar = [[1.0, 0.25], [0.25, 1.0]]
    layer = {"layer": 1, "load": [0.5, 0.5], "load_cv": 0.1, "dead": [1], "entropy_nats": 0.5}
    found = [
        event(
            "run_started",
            0,
            name="run",
            recipe=recipe().model_dump(mode="json"),
            parameters=10,
            tokens_per_step=128,
            total_steps=20,
            unit="byte",
            device="cpu",
            precision="fp32",
        )
    ]
    for step in range(0, 20, 4):
        found += [
            event(
                "train",
                step,
                loss_nats=2.0,
                bpc=3.0,
                losses={"balance": 1.0},
                lr=0.1,
                grad_norm=1.0,
                tokens=128,
                tokens_per_s=10.0,
                step_ms=5.0,
                similarity={"pairs_due": 1.0, "mean": 0.5},
                metrics={"k": 2.0},
            ),
            event(
                "eval",
                step,
                split="valid",
                loss_nats=2.0,
                bpc=3.0,
                perplexity=7.0,
                best=True,
                tokens=10,
                tokens_per_s=1.0,
            ),
            event("router", step, layers=[layer | {"entropy_of_mean_nats": 0.6}]),
            event(
                "similarity",
                step,
                tokens=64,
                measure="cka",
                layers=[{"layer": 1, "cka": similar, "mean": 0.25, "shared": similar}],
            ),
            event("checkpoint", step, path=f"checkpoints/step-{step:07d}"),
        ]
    end = {"test_bpc": 3.0, "test_loss_nats": 2.0, "best_step": 4}
    return [*found, event("warning", 19, message="so what"), event("run_finished", 20, **end)]


EVENTS = whole_run()
STRANGE = (
    lambda rng: b"[" * rng.choice([10, 5000, 300_000]),
    lambda rng: b'{"a":' * rng.choice([10, 100_000]),
    lambda rng: b'{"schema":1,"kind":"train","step":' + b"9" * rng.choice([20, 5000]) + b"}",
    lambda rng: b'{"schema":1,"kind":"train","step":3,"loss_nats":1' + b"0" * 400 + b"}",
    lambda rng: b'{"schema":1,"kind":"eval","step":3,"bpc":NaN,"loss_nats":Infinity}',
    lambda rng: b'{"schema":' + str(rng.choice([0, 2, 99])).encode() + b',"kind":"train","step":3}',
    lambda rng: b'{"schema":1,"kind":"warning","step":3,"message":"' + b"x" * (9 << 20) + b'"}',
    lambda rng: b'{"schema":1,"kind":"warning","step":3,"message":"\\u001b[2J\\u0000\\ud800"}',
    lambda rng: b"\x00" * rng.randrange(1, 100_000),
    lambda rng: b"\n" * 1000,
    lambda rng: rng.randbytes(2000),
)


def disturbed_file(rng: random.Random) -> bytes:
    """The events of the run with something wrong in them."""
    events = [dict(e) for e in EVENTS]
    for _ in range(rng.randint(0, 6)):
        place = rng.randrange(len(events))
        how = rng.randrange(4)
        if how == 0:
            events[place] = disturbed(events[place], rng)
        elif how == 1 and isinstance(events[place], dict):
            events[place] = {**events[place], "time": rng.choice(ODD), "step": rng.choice(ODD)}
        elif how == 2:
            events.insert(rng.randrange(len(events)), events[place])
        else:
            rng.shuffle(events)
    lines = [json.dumps(e).encode() for e in events]
    if rng.random() < 0.4:
        lines.insert(rng.randrange(len(lines)), rng.choice(STRANGE)(rng))
    content = b"\n".join(lines) + rng.choice([b"\n", b"\n", b"\n", b"", b"\r\n"])
    return damaged(content, rng) if rng.random() < 0.4 else content


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run "whole", and "odd", whose events the cases write."""
    from simsmoe_cli.recipe.load import dump_recipe

    folder = tmp_path_factory.mktemp("runs")
    for name in ("whole", "odd"):
        (folder / name).mkdir()
        (folder / name / "recipe.yaml").write_text(dump_recipe(recipe()))
        content = b"".join(json.dumps(e).encode() + b"\n" for e in EVENTS)
        (folder / name / "events.jsonl").write_bytes(content)
    (folder / "again").symlink_to("odd")
    return folder


def test_readers_hold_against_any_event_file(runs: Path) -> None:
    for rng in cases(220, seed=15):
        events = runs / "odd/events.jsonl"
        events.write_bytes(disturbed_file(rng))
        command = rng.choice(["once", "json", "compare", "compare", "history"])
        if command == "history":
            read_history(events)
            continue
        line = {
            "once": ["monitor", "odd", "--once"],
            "json": ["monitor", "odd", "--once", "--json"],
            "compare": ["compare", "odd", "whole", "--json"] if rng.random() < 0.5 else [],
        }[command] or ["compare", "odd", "whole"]
        outcome = simsmoe(*line, "--runs-dir", str(runs))
        require_clear(outcome, [0])
        if "--json" in line:
            json.loads(outcome.out, parse_constant=lambda name: pytest.fail(name))


def test_the_undamaged_run_is_shown(runs: Path) -> None:
    for line in (["monitor", "whole", "--once"], ["compare", "whole", "again"]):
        (runs / "odd/events.jsonl").write_bytes((runs / "whole/events.jsonl").read_bytes())
        outcome = simsmoe(*line, "--runs-dir", str(runs))
        require_clear(outcome, [0])
        assert "3.000" in outcome.out


def test_a_dashboard_goes_on_whatever_is_appended(runs: Path) -> None:
    events = runs / "odd/events.jsonl"
    whole = (runs / "whole/events.jsonl").read_bytes()

    async def watch() -> None:
        events.write_bytes(whole)
        app = monitor([runs / "odd"], runs)
        async with app.run_test(size=(100, 30)) as pilot:
            await ready(pilot)
            for rng in cases(6, seed=16):
                how = rng.choice(["ab", "wb"])
                with open(events, how) as file:
                    file.write(disturbed_file(rng))
                await pilot.press(rng.choice(["tab", "right", "left", "space", "l"]))
                await pilot.pause(0.06)
            events.write_bytes(whole)
            await ready(pilot)
            for _ in range(100):
                history = app.screen.followers[0].history  # type: ignore[attr-defined]
                if history.status == "finished" and history.step == 20:
                    break
                await pilot.pause(0.05)
            assert history.step == 20

    asyncio.run(watch())
