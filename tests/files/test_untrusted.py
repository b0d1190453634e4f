"""Files that somebody may have touched: what can be used comes through, the rest says why not."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from simsmoe_cli.files.untrusted import (
    Unreadable,
    parse_json,
    read_bytes,
    read_json,
    sealed,
    unsealed,
    validated,
)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    count: int = Field(ge=0)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    inner: dict[str, Inner]


@pytest.mark.parametrize(
    "value", [{}, [], None, 1.5, "é \U0001f600", {"a": [{"b": [1, 2, {"c": None}]}]}]
)
def test_json_comes_back_as_it_was_written(tmp_path: Path, value: Any) -> None:
    for ascii_only in (True, False):
        path = tmp_path / "value.json"
        path.write_bytes(json.dumps(value, ensure_ascii=ascii_only).encode())
        assert read_json(path) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"{}\n\n[", "line 3"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        (b'[{"\\u001b[31m": 1, "\\u001b[31m": 1}]', r"'\x1b[31m' twice"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[" * 65 + b"]" * 65 + b"\n", "nested too deep"),
        (b"1" * 5000, "too many digits"),
        (b'"\\ud800"', "half a character"),
    ],
)
def test_what_is_no_json_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_json(content)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_file_is_read_only_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 101)
    assert len(read_bytes(path, 101)) == 101
    with pytest.raises(Unreadable, match="more than 100 bytes"):
        read_bytes(path, 100)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        # The path of a socket must be short, wherever tmp_path lies.
        folder = os.open(tmp_path, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("fifo", "socket", "loop", ".", "file/below", "x" * 5000, "nul\0"):
        with pytest.raises(Unreadable):
            read_bytes(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "input should be an object"),
        ({"name": "a"}, "inner: field required"),
        ({"name": 1, "inner": {}}, "name: input should be a valid string (it is 1)"),
        ({"name": "a", "inner": {"x": {"count": -1}}}, "inner.x.count: input should be greater"),
        ({"name": "a", "inner": {"x": {"count": True}}}, "inner.x.count"),
        ({"name": "a", "inner": {}, "more": 1}, "more: extra inputs"),
        ({"name": "a", "inner": {"\x1b\n" * 900: {"count": "x" * 9000}}}, "x1b"),
        ({"name": 1, "inner": 2}, "and 1 more problem"),
    ],
)
def test_what_fits_no_schema_says_where(value: Any, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        validated(Outer, value)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_what_fits_a_schema_comes_through() -> None:
    assert validated(Outer, {"name": "a", "inner": {"x": {"count": 3}}}).inner["x"].count == 3


def test_a_sealed_object_is_opened_only_unchanged() -> None:
    value = {"a": 1, "b": {"c": ["é", None, 0.1]}}
    written = json.loads(json.dumps(sealed(value)))
    assert unsealed(written) == value
    assert unsealed(dict(reversed(written.items()))) == value
    for changed in ({**written, "a": 2}, {**written, "d": 1}, {**written, "checksum": None}):
        with pytest.raises(Unreadable, match="changed"):
            unsealed(changed)
    for unusable in (value, [], None, "a"):
        with pytest.raises(Unreadable):
            unsealed(unusable)
