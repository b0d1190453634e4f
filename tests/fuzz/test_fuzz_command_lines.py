"""Command lines of every command and option with odd values and odd paths.

Whatever is asked for, the command ends soon, says one line, and writes nothing outside its folder.
Left out are options that open a browser, listen at a port, compile, or reach for the network.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import typer

from simsmoe_cli.cli import main
from tests.compare.made_runs import made_run
from tests.fuzz.driving import (
    cases,
    contents,
    require_clear,
    require_nothing_half_written,
    simsmoe,
)

EVERY_CODE = (0, 2, 3, 4, 5, 6)
NOT_TRIED = {"--serve", "--open", "--deep", "--deterministic", "--help", "-h"}
WORDS = (
    *("", " ", "-", "--", "-1", "0", "1", "2", "nan", "inf", "1e999", "9" * 400, "true", "null"),
    *(
        "x" * 300,
        "x" * 5000,
        "\x1b[31mred",
        "a\nb",
        "\r",
        "\udcff\udcfe",
        "漢字",
        "\u202eabc",
        "[red]",
    ),
    *("*", "[a", "~", "$HOME", "a=b", "a.b=c", "train.lr=", "train.steps=1", "moe.router=smoe"),
    *(
        "auto",
        "best",
        "last",
        "all",
        "cpu",
        "cuda",
        "cuda:99",
        "meta",
        "html",
        "json,png",
        "mixtral",
    ),
    *("routers", "recipes", "similarity", "quickstart", "finetune-sst2", "smoe", "paper", "none"),
    *("test", "valid", "bytes", "words", "unigram", "calibrated", "simsmoe", "mixtral"),
)
NUMBERS = (
    *(
        "-1",
        "0",
        "1",
        "2",
        "0.5",
        "16",
        "-3",
        "100000000",
        "nan",
        "-inf",
        "1e999",
        "9" * 400,
        "0x1",
    ),
    *("0x1", "1e-300", "1_000", "١", "65535", "65536"),
)
PATHS = (
    *("one", "runs/one", "runs", "runs/two/events.jsonl", "runs/\x1b[31mred", "absent", "."),
    *(
        "text.txt",
        "noise.bin",
        "table.csv",
        "mine.yaml",
        "text.txt/below",
        "loop",
        "dangling",
        "fifo",
    ),
    *(
        "empty",
        "deep.json",
        "/proc/nothing/x",
        "a/" * 60,
        "new",
        "new/below",
        "out.html",
        "out.svg",
    ),
    *(
        "runs/one/recipe.yaml",
        "runs/one/checkpoints",
        "./-",
        "nul",
        "x" * 256,
        "runs/hollow",
    ),
)
# Arguments that are fine.
SOUND = {
    "list": ["routers"],
    "show": ["mine.yaml"],
    "compare": ["one", "two"],
    "prepare-data": ["text.txt"],
    "export": ["one", "new"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with runs and files of every odd kind, and another folder around it."""
    work = tmp_path / "outside" / "work"
    for name in ("one", "two", "\x1b[31mred"):
        made_run(work / "runs" / name)
    (work / "runs" / "hollow").mkdir()
    (work / "empty").mkdir()
    (work / "text.txt").write_text("a text of few words\n" * 200, encoding="utf-8")
    (work / "noise.bin").write_bytes(random.Random(0).randbytes(3000))
    (work / "table.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 50, encoding="utf-8")
    (work / "mine.yaml").write_text("train: {steps: 50}\n", encoding="utf-8")
    (work / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    (work / "loop").symlink_to("loop")
    (work / "dangling").symlink_to("nowhere")
    os.mkfifo(work / "fifo")
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(typer, "launch", lambda url: 0)
    return tmp_path


def test_odd_command_lines(folder: Path) -> None:
    work = folder / "outside" / "work"
    before = outside(folder, work)
    for rng in cases(130, seed=21):
        outcome = simsmoe(*command_line(rng))
        if outcome.arguments[0] != "doctor":  # which lists what is broken on stdout
            require_clear(outcome, EVERY_CODE)
        require_nothing_half_written(work)
    assert outside(folder, work) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "tasks"],
        ["show", "mine.yaml", "--set", "train.lr=1e-3"],
        ["compare", "one", "two", "--out", "new.html"],
        ["monitor", "one", "--once"],
        ["prepare-data", "text.txt", "--name", "漢字"],
        ["prepare-data", "table.csv", "--label-column", "label"],
        ["pretrain", "--recipe", "mine.yaml", "--dry-run", "--set", "model.repeats=1"],
    ],
)
def test_sound_command_lines(folder: Path, arguments: list[str]) -> None:
    require_clear(simsmoe(*arguments), (0,))


def outside(folder: Path, work: Path) -> dict[str, str]:
    """What lies in the folder and not in the working folder."""
    return {
        name: seen for name, seen in contents(folder).items() if str(work) not in str(folder / name)
    }


def command_line(rng: random.Random) -> list[str]:
    """A command with some of its options, in any order, and mostly all of its arguments."""
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    name = rng.choice(list(commands))
    if name == "doctor" and rng.random() < 0.8:  # which takes a second
        name = "compare"
    if rng.random() < 0.05:
        return [rng.choice([name, value(rng)]), value(rng), *rng.choice([[], ["--" + value(rng)]])]
    sound = rng.random() < 0.5
    words = [[word] for word in SOUND.get(name, ["one"])] if sound else []
    for parameter in commands[name].params:
        option = parameter.opts[-1]
        if parameter.param_type_name == "argument":
            if not sound and rng.random() < 0.9:
                words.append([argument(name, rng)])
        elif option not in NOT_TRIED and rng.random() < (0.1 if sound else 0.25):
            words.append([option] if parameter.is_flag else [option, value(rng)])
    if rng.random() < 0.05:
        words.append([value(rng)])
    if rng.random() < 0.5:
        rng.shuffle(words)
    line = [name, *(word for group in words for word in group)]
    return [*line, *bounds(name, rng)]


def argument(command: str, rng: random.Random) -> str:
    """Of prepare-data no name of a corpus, whose text may have to be downloaded."""
    if command in ("list", "show") and rng.random() < 0.7:
        return rng.choice(WORDS)
    return rng.choice([*PATHS, "..", "../"]) if rng.random() < 0.8 else value(rng)


def value(rng: random.Random) -> str:
    return rng.choice(rng.choice([PATHS, WORDS, NUMBERS]))


def bounds(command: str, rng: random.Random) -> list[str]:
    """What keeps a command line that happens to be sound from training or serving."""
    if command == "pretrain":
        if rng.random() < 0.1:
            return ["--dry-run", "--set", "model.repeats=1"]
        return ["--set", "data.corpus=absent"]
    if command == "finetune":
        return ["--from", "absent"]
    if command == "monitor":
        return ["--once"]
    return []
