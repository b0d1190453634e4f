"""Where output goes wrong: full, closed or nobody reads it, or it has no such characters."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, EXIT_OUT_OF_MEMORY, EXIT_SIGPIPE, EXIT_USAGE, UserError
from tests.compare.made_runs import made_run

ROOT = Path(__file__).resolve().parents[2]
PRINTING = (
    ["list", "routers"],
    ["list", "routers", "--json"],
    ["show", "quickstart", "--fields"],
    ["show", "quickstart", "--json"],
    ["--help"],
    ["show", "--help"],
    ["compare", "one", "zwölf"],
    ["compare", "one", "zwölf", "--json"],
    ["monitor", "one", "--once"],
    ["monitor", "one", "--json"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs "one" and "zwölf"."""
    folder = tmp_path_factory.mktemp("streams")
    made_run(folder / "runs" / "one")
    made_run(folder / "runs" / "zwölf", 1.9, data={"corpus": "漢 – ü"})
    return folder


def in_shell(folder: Path, line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash; $SIMSMOE is the command."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SIMSMOE": f"{sys.executable} -m simsmoe_cli",
            "COLUMNS": "100",
            **environment,
        },
        capture_output=True,
        timeout=120,
    )


def shell_line(arguments: list[str]) -> str:
    return "$SIMSMOE " + " ".join(arguments)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [PRINTING[0], PRINTING[2], PRINTING[5], PRINTING[8]])
def test_a_full_output_is_one_line(folder: Path, arguments: list[str]) -> None:
    done = in_shell(folder, f"{shell_line(arguments)} > /dev/full")
    assert done.returncode == EXIT_DATA
    assert done.stderr.decode() == (
        "simsmoe: error: output: cannot be written: No space left on device\n"
    )


def test_a_full_error_output_keeps_the_exit_code(folder: Path) -> None:
    assert in_shell(folder, "$SIMSMOE show nonsense 2> /dev/full").returncode == EXIT_USAGE


def test_closed_streams_are_as_good_as_none(folder: Path) -> None:
    done = in_shell(folder, "$SIMSMOE list routers >&- 2>&- <&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_file_does_not_take_the_place_of_a_closed_output(folder: Path) -> None:
    """Descriptor 1 would be the next file opened, and what is printed would land in it."""
    done = in_shell(folder, "$SIMSMOE compare one zwölf --out both.html >&-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "both.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("arguments", PRINTING)
def test_nobody_reads_the_output(folder: Path, arguments: list[str]) -> None:
    """The reader has gone before anything is printed."""
    line = f"exec 3> >(exec true); wait $!; {shell_line(arguments)} >&3"
    done = in_shell(folder, line)
    assert done.stderr == b""
    assert done.returncode == EXIT_SIGPIPE


@pytest.mark.parametrize(
    ("encoding", "arguments"),
    [
        *(("ascii", arguments) for arguments in PRINTING),
        *(("latin-1", arguments) for arguments in PRINTING[6:]),
        ("utf-8", PRINTING[7]),
    ],
)
def test_output_degrades_where_characters_are_missing(
    folder: Path, encoding: str, arguments: list[str]
) -> None:
    program = "from simsmoe_cli.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": encoding,
            "PYTHONUTF8": "0",
            "LC_ALL": "C",
        },
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert len(text) > 100
    if "--json" in arguments:
        report = json.loads(text)
        if "compare" in arguments:
            corpora = [run["settings"]["data.corpus"] for run in report["runs"]]
            assert corpora[1] == "漢 – ü"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a\x1bb"), EXIT_DATA, "/a\\x1bb: "),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), EXIT_DATA, "too long"),
        (OSError(errno.EIO, "Input/output error"), EXIT_DATA, "Input/output error"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), EXIT_OUT_OF_MEMORY, "out of memory"),
        (MemoryError(), EXIT_OUT_OF_MEMORY, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EXIT_OUT_OF_MEMORY, "out of"),
        (RecursionError("maximum recursion depth exceeded"), EXIT_DATA, "nested too deeply"),
        (RuntimeError("Symlink loop from 'a\x1b'"), EXIT_DATA, "Symlink loop from 'a\\x1b'"),
        (ValueError("embedded null byte"), EXIT_USAGE, "NUL"),
        (
            UnicodeEncodeError(sys.getfilesystemencoding(), "\ud800", 0, 1, "surrogates"),
            EXIT_USAGE,
            "LC_ALL",
        ),
        (UserError("x", problems=[UserError("y")] * 20), EXIT_USAGE, "and 10 more"),
    ],
)
def test_what_the_machine_refuses_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
    code: int,
    said: str,
) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise raised

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == code
    printed = capsys.readouterr().err
    assert printed.startswith("simsmoe: error: ")
    assert said in printed
    assert len(printed) < 600


@pytest.mark.parametrize("word", ["sh\x1b[31mow", "-\x1b[31m", "--a\nb", "show\r"])
def test_control_characters_of_a_wrong_command_line_are_escaped(
    capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert main.run([word]) == EXIT_USAGE
    assert main.run(["monitor", "--port", word]) == EXIT_USAGE
    assert main.run(["list", word]) == EXIT_USAGE
    printed = capsys.readouterr().err
    assert printed.count("\n") == 3
    assert printed.replace("\n", "").isprintable()
