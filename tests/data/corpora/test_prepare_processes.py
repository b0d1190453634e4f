"""Preparing in processes of their own: killed, at the same time, on a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.store import Task
from simsmoe_cli.errors import EXIT_DATA, UserError

ROOT = Path(__file__).resolve().parents[3]
# Prepares argv[1] as argv[2]; with argv[3] it kills itself when that stage is reached.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import UserError

def report(stage, done, total):
    if stage == (sys.argv + [""])[3]:
        os.kill(os.getpid(), signal.SIGKILL)

try:
    print(prepare(sys.argv[1], Path(sys.argv[2]), on_progress=report).built)
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""
TEXT = "".join(f"line {number}\n" for number in range(400_000))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text(TEXT)
    return path


def start(*arguments: object, wrap: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*wrap, sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("stage", ["read", "fit the tokenizer", "encode"])
def test_a_killed_run_leaves_nothing_that_looks_whole(
    own: Path, tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "data" / "own"
    with start(own, out, stage) as killed:
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    left = names(out.parent)
    assert left
    assert all(name.startswith((".own.partial-", ".own.scratch-")) for name in left)
    for name in left:
        with pytest.raises(UserError):
            TokenStore.open(out.parent / name)
    assert prepare(str(own), out).built
    assert names(out.parent) == ["own"]


def test_runs_at_the_same_time_make_one_store(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    runs = [start(own, out) for _ in range(3)]
    answers = [(run.communicate(), run.returncode) for run in runs]
    assert sorted(answers) == [
        (("False\n", ""), 0),
        (("False\n", ""), 0),
        (("True\n", ""), 0),
    ]
    TokenStore.open(out).verify()
    assert names(out.parent) == ["own"]


def test_preparing_bytes_imports_neither_torch_nor_sentencepiece(own: Path, tmp_path: Path) -> None:
    check = SCRIPT + "print(sorted({'torch', 'sentencepiece', 'pooch'} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", check, own, tmp_path / "data" / "own"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.stdout == "True\n[]\n"


def small_files() -> None:
    """No file of more than a megabyte; writing beyond fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_disk_that_takes_no_more_leaves_nothing(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    with start(own, out, preexec_fn=small_files) as run:
        _, message = run.communicate()
    assert_full_disk(run.returncode, message, out)
    assert names(out.parent) == []


def test_a_full_disk_leaves_nothing(own: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=2m tmpfs "{disk}"'
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine lets no one mount a small disk")
    script = f'{mount} && "$@"; code=$?; ls -A "{disk}/data"; exit $code'
    out = disk / "data" / "own"
    with start(own, out, wrap=("unshare", "-Urm", "sh", "-c", script, "sh")) as run:
        left, message = run.communicate()
    assert_full_disk(run.returncode, message, out)
    assert left in ("", ".own.lock\n")


def assert_full_disk(code: int, message: str, out: Path) -> None:
    assert code == EXIT_DATA
    assert message.count("\n") == 1
    assert str(out) in message
    assert "no space left" in message
    assert "--data-dir" in message


def read_only(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o500)


def in_the_way(folder: Path) -> None:
    folder.write_text("a file")


@pytest.mark.parametrize("obstacle", [read_only, in_the_way])
def test_a_place_that_cannot_be_written_is_one_line(
    own: Path, tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    if obstacle is read_only and os.access("/", os.W_OK):
        pytest.skip("nothing is read-only to this user")
    obstacle(tmp_path / "data")
    with start(own, tmp_path / "data" / "own") as run:
        _, message = run.communicate()
    assert run.returncode == EXIT_DATA
    assert message.count("\n") == 1
    assert str(tmp_path / "data") in message


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "words", "sentencepiece"])
def test_a_corpus_is_the_same_in_whatever_locale(tmp_path: Path, tokenizer: str) -> None:
    own = tmp_path / "own.txt"
    own.write_text("".join(f"größer als {n}: ”é“ 漢字\n" for n in range(300)), encoding="utf-8")
    more = ("--tokenizer", tokenizer)
    more += ("--vocab-size", "290") if tokenizer == "sentencepiece" else ()
    command = (sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning")
    command += ("-m", "simsmoe_cli", "prepare-data", str(own), *more)
    locales = {
        "c": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "utf8": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
    }
    for name, variables in locales.items():
        run = subprocess.run(
            [*command, "--out", str(tmp_path / name / "own")],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        assert (run.returncode, run.stderr) == (0, "")
    stores = [TokenStore.open(tmp_path / name / "own") for name in locales]
    assert stores[0].manifest == stores[1].manifest
    stores[0].verify()


def test_a_task_is_the_same_in_whatever_locale(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    rows = "".join(f"größer als {n} 漢字,ab{n % 2}\n" for n in range(60))
    own.write_text(f"text,label\n{rows}", encoding="utf-8")
    command = (sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning")
    command += ("-m", "simsmoe_cli", "prepare-data", str(own), "--label-column", "label")
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "task")],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    task = Task.open(tmp_path / "task")
    task.verify()
    assert all("größer" in example.text for example in task.split("train"))


@pytest.mark.parametrize("stage", ["read", "encode"])
def test_preparing_again_over_a_store_is_all_or_nothing(
    own: Path, tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "data" / "own"
    before = prepare(str(own), out).manifest
    script = SCRIPT.replace("Path(sys.argv[2])", "Path(sys.argv[2]), force=True")
    with subprocess.Popen([sys.executable, "-c", script, own, out, stage], cwd=ROOT) as killed:
        killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert TokenStore.open(out).manifest == before
    assert len(names(out.parent)) > 1
    with pytest.raises(UserError):
        prepare(str(own.parent / "nothing"), out)
    assert not prepare(str(own), out).built
    assert names(out.parent) == ["own"]
