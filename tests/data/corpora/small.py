"""Small corpora that stand for the published ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import UserError

SPLITS = ("train", "valid", "test")


def _text() -> str:
    """Lines of words, a character of two bytes among them, the same every time."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdeé", k=draw.randint(1, 7))) for _ in range(300)]
    return "".join(" ".join(draw.choices(words, k=draw.randint(0, 9))) + "\n" for _ in range(2500))


TEXT = _text()
WHOLE = TEXT.encode()[:50_000]


def decoded(store: TokenStore) -> dict[str, str]:
    return {name: store.tokenizer.decode(store.split(name)) for name in SPLITS}


def failure(code: int, *arguments: Any, **options: Any) -> str:
    """The error of a `prepare` that must fail, and leave its place as it found it."""
    out: Path = arguments[1]
    before = snapshot(out.parent)
    with pytest.raises(UserError) as caught:
        prepare(*arguments, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert snapshot(out.parent) == before
    return str(caught.value)


def snapshot(folder: Path) -> dict[str, int]:
    """Every file below a folder with its time of change, but for locks."""
    files = folder.rglob("*") if folder.is_dir() else []
    return {str(path): path.stat().st_mtime_ns for path in files if path.suffix != ".lock"}


WIKI = {
    "train": " \n = Title = \n \n the cat <unk> the mat . \n" * 30,
    "valid": " \n = Other = \n a dog . \n" * 3,
    "test": " \n = Third = \n the end",
}
