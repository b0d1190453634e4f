"""Broken input by the thousand: what every driver of this folder needs.

A driver makes cases from seeded random numbers, gives each to the real command line inside this
process, and asks of each what a user may expect: a known exit code, one line on stderr and no
traceback, no hang, and nothing half-written. `SIMSMOE_FUZZ_TIMES=10` makes ten times as many cases.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import re
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from simsmoe_cli.cli import main

TIMES = int(os.environ.get("SIMSMOE_FUZZ_TIMES", "1"))
SECONDS = 20  # after which a case hangs; a hundred times what one takes on a busy machine
LINE_BYTES = 4_000  # what a terminal still shows
SEVERAL = re.compile(r"simsmoe: error: [\d,]+ problems in recipe ")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end
PARTIAL = re.compile(r"partial|\.tmp|\.incoming")


class Hung(BaseException):
    """A command did not end. No command may take it for an error that it can explain."""


@dataclass(frozen=True)
class Outcome:
    """What a command line did.

    Attributes:
        arguments: the command line.
        code: its exit code.
        out, err: what it printed.
    """

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str


def cases(number: int, seed: int) -> Iterator[random.Random]:
    """A source of random numbers for each of `number` (times `TIMES`) cases."""
    for case in range(number * TIMES):
        yield random.Random(f"{seed}/{case}")


def simsmoe(*arguments: str) -> Outcome:
    """Run a command line in this process.

    Raises:
        AssertionError: it raised what no command may raise, or did not end.
    """
    out, err = _Terminal(), _Terminal()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _bounded():
            code = main.run(list(arguments))
    except BaseException as error:
        shown = "".join(traceback.format_exception(error))[-3000:]
        raise AssertionError(f"{_shown(arguments)} raised:\n{shown}") from None
    return Outcome(arguments, code, out.text(), err.text())


def require_clear(outcome: Outcome, codes: Sequence[int]) -> None:
    """Assert that a command ended with one of these codes and, unless with 0, said why in a line.

    A recipe with several problems has a line for each of the first ten, and one for the rest.
    """
    what = f"{_shown(outcome.arguments)}: exit {outcome.code}\n{outcome.err[:3000]}"
    assert outcome.code in codes, what
    assert "Traceback" not in outcome.err, what
    assert not CONTROLS.search(outcome.out + outcome.err), f"control characters: {what!r}"
    if outcome.code == 0:
        return
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("simsmoe: error: ")]
    assert len(errors) == 1, what
    after = lines[lines.index(errors[0]) :]
    assert len(after) <= (12 if SEVERAL.match(errors[0]) else 1), what
    assert all(len(line.encode(errors="replace")) <= LINE_BYTES for line in after), what


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder and a hash of it; lock files left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.endswith(".lock")
    }


def require_nothing_half_written(folder: Path) -> None:
    """Assert that no temporary file or folder was left behind below a folder."""
    left = [str(path) for path in folder.rglob("*") if PARTIAL.search(path.name)]
    assert not left, left


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with something done to them: flipped, cut, doubled, zeroed, or text put in."""
    if not content:
        return rng.randbytes(8)
    place = rng.randrange(len(content))
    kind = rng.randrange(7)
    if kind == 0:
        flipped = content[place] ^ (1 << rng.randrange(8))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content
    if kind == 3:
        return content[:place] + bytes(min(64, len(content) - place)) + content[place + 64 :]
    if kind == 4:
        return content[:place] + rng.randbytes(rng.randrange(1, 64)) + content[place:]
    if kind == 5:
        return b""
    noise = rng.choice([b"\x1b[31m", b"\n\n", b"\xff\xfe", b"[" * 5000, b"null", b"-1", b"1e999"])
    return content[:place] + noise + content[place:]


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**64, 10**30, -(10**18), 0.5, 1e308, float("inf")),
    *(float("nan"), "", " ", "a", "../../../etc/passwd", "/etc/passwd", "x" * 5000, "\x1b[31m"),
    *("é\n", "nul\x00", "１", [], {}, [[]], [None], {"a": 1}, [1, "a"], "1", "true"),
)


def disturbed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one thing in it changed: replaced, taken out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.15:
            return {**value, f"{key}x": value[key]}
        return {**value, key: disturbed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:place] + value[place + 1 :]
        return [*value[:place], disturbed(value[place], rng), *value[place + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice([value + 1, -value, value * 1000, 0, value + 0.5])
    return rng.choice(ODD)


class _Terminal(io.TextIOWrapper):
    """A stream of UTF-8 that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Raise Hung inside when it takes too long; in the main thread alone."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hung(f"not done after {SECONDS} seconds")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _shown(arguments: Sequence[str]) -> str:
    return "simsmoe " + " ".join(repr(argument[:200]) for argument in arguments)
