"""Event files that somebody or something has damaged: no reader stops, hangs or fails at them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.collapse.measure.training_history import read_history
from simsmoe_cli.files.untrusted import Unreadable
from simsmoe_cli.run import probes
from simsmoe_cli.run.folder import RunDir
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
                layers=[{"layer": 0, "mean": 0.25, "highest": 0.25, "pair": [0, 1]}],
                matrices=f"probes/step-{step:07d}.npz",
            ),
            event(
                "similarity",
                step,
                tokens=64,
                measure="cka",
                layers=[{"layer": 1, "cka": similar, "mean": 0.25, "shared": similar}],
            )
            | {"schema": 1},
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


def write_probe(run: RunDir, step: int) -> None:
    cka = np.array([[[1.0, 0.25], [0.25, 1.0]]], dtype=np.float32)
    shared = np.array([[[0, 16], [16, 0]]], dtype=np.int32)
    probes.write(run, step, measure="cka", tokens=64, cka_LNN=cka, shared_LNN=shared)


def disturb_probe(run: RunDir, rng: random.Random) -> None:
    """Do something to the files of the newest probes, or to the names in their events."""
    step = rng.randrange(0, 20, 4)
    write_probe(run, step)
    path = run.probes / f"step-{step:07d}.npz"
    whole = path.read_bytes()
    how = rng.randrange(7)
    if how == 0:
        path.write_bytes(damaged(whole, rng))
    elif how == 1:
        path.write_bytes(whole[: rng.randrange(len(whole))])
    elif how == 2:
        path.write_bytes(rng.randbytes(rng.randrange(5000)))
    elif how == 3:
        np.savez(
            path, **{rng.choice(["cka", "shared", "layers"]): np.array([{"a": 1}], dtype=object)}
        )
    elif how == 4:
        zeros = np.zeros((1, 2000, 2000), dtype=np.float32)
        np.savez_compressed(path, cka=zeros, shared=zeros, layers=[0], tokens=64)
    elif how == 5:
        path.unlink()
        path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "../events.jsonl", path.name]))
    else:
        path.unlink()
        path.mkdir()


def clear(run: RunDir) -> None:
    shutil.rmtree(run.probes)
    for step in range(0, 20, 4):
        write_probe(run, step)


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
        for step in range(0, 20, 4):
            write_probe(RunDir(folder / name), step)
    (folder / "again").symlink_to("odd")
    return folder


def test_readers_hold_against_any_event_file(runs: Path) -> None:
    for rng in cases(110, seed=15):
        events = runs / "odd/events.jsonl"
        events.write_bytes(disturbed_file(rng))
        if rng.random() < 0.3:
            disturb_probe(RunDir(runs / "odd"), rng)
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
        clear(RunDir(runs / "odd"))


def test_probes_that_cannot_be_read_are_no_matrices(runs: Path) -> None:
    run = RunDir(runs / "odd")
    (runs / "odd/events.jsonl").write_bytes((runs / "whole/events.jsonl").read_bytes())
    names = [
        "../whole/probes/step-0000004.npz",
        "/etc/passwd",
        "probes/step-0000004.npz/",
        "",
        "\0",
    ]
    for rng in cases(40, seed=17):
        disturb_probe(run, rng)
        for name in [*(f"probes/step-{step:07d}.npz" for step in range(0, 20, 4)), *names]:
            with contextlib.suppress(Unreadable):
                found = probes.read(run.path, name)
                assert found.cka_LNN.shape == found.shared_LNN.shape
        clear(run)


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
