"""`simsmoe generate`: text after a prompt, with and without experts, or a clear refusal."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from simsmoe_cli.cli import generate as command
from simsmoe_cli.cli import main
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_SIGINT, EXIT_USAGE
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import Plan
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import recipe

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs_dir(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that learned for two steps; not to be changed."""
    folder = tmp_path_factory.mktemp("generate") / "runs"
    brief = {"steps": 2, "validate_every": 2, "probe_every": 0, "checkpoint_every": 2}
    for name, changes in {
        "bytes": {},
        "words": {"data": {"corpus": "words", "tokenizer": "words"}},
        "memory": {"model": PAPER_MODEL},
        "dense": {"model": {"pattern": "sf"}},
        "ahead": {"moe": {"router": "expert-choice"}, "expert_choice": {"allow_leak": True}},
    }.items():
        made = recipe(**{**changes, "train": brief, "eval": {"final_blocks": 1}})
        store = session.open_store(made, corpus_dir)
        session.train(Plan(made, RunDir(folder / name), None), store, torch.device("cpu"))
    return folder


@pytest.fixture(autouse=True)
def working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path, runs_dir: Path
) -> None:
    """A folder with data/ and runs/, as a user has."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(corpus_dir)
    Path("runs").symlink_to(runs_dir)


def generated(capsys: Capture, *arguments: str) -> str:
    """What is printed on stdout."""
    assert main.run(["generate", *arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys: Capture, code: int, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    assert main.run(["generate", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("run", ["bytes", "memory", "dense"])
def test_the_prompt_and_what_follows(capsys: Capture, run: str) -> None:
    printed = generated(capsys, run, "--prompt", "def parse(", "--tokens", "50", "--seed", "3")
    assert printed.startswith("def parse(")
    assert printed == generated(
        capsys, f"runs/{run}", "--prompt", "def parse(", "--tokens", "50", "--seed", "3"
    )
    assert printed != generated(
        capsys, run, "--prompt", "def parse(", "--tokens", "50", "--seed", "4"
    )
    assert len(printed) in range(20, 62)


def test_the_checkpoint_asked_for(capsys: Capture) -> None:
    best = generated(capsys, "bytes", "--prompt", "x", "--tokens", "20", "--temperature", "0")
    last = ("--checkpoint", "2")
    assert best == generated(
        capsys, "bytes", "--prompt", "x", "--tokens", "20", "--temperature", "0", *last
    )
    assert "no checkpoint '7' in this run. Available: 2, last, best" in refusal(
        capsys, EXIT_DATA, "bytes", "--prompt", "x", "--checkpoint", "7"
    )


def test_words_are_told_apart_and_unknown_ones_named(capsys: Capture) -> None:
    assert main.run(["generate", "words", "--prompt", "def zebra xylophone", "--tokens", "9"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "read as <unk>: zebra, xylophone\n"
    assert printed.out.startswith("def <unk> <unk>")


def test_a_prompt_from_a_file_or_a_pipe(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompt.txt").write_text("for x in range(3):\n    ")
    settings = ("--tokens", "8", "--temperature", "0")
    printed = generated(capsys, "bytes", "--prompt-file", "prompt.txt", *settings)
    assert printed.startswith("for x in range(3):\n    ")
    stdin = io.TextIOWrapper(io.BytesIO(Path("prompt.txt").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert printed == generated(capsys, "bytes", "--prompt-file", "-", *settings)


# Experts


def test_piped_experts_are_a_line_each(capsys: Capture) -> None:
    printed = generated(
        capsys, "bytes", "--prompt", "if x:\n  x", "--tokens", "5", "--seed", "0", "--show-experts"
    )
    lines = printed.splitlines()
    assert len(lines) == 9 + 5
    assert all(re.fullmatch(r".+\|[0-3]", line) for line in lines)
    assert [line.rpartition("|")[0] for line in lines[:9]] == [*"if x:", r"\n", *"  x"]


def test_the_layer_asked_for(capsys: Capture) -> None:
    lines = {}
    for layer in ("1", "3", None):
        more = ("--layer", layer) if layer else ()
        settings = ("--prompt", "import os\n" * 3, "--tokens", "1", "--temperature", "0")
        lines[layer] = generated(capsys, "bytes", *settings, "--show-experts", *more)
    assert lines[None] == lines["3"] != lines["1"]


def test_colours_on_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminal(*, stderr: bool = False) -> Console:
        how: Any = {"force_terminal": True, "color_system": "truecolor", "highlight": False}
        return Console(stderr=stderr, width=80, **how)

    monkeypatch.setattr(command, "console", terminal)
    settings = ("--prompt", "if x:\n  y", "--tokens", "200", "--seed", "0", "--show-experts")
    printed = generated(capsys, "bytes", *settings)
    legend, _, text = printed.partition("\n")
    assert legend.startswith("experts of layer 3: ")
    colour = re.compile(r"\x1b\[([0-9;]+)m")
    codes = [code for code in colour.findall(legend) if code != "0"]
    assert len(set(codes)) == 4
    assert set(colour.findall(text)) <= {*codes, "0"}
    plain = colour.sub("", text)
    assert plain.startswith("if x:\n  y")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", plain)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "|" in generated(capsys, "bytes", *settings).splitlines()[0]


# Trouble


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--prompt: no text to continue. Give --prompt TEXT or --prompt-file FILE."),
        (("--prompt", "a", "--prompt-file", "b"), "--prompt: a prompt is given twice"),
        (("--prompt", "a", "--layer", "0"), "--layer: says whose experts to show"),
        (
            ("--prompt", "a", "--layer", "2", "--show-experts"),
            "--layer: no layer with experts is called '2'. Layers with experts: 1, 3.",
        ),
        (("--prompt", "a", "--tokens", "0"), "'--tokens'"),
        (("--prompt", "a", "--seed", "-1"), "'--seed'"),
        (("--prompt", "a", "--temperature", "0", "--seed", "1"), "--seed: has no effect at temp"),
        (("--prompt", "a", "--top-p", "0"), "--top-p: 0 is not a share of probability"),
    ],
)
def test_wrong_options(capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    assert message in refusal(capsys, EXIT_USAGE, "bytes", *arguments)


def test_no_experts_to_show(capsys: Capture) -> None:
    assert "--show-experts: this model has no experts" in refusal(
        capsys, EXIT_USAGE, "dense", "--prompt", "a", "--show-experts"
    )


def test_a_router_that_looks_ahead(capsys: Capture) -> None:
    assert "router expert-choice looks at the tokens that follow" in refusal(
        capsys, EXIT_USAGE, "ahead", "--prompt", "a"
    )


def test_a_prompt_the_vocabulary_lacks(capsys: Capture) -> None:
    assert "has no '☃' (U+2603)" in refusal(capsys, EXIT_DATA, "bytes", "--prompt", "a ☃")


def test_prompt_files_that_cannot_be_read(capsys: Capture) -> None:
    assert "nowhere: no such file. Check the path." in refusal(
        capsys, EXIT_DATA, "bytes", "--prompt-file", "nowhere"
    )
    os.mkfifo("fifo")
    for name, said in (("fifo", "is not a regular file"), ("/dev/zero", "is not a regular file")):
        assert said in refusal(capsys, EXIT_DATA, "bytes", "--prompt-file", name)
    with open("large", "wb") as file:
        file.truncate(1 << 30)
    assert "has more than" in refusal(capsys, EXIT_DATA, "bytes", "--prompt-file", "large")
    Path("latin").write_bytes("café".encode("latin-1"))
    assert "latin: byte 0xe9 at offset 3 is not UTF-8" in refusal(
        capsys, EXIT_DATA, "bytes", "--prompt-file", "latin"
    )


def test_a_corpus_that_is_gone_or_another(capsys: Capture, corpus_dir: Path) -> None:
    (corpus_dir / "words").rename(corpus_dir / "elsewhere")
    try:
        assert "corpus 'words' is not prepared" in refusal(
            capsys, EXIT_DATA, "words", "--prompt", "a"
        )
    finally:
        (corpus_dir / "elsewhere").rename(corpus_dir / "words")
    Path("data").unlink()
    assert generated(capsys, "bytes", "--prompt", "a", "--tokens", "2")
    TokenStore.open(corpus_dir / "words")
    Path("data").mkdir()
    Path("data/sources").symlink_to(corpus_dir / "words")
    assert "data/sources: the corpus was prepared with another tokenizer" in refusal(
        capsys, EXIT_DATA, "bytes", "--prompt", "a"
    )


def test_an_interrupt_ends_it_cleanly() -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "simsmoe_cli",
            "generate",
            "bytes",
            "--prompt=import ",
            "--tokens=999999",
        ],
        # Whoever runs the tests in the background has interrupts ignored, children included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(20).startswith(b"import ")
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = process.stderr.read()
        # Before it, on a busy machine: that the model is being opened.
        assert said.endswith(b"\nsimsmoe: stopped by Ctrl-C; nothing is left half-written\n")
        assert process.wait(timeout=60) == EXIT_SIGINT
