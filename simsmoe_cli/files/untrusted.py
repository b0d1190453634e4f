"""Reads files that somebody may have edited, cut or replaced: within bounds, parsed and validated.

A problem with a file is raised as `Unreadable`. Its text is a short reason such as "is not JSON
(line 3)"; the caller, who knows what the file is for, makes a `UserError` of it. A JSON file can
hold its own checksum (`sealed`), so that changes by hand are noticed too.

Nothing here imports torch, and pydantic only when a schema is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from simsmoe_cli.errors import NotPermitted, counted, printable

if TYPE_CHECKING:
    from pydantic import BaseModel

    M = TypeVar("M", bound=BaseModel)

MOST_BYTES = 1 << 24
DEEPEST = 64  # lists and objects inside each other
CHECKSUM = "checksum"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Unreadable(ValueError):
    """Why a file cannot be used, as a phrase that follows its name."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: there is none.
        NotPermitted: this user may not read it.
        Unreadable: it is larger than `most` bytes, not a regular file (a FIFO would wait for ever),
            or the system cannot read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise Unreadable("is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                # Python allocates as many bytes as are asked for, however few there are.
                content = file.read(min(facts.st_size, most) + 1)
                if facts.st_size < len(content) <= most:
                    content += file.read(most + 1 - len(content))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except PermissionError:
        raise NotPermitted(path) from None
    except OSError as error:
        raise Unreadable(f"cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("has a name that files cannot have") from None
    if len(content) > most:
        raise Unreadable(f"has more than {most:,} bytes")
    return content


def require_permitted(path: Path) -> None:
    """Raise NotPermitted if this user may not even see whether the file exists."""
    try:
        path.stat()
    except PermissionError:
        raise NotPermitted(path) from None
    except (OSError, ValueError):
        return


def parse_json(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        Unreadable: it is not UTF-8 or not JSON, a key occurs twice in an object, it is nested
            deeper than `DEEPEST`, or has a number or a character that Python cannot hold.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object)
        if _SURROGATE.search(content):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"is not UTF-8 (line {line:,})") from None
    except UnicodeEncodeError:
        raise Unreadable("has half a character (a lone surrogate)") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}"
        at = f", line {error.lineno:,}" if b"\n" in content else ""
        raise Unreadable(f"is not JSON ({reason}{at})") from None
    except RecursionError:
        raise Unreadable("is nested too deep") from None
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("has a number with too many digits") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise Unreadable("is nested too deep")


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The value in a JSON file; raises what `read_bytes` and `parse_json` raise."""
    return parse_json(read_bytes(path, most))


def validated(schema: type[M], value: Any) -> M:
    """The value as an instance of a schema.

    Raises:
        Unreadable: it does not fit; the text names the first problem and where it is.
    """
    from pydantic import ValidationError

    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        field = printable(".".join(map(str, first["loc"])))
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "model_type":  # which names a class of ours
            reason = "input should be an object"
        reason = printable(f"{reason[:1].lower()}{reason[1:]}", 300)
        given = first["input"]
        shown = "" if isinstance(given, dict | list) else f" (it is {printable(repr(given))})"
        more = f", and {counted(len(others), 'more problem')}" if others else ""
        raise Unreadable(
            f"{field}: {reason}{shown}{more}" if field else f"{reason}{more}"
        ) from None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of itself added."""
    return {**value, CHECKSUM: _checksum(value)}


def unsealed(value: Any) -> dict[str, Any]:
    """A JSON object without the checksum that `sealed` put into it.

    Raises:
        Unreadable: it is not an object, has no checksum, or was changed since.
    """
    if not isinstance(value, dict):
        raise Unreadable("is not a JSON object")
    rest = {name: item for name, item in value.items() if name != CHECKSUM}
    if CHECKSUM not in value:
        raise Unreadable("has no checksum")
    if value[CHECKSUM] != _checksum(rest):
        raise Unreadable("was changed: its checksum does not match")
    return rest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Unreadable(f"has '{printable(twice)}' twice in one object")
    return value


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
