"""Writes and parses the events of a run.

There is one writer and one parser. The parser gets the fields of a line from the classes in
`events.py`, so a new kind needs a class there and nothing here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import (
    Any,
    BinaryIO,
    Literal,
    Required,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import numpy as np
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, from_json
from pydantic_core import core_schema as cs

from simsmoe_cli.errors import printable
from simsmoe_cli.run.events import Event, Header, Number, Schema1Layer

SCHEMA = 2
TOO_LARGE = 1e300  # numbers from here on cannot be added up
LARGEST = 1 << 53  # whole numbers up to here are exact as floats
LONG_LINE = 8 << 20  # bytes; only similarity events of schema 1 are longer
LONGEST_LINE = 64 << 20
MARK_BYTES = 256  # of a line, in which its kind is found
KIND = b'"kind"'  # every event has this key; a line without it need not be parsed
BROKEN = "lines that are not events are skipped"
FREQUENT = ("train", "router")  # kinds that fill the file
LARGE = 1e38  # fp32 ends here


class EventLog:
    """Appends events to a run folder and passes them to subscribers.

    Args:
        path: the events.jsonl to append to.
        keep_bytes: cut the file to this length first, or to the last whole line before it (a
            resumed run keeps the events up to its checkpoint); None starts a new file.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None):
        self._subscribers: list[Callable[[dict[str, Any]], None]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep_bytes is None or not path.exists():
            path.write_bytes(b"")
        os.truncate(path, _whole_lines(path, keep_bytes or 0))
        self._file = open(path, "ab")  # noqa: SIM115

    def subscribe(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call `callback` with every event from now on."""
        self._subscribers.append(callback)

    def emit(self, event: Event) -> None:
        """Write an event as one whole line, with schema and time, and pass it on.

        The numbers of frequent kinds are means of fp32 numbers, and are written with as many digits
        as an fp32 number has.
        """
        kind = event["kind"]
        header = {"schema": SCHEMA, "kind": kind, "step": event["step"]}
        fields = finite(event, fp32=kind in FREQUENT)
        written = header | {"time": round(time.time(), 6)} | fields
        line = json.dumps(written, separators=(",", ":"), allow_nan=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        for callback in self._subscribers:
            callback(written)

    def position(self) -> int:
        """Bytes written so far."""
        self._file.flush()
        return self._file.tell()

    def sync(self) -> None:
        """Return when everything written so far is on the disk. Another thread may call it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def finite(value: Any, *, fp32: bool = False) -> Any:
    """The value with every float JSON cannot hold (nan, inf) replaced by None.

    Args:
        value: of JSON's types.
        fp32: whether to round floats to the shortest number that is the same in fp32.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(str(np.float32(value))) if fp32 and abs(value) < LARGE else value
    if isinstance(value, dict):
        return {key: finite(item, fp32=fp32) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item, fp32=fp32) for item in value]
    return value


def _whole_lines(path: Path, limit_bytes: int) -> int:
    """The length of the whole lines at the start of a file, at most `limit_bytes`."""
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


class NotAnEvent(ValueError):
    """The reason why a line is skipped, in words.

    Attributes:
        why: the same in one word: "broken" (it is not an event), "newer" (of a schema that this
            version cannot read) or "long" (over 8 MiB; 64 MiB of a similarity event).
    """

    def __init__(self, why: Literal["broken", "newer", "long"], message: str):
        super().__init__(message)
        self.why = why


def read_events(path: Path) -> Iterator[Event]:
    """Every whole event of a file, oldest first; lines that are not events are skipped."""
    with open(path, "rb") as file:
        for line in _lines(file):
            if KIND in line:
                with contextlib.suppress(NotAnEvent):
                    yield parse_event(line)


def last_event(path: Path) -> Event | None:
    """The last whole event of a file, found from its end; None where there is none."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - LONG_LINE))
        for line in reversed(file.read().splitlines(keepends=True)):
            if line.endswith(b"\n") and KIND in line:
                with contextlib.suppress(NotAnEvent):
                    return parse_event(line)
    return None


def longest(line: bytes | bytearray, first: int = 0) -> int:
    """The largest allowed number of bytes of a line that begins at `first`."""
    similarity = line.find(b'"similarity"', first, first + MARK_BYTES) >= 0
    return LONGEST_LINE if similarity else LONG_LINE


def parse_event(line: bytes | bytearray, matrices: bool = False) -> Event:
    """The event of a line.

    Every field has the type that the class of its kind declares. Values of another type and unknown
    fields are left out. For an unknown kind, only the header is returned.

    Args:
        line: of an events.jsonl.
        matrices: whether to read the matrices of an event of schema 1, which is slow.

    Raises:
        NotAnEvent: it is not an event, too long, or of a schema that this version cannot read.
    """
    if len(line) > LONG_LINE and len(line) > longest(line):
        raise NotAnEvent("long", f"lines of over {LONG_LINE >> 20} MiB are skipped")
    try:
        event = cast(Event, _VALIDATOR.validate_json(line))
    except ValidationError:
        return _of_unknown_kind(line)
    if matrices and event["kind"] == "similarity" and event.get("schema", 1) == 1:
        from simsmoe_cli.run.probes import of_schema_1

        if held := of_schema_1(_SCHEMA_1.validate_json(line).get("layers", [])):
            event["held"] = held
    return event


def _of_unknown_kind(line: bytes | bytearray) -> Event:
    broken = NotAnEvent("broken", BROKEN)
    try:
        fields = from_json(line)
    except ValueError:
        raise broken from None
    if not isinstance(fields, dict) or not isinstance(kind := fields.get("kind"), str):
        raise broken
    if (schema := fields.get("schema", SCHEMA)) not in (1, 2):
        raise NotAnEvent(
            "newer",
            f"events of schema {printable(repr(schema), 20)} are skipped: this version of simsmoe "
            f"reads schema {SCHEMA} and older",
        )
    try:
        return cast(Event, {"kind": kind} | _HEADER.validate_python(fields))
    except ValidationError:
        raise broken from None


def number(value: Any) -> Number:
    """A number of an event; None for anything else, and for numbers too large to be added up."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < TOO_LARGE else None


def whole(value: Any) -> int | None:
    """A count or a step of an event; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST:
        return None
    return value


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file, except those of over `LONGEST_LINE` bytes."""
    while line := file.readline(LONGEST_LINE):
        if len(line) > 1 and line.endswith(b"\n"):
            yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)


def _schema(hint: Any) -> CoreSchema:
    """The schema of pydantic-core for this annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        fields = get_type_hints(hint, include_extras=True)
        return cs.typed_dict_schema(
            {name: _field(name, field) for name, field in fields.items() if name != "held"}
        )
    if NoneType in inner:
        return cs.nullable_schema(_schema(inner[0]))
    if origin is Literal:
        return cs.literal_schema(list(inner))
    if origin is list:
        return cs.list_schema(_item(inner[0]))
    if origin is dict:
        return cs.dict_schema(cs.str_schema(), _item(inner[1]))
    plain: dict[Any, CoreSchema] = {
        Any: cs.any_schema(),
        bool: cs.bool_schema(strict=True),
        float: cs.float_schema(strict=True, allow_inf_nan=False, gt=-TOO_LARGE, lt=TOO_LARGE),
        int: cs.int_schema(strict=True, ge=0, lt=LARGEST),
        str: cs.str_schema(strict=True),
    }
    return plain[hint]


def _field(name: str, hint: Any) -> cs.TypedDictField:
    """A field that is left out where its value is wrong, unless events cannot do without it."""
    if get_origin(hint) is Required:
        return cs.typed_dict_field(_schema(get_args(hint)[0]))
    schema = _schema(hint)
    if name != "schema":
        schema = cs.with_default_schema(schema, on_error="omit")
    return cs.typed_dict_field(schema, required=False)


def _item(hint: Any) -> CoreSchema:
    """An item of a list or object: None where its value is wrong, or left out if None is not
    allowed."""
    if NoneType in get_args(hint):
        return cs.with_default_schema(_schema(hint), default=None, on_error="default")
    return cs.with_default_schema(_schema(hint), on_error="omit")


def _validator(*kinds: Any) -> SchemaValidator:
    by_tag = {get_args(get_type_hints(kind)["kind"])[0]: _schema(kind) for kind in kinds}
    schema = cs.tagged_union_schema(by_tag, "kind")
    return SchemaValidator(schema, cs.CoreConfig(cache_strings="keys"))


_VALIDATOR = _validator(*get_args(Event))
_HEADER = SchemaValidator(_schema(Header))
_SCHEMA_1 = SchemaValidator(cs.typed_dict_schema({"layers": _field("layers", list[Schema1Layer])}))
