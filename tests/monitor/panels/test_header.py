"""The header says what runs are and how far they are, however narrow it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsmoe_cli.monitor.panels import header
from simsmoe_cli.run.events import Machine
from tests.monitor.made_run import write_run
from tests.monitor.views import NOW, view_of

FACTS = ("quickstart", "smoe", "similarity calibrated", "3.21 M parameters", "cpu fp32")
MACHINE = ("CPU 198%", "RAM 0.8 GB")
NUMBERS = ("step 2,000/2,000", "ETA –", "8,931 tokens/s", "best 2.208 at 2,000", "test 2.250")


@pytest.mark.parametrize("width", [78, 118, 198])
def test_facts_and_numbers_of_a_run(runs: Path, width: int) -> None:
    lines = header.draw(view_of(runs / "first"), width, header.height(1, width, 24))
    text = "\n".join(line.plain for line in lines)
    for words in ("● first  finished", *FACTS, *MACHINE, *NUMBERS):
        assert words in text, words
    assert len(lines) == (3 if width < header.WIDE else 2)
    assert max(line.cell_len for line in lines) <= width


def test_the_gpu_and_its_memory_are_told_where_they_are_known() -> None:
    used = {"gpu_percent": 87, "gpu_mb": 41_200, "gpu_total_mb": 80_000}
    assert header.machine_words(Machine(**used))[0] == "GPU 87% 41.2/80 GB"
    assert header.machine_words(Machine(gpu_mb=1, gpu_total_mb=80_000))[0] == "GPU 0.0/80 GB"
    assert not any(header.machine_words({}))


def test_the_bar_gives_way_to_numbers(runs: Path) -> None:
    wide = header.draw(view_of(runs / "first"), 118, 2)[-1].plain
    assert wide.startswith("━" * header.BAR + " 100%")
    assert header.draw(view_of(runs / "first"), 78, 3)[-1].plain.startswith("step")


def test_without_colours_the_bar_shows_how_far_it_is(tmp_path: Path) -> None:
    half = write_run(tmp_path / "half", until=1000, finished=False)
    line = header.draw(view_of(half, color=False), 118, 2)[-1].plain
    assert line.startswith("━━━━━━──────  50%".replace("  ", " "))


def test_ranks_and_the_slowest_of_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "several", until=250, total=250)
    busy = {"ranks": 4, "slowest": 2, "most": 30.0, "median": 20.0}
    event = {"schema": 2, "kind": "train", "step": 250, "time": NOW, "busy_ms": busy}
    with open(run / "events.jsonl", "a") as events:
        events.write(json.dumps(event) + "\n")
    line = header.draw(view_of(run), 198, 2)[-1].plain
    assert "4 ranks · slowest 2 (1.50x)" in line


def test_a_run_that_says_nothing_any_more(tmp_path: Path) -> None:
    half = write_run(tmp_path / "half", until=1000, finished=False)
    first = header.draw(view_of(half, now=NOW + 3600), 78, 3)[0].plain
    assert first.startswith("● half  stale, no event for 1 h 33 min ")


def test_the_chosen_run_is_among_those_that_fit(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run-{n}", until=250, total=250) for n in range(9)]
    for run in range(9):
        lines = header.draw(view_of(*folders, run=run), 78, header.height(9, 78, 24))
        assert len(lines) == 4
        assert any(line.plain.startswith(f"● run-{run}") for line in lines)


@pytest.mark.parametrize(
    ("count", "words"),
    [(950, "950"), (12_345, "12.3 k"), (4_560_000, "4.56 M"), (1_200_000_000, "1.2 G")],
)
def test_a_count_in_words(count: int, words: str) -> None:
    assert header.millions(count) == words
