"""`simsmoe pretrain`: what a person sees, what a program reads, and how it stops."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from simsmoe_cli.cli import main
from simsmoe_cli.cli.progress import TrainingView
from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from tests.forked import Forked
from tests.train.tiny import events, recipe

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]

# Where the CPU has bf16, what decided against or for it stands in brackets.
# Makes stdin the terminal of this session before it runs the command.
ON_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv[0] = "simsmoe"
from simsmoe_cli.cli.main import main
main()
"""
STARTED = r"training custom in runs/mine on cpu, in (fp32|bf16)( \(.+\))?"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path) -> None:
    """A folder with the recipe tiny.yaml and prepared corpora in data/, as a user has."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump_recipe(recipe()))
    Path("data").symlink_to(corpus_dir)


def pretrain(*arguments: str) -> int:
    return main.run(["pretrain", "--recipe", "tiny.yaml", *arguments])


def test_piped_output_is_plain_lines(capsys: Capture) -> None:
    assert pretrain("--name", "mine") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "\x1b" not in printed.out
    lines = printed.out.splitlines()
    assert re.fullmatch(STARTED, lines[0])
    assert re.fullmatch(
        r"  data   sources, [\d,]+ bytes, \d\.\d\d% of it are read; in data/sources", lines[1]
    )
    parameters = events(RunDir(Path("runs/mine")))[0]["parameters"]
    assert lines[2] == (
        f"  model  {parameters:,} parameters; 2 layers of 4 experts, 2 for each token; router "
        "smoe, similarity none"
    )
    assert lines[3] == "  steps  8, of 128 tokens"
    before_numbers = lines[: next(i for i, line in enumerate(lines) if "tokens/s" in line)]
    assert re.fullmatch(r"  time   about \d+ s, with validations and test", before_numbers[-1])
    train = [re.fullmatch(PLAIN, line) for line in lines]
    reported = [match.groups() for match in train if match]
    logged = events(RunDir(Path("runs/mine")), "train")
    assert [(int(step), float(bpc)) for step, bpc, _, _ in reported] == [
        (event["step"], round(event["bpc"], 3)) for event in logged
    ]
    assert [f"{event['tokens_per_s']:,.0f}" for event in logged] == [
        rate for _, _, rate, _ in reported
    ]
    assert reported[-1][3] == "0:00"
    validations = [line for line in lines if " valid " in line]
    assert all(
        re.fullmatch(r"step [48]/8  valid \d\.\d{3} BPC  best so far", v) for v in validations
    )
    assert len(validations) == 2
    assert "step 0/8  expert similarity (mean debiased CKA) " in printed.out


PLAIN = r"step (\d)/8  (\d\.\d{3}) BPC  ([\d,]+) tokens/s  (\d+:\d\d) left"


def test_the_summary_gives_the_test_score_and_commands_that_work(capsys: Capture) -> None:
    assert pretrain("--name", "mine") == 0
    out = capsys.readouterr().out
    finished = events(RunDir(Path("runs/mine")))[-1]
    assert f"\ntest {finished['test_bpc']:.3f} BPC  (256 of 10,958 bytes)\n" in out
    _, _, advice = out.partition("\ntry next:\n")
    commands = [shlex.split(line) for line in advice.splitlines()]
    assert [words[:2] for words in commands] == [["simsmoe", "eval"], ["simsmoe", "pretrain"]]
    for words in commands:
        assert main.run(words[1:]) == 0
    assert "step 16/16" in capsys.readouterr().out


def test_a_whole_evaluation_is_not_called_a_part(capsys: Capture) -> None:
    assert pretrain("--set", "eval.final_blocks=0") == 0
    assert re.search(r"\ntest \d\.\d{3} BPC  \(10,958 bytes\)\n", capsys.readouterr().out)


def test_json_output_is_the_events_and_nothing_else(capsys: Capture) -> None:
    assert pretrain("--name", "mine", "--json") == 0
    printed = capsys.readouterr()
    shown = [json.loads(line) for line in printed.out.splitlines()]
    assert shown == events(RunDir(Path("runs/mine")))
    assert re.fullmatch(STARTED, printed.err.splitlines()[0])


def test_words_are_scored_by_perplexity(capsys: Capture) -> None:
    words = ["--set", "data.corpus=words", "--set", "data.tokenizer=words"]
    assert pretrain("--name", "mine", *words) == 0
    out = capsys.readouterr().out
    assert "BPC" not in out
    finished = events(RunDir(Path("runs/mine")))[-2:]
    assert re.search(r"step 8/8  \d\.\d{3} nats  [\d,]+ tokens/s", out)
    assert re.search(r"step 8/8  valid perplexity [\d,]+\.\d\d", out)
    assert f"\ntest perplexity {finished[0]['perplexity']:,.2f}  (" in out
    assert "words)\n" in out
    assert finished[1]["test_bpc"] is None


@pytest.mark.parametrize("name", ["[red]mine", "my run", "it's", ":warning:", "läuft", "a" * 120])
def test_odd_names_are_printed_as_they_are(capsys: Capture, name: str) -> None:
    assert pretrain("--name", name) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"training custom in runs/{name} on cpu, in ")
    _, _, advice = out.partition("\ntry next:\n")
    for line in advice.splitlines():
        assert f"runs/{name}" in shlex.split(line)
    assert main.run(["eval", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}  step ")
    assert pretrain("--name", name) == 2
    assert f"runs/{name}: this run folder" in capsys.readouterr().err


def test_a_data_folder_elsewhere_is_part_of_the_advice(capsys: Capture, corpus_dir: Path) -> None:
    Path("data").unlink()
    assert pretrain("--data-dir", str(corpus_dir), "--runs-dir", "[/red]else where") == 0
    _, _, advice = capsys.readouterr().out.partition("\ntry next:\n")
    for line in advice.splitlines():
        assert main.run(shlex.split(line)[1:]) == 0


def test_places_by_environment(monkeypatch: pytest.MonkeyPatch, corpus_dir: Path) -> None:
    Path("data").unlink()
    monkeypatch.setenv("SIMSMOE_DATA", str(corpus_dir))
    monkeypatch.setenv("SIMSMOE_RUNS", "elsewhere")
    assert pretrain("--name", "mine") == 0
    assert Path("elsewhere/mine/events.jsonl").is_file()
    assert main.run(["eval", "mine"]) == 0


def test_flags_are_settings(capsys: Capture) -> None:
    flags = ["--similarity", "calibrated", "--router", "smoe", "--experts", "loop"]
    assert pretrain("--name", "mine", *flags, "--set", "similarity.weight=0.5") == 0
    used = events(RunDir(Path("runs/mine")), "run_started")[0]["recipe"]
    assert used["similarity"]["preset"] == "calibrated"
    assert used["similarity"]["weight"] == 0.5
    assert used["moe"]["backend"] == "loop"
    capsys.readouterr()
    assert pretrain("--router", "smo") == 2
    assert "Did you mean 'smoe'?" in capsys.readouterr().err


def view() -> tuple[TrainingView, io.StringIO]:
    """A view on a terminal, and what it shows."""
    shown = io.StringIO()
    console = Console(
        file=shown, force_terminal=True, width=100, markup=False, emoji=False, highlight=False
    )
    return TrainingView(console, 20, run=RunDir(Path())), shown


def test_a_terminal_shows_a_bar_and_the_lines_that_matter() -> None:
    bar, shown = view()
    message = f"[bold]only a prefix[/bold] {'of a path too long for the screen ' * 5}"
    train = {"bpc": 2.345, "loss_nats": 1.6, "tokens_per_s": 54321.0, "step_ms": 10.0}
    with bar:
        bar.on_step(3)
        bar.on_event({"kind": "train", "step": 4, **train})
        bar.on_event({"kind": "warning", "step": 4, "message": message})
        bar.on_event({"kind": "eval", "step": 4, "split": "valid", "bpc": 2.5, "best": True})
    text = shown.getvalue()
    assert "4/20" in text
    assert "2.345 BPC  54,321 tokens/s" in text
    assert f"warning: {message}" in text
    assert "valid 2.500 BPC  best so far" in text


def test_the_bar_says_that_a_finished_training_is_being_tested() -> None:
    bar, shown = view()
    train = {"bpc": 2.345, "loss_nats": 1.6, "tokens_per_s": 54321.0, "step_ms": 10.0}
    with bar:
        bar.on_event({"kind": "train", "step": 20, **train})
        bar.on_step(20)
        assert bar._progress is not None
        bar.on_part("testing", 0.12)
        bar._progress.refresh()
        assert "testing 12 %, 0:00 left" in shown.getvalue()
    assert "testing" not in shown.getvalue().splitlines()[-1]


def test_without_a_recipe_it_says_which_one_it_takes(capsys: Capture) -> None:
    tiny = ["train.steps=1", "train.batch=1", "train.block=32", "train.warmup_steps=0"]
    tiny += ["data.corpus=sources", "eval.final_blocks=1", "train.probe_tokens=32"]
    assert main.run(["pretrain", *(word for change in tiny for word in ("--set", change))]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("training quickstart (the default; --recipe takes another) in runs/")


def test_a_resumed_run_says_each_setting_that_is_other_than_before(capsys: Capture) -> None:
    assert pretrain("--name", "mine") == 0
    changes = ["--set", "train.steps=9", "--set", "train.lr=0.01"]
    assert main.run(["pretrain", "--resume", "mine", *changes]) == 0
    out = capsys.readouterr().out
    assert "\n  steps  1 of 9 are left, of 128 tokens\n" in out
    assert "\ntrain.steps 8 -> 9 from step 8\ntrain.lr 0.001 -> 0.01 from step 8\n" in out


def test_undefined_similarity_is_said_to_be() -> None:
    bar, shown = view()
    with bar:
        bar.on_event({"kind": "similarity", "step": 4, "layers": [{"mean": None}]})
        bar.on_event({"kind": "similarity", "step": 8, "layers": [{"mean": None}, {"mean": 0.25}]})
    assert "(mean debiased CKA) undefined" in shown.getvalue()
    assert "(mean debiased CKA) 0.250" in shown.getvalue()


def test_long_runs_say_how_many_hours_are_left(capsys: Capture) -> None:
    plain = TrainingView(Console(width=1000, highlight=False), 50_000, run=RunDir(Path()))
    event = {"kind": "train", "step": 10, "bpc": 2.0, "tokens_per_s": 1e6, "step_ms": 1000.0}
    plain.on_event(event)
    assert capsys.readouterr().out == (
        "step    10/50000  2.000 BPC  1,000,000 tokens/s  13:53:10 left\n"
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, EXIT_SIGINT), (signal.SIGTERM, EXIT_SIGTERM)]
)
def test_a_real_signal_in_the_middle(number: signal.Signals, code: int) -> None:
    command = ["pretrain", "--recipe", "tiny.yaml", "--name", "mine", "--set", "train.steps=100000"]
    training = Forked(command, Path("printed"))
    while "tokens/s" not in training.printed():
        time.sleep(0.01)
    training.send_signal(number)
    ended, out, err = training.ended()
    assert (ended, err) == (code, "")
    step = checkpoint.list_checkpoints(RunDir(Path("runs/mine")))[-1][0]
    last = out.splitlines()[-1]
    assert last == (
        f"stopped at step {step} and saved; continue with: simsmoe pretrain --resume runs/mine"
    )
    finished = events(RunDir(Path("runs/mine")))[-1]
    assert (finished["status"], finished["reason"]) == ("stopped", number.name)
    _, _, go_on = last.partition("continue with: ")
    assert main.run([*shlex.split(go_on)[1:], "--set", f"train.steps={step + 2}"]) == 0


@pytest.mark.parametrize(
    "output", ["--json | head -n 2", "| head -n 1", ">/dev/full 2>&1", ">&- 2>&-"]
)
def test_a_run_does_not_depend_on_who_reads_it(output: str) -> None:
    command = shlex.join([sys.executable, "-m", "simsmoe_cli", "pretrain", "--recipe", "tiny.yaml"])
    pipeline = f"{command} --name mine --set train.log_every=1 {output}"
    done = subprocess.run(
        ["bash", "-c", f"{pipeline}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr
    assert events(RunDir(Path("runs/mine")))[-1]["status"] == "finished"
    assert len(events(RunDir(Path("runs/mine")), "train")) == 8


def test_a_terminal_that_goes_away_does_not_stop_a_run() -> None:
    """The progress bar is drawn on it, and its end sends SIGHUP."""
    here, there = pty.openpty()
    command = ["pretrain", "--recipe", "tiny.yaml", "--name", "mine", "--set", "train.steps=40"]
    training = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=there,
        stdout=there,
        stderr=there,
        start_new_session=True,
    )
    os.close(there)
    shown = b""
    while b"training " not in shown:
        shown += os.read(here, 4096)
    os.close(here)
    assert training.wait(timeout=120) == 0
    assert events(RunDir(Path("runs/mine")))[-1]["status"] == "finished"
