"""The run folder: the only bridge between training and everything that shows it.

    runs/NAME/
      recipe.yaml        the resolved recipe
      environment.json   versions, machine and command of every session that trained here
      events.jsonl       what happened, one JSON object a line
      checkpoints/step-NNNNNNN/
      best/              weights with the lowest validation loss, or highest accuracy
      tokenizer.json | sentencepiece.model   of a fine-tuned run, whose texts it encodes
      report/
      profile/           trace and summary of the last profile
      damaged-N-NAME     what could not be read, kept when another took its place
      .lock              held while a process trains here

Every event has ``schema``, ``kind``, ``step`` and ``time`` (seconds since the epoch). Kinds and
their further fields (L layers with experts, N experts, E evaluations):

    run_started    name, recipe, parameters, tokens_per_step, total_steps, unit, device, precision;
                   again where a resumed run goes on with other settings
    train          loss_nats, bpc, losses {name: nats}, lr, grad_norm, tokens,
                   similarity {pairs_due, mean, and what is in force of weight,
                   threshold, check_every, sigma}, metrics {name: what routers report, mean over
                   layers and steps}, tokens_per_s, step_ms
    eval           split, loss_nats, bpc, bits_per_byte, perplexity, word_perplexity, tokens, best,
                   tokens_per_s
    router         layers [{layer, load [N], load_cv, dead [ids], entropy_nats,
                   entropy_of_mean_nats}]
    similarity     tokens, measure, layers [{layer, cka [N][N] (null: undefined), mean,
                   shared [N][N]}]
    checkpoint     path; taken now, written meanwhile: its folder has this name once it is whole
    profile        path of its folder, and there trace and summary
    warning        message
    run_finished   status (finished | stopped | failed), reason, and for a finished run test_bpc
                   (null where a token is no character), test_loss_nats, best_step

Fine-tuning adds to run_started task, labels and steps_per_epoch; to train accuracy; to eval
accuracy, macro_f1 and examples; to run_finished test_accuracy. Its unit is "text", its bpc and
perplexity are null, its split is the task's, its tokens are those of texts without padding, and
tokens_per_step is the most there can be. best says that no earlier validation was as good: in loss,
in fine-tuning in accuracy.

Readers skip kinds and fields they do not know, and a torn last line. A resumed run first cuts the
file back to where its checkpoint was taken, so whoever follows it must expect it to shrink. Values
that depend on the clock stand in ``time`` and in fields that end in ``_per_s`` or ``_ms``, nowhere
else, so two runs of one seed have equal events but for those.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from pydantic_core import from_json

from simsmoe_cli.errors import UserError

SCHEMA = 1
TOO_LARGE = 1e300
LARGEST = 1 << 53  # whole numbers up to here are exact as floats
LONG_LINE = 8 << 20  # bytes; only similarity events are longer
LONGEST_LINE = 64 << 20
MARK_BYTES = 256  # of a line, in which its kind stands
_MATRIX = re.compile(rb'"(cka|shared)":\[\[[^{}"]*?\]\]')
Event = dict[str, Any]


class RunDir:
    """Paths of one run, its lock, and its events."""

    def __init__(self, path: Path):
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.report = path / "report"
        self.profile = path / "profile"

    @property
    def name(self) -> str:
        return self.path.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder; a UserError if another process trains in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another process is training in this run folder",
                where=str(self.path),
                hint="Wait for it, stop it, or choose another --name.",
            ) from None
        try:
            yield
        finally:
            lock.release()


def finite(value: Any) -> Any:
    """The value with every float JSON cannot hold (nan, inf) replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class EventLog:
    """Appends events to a run folder and tells whoever subscribed.

    Args:
        path: the events.jsonl to append to.
        keep_bytes: cut the file to this length first (what a resumed run had written when its
            checkpoint was taken), as far as whole lines of it are still there; None starts a new
            file.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None):
        self._subscribers: list[Callable[[Event], None]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep_bytes is None or not path.exists():
            path.write_bytes(b"")
        os.truncate(path, _whole_lines(path, keep_bytes or 0))
        self._file = open(path, "ab")  # noqa: SIM115

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with every event from now on."""
        self._subscribers.append(callback)

    def emit(self, kind: str, step: int, **fields: Any) -> None:
        """Write one event as one whole line and pass it on."""
        event = finite({"schema": SCHEMA, "kind": kind, "step": step, "time": time.time()} | fields)
        line = json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        for callback in self._subscribers:
            callback(event)

    def position(self) -> int:
        """Bytes written so far."""
        self._file.flush()
        return self._file.tell()

    def sync(self) -> None:
        """Return when everything written so far is on the disk. Another thread may call it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path, limit_bytes: int) -> int:
    """Length of the whole lines that a file begins with, of at most so many bytes."""
    with open(path, "rb") as file:
        end = min(limit_bytes, file.seek(0, os.SEEK_END))
        while end:
            begin = max(0, end - (1 << 20))
            file.seek(begin)
            last = file.read(end - begin).rfind(b"\n")
            if last >= 0:
                return begin + last + 1
            end = begin
    return 0


def read_events(path: Path) -> Iterator[Event]:
    """Every whole event of a file, oldest first, of this schema and with a step.

    Lines that are none are skipped, and those that are longer than events are. Of similarity events
    that are long, the matrices are left empty.
    """
    with open(path, "rb") as file:
        for line in _lines(file):
            if len(line) > LONG_LINE and b'"similarity"' in line[:MARK_BYTES]:
                line = _MATRIX.sub(rb'"\1":[]', line)
            event = parse_event(line) if len(line) <= LONG_LINE else None
            if (
                event is not None
                and event.get("schema", SCHEMA) == SCHEMA
                and whole(event.get("step")) is not None
            ):
                yield event


def parse_event(line: bytes | bytearray) -> Event | None:
    """The event of a line; None for what is none."""
    try:
        event = from_json(line, cache_strings="keys")
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def number(value: Any) -> float | None:
    """A number of an event; None for null, anything else, and what is too large to be added up."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < TOO_LARGE else None


def whole(value: Any) -> int | None:
    """A count or a step of an event; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST:
        return None
    return value


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file but for those of over `LONGEST_LINE` bytes."""
    while line := file.readline(LONGEST_LINE):
        if len(line) > 1 and line.endswith(b"\n"):
            yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)
