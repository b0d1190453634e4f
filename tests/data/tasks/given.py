"""Tables of labelled texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import Task
from simsmoe_cli.errors import EXIT_DATA, UserError


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path


def numbered(begin: str, counts: dict[str, int]) -> list[tuple[str, str]]:
    return [
        (f"{begin} {label} {number}", label)
        for label, count in counts.items()
        for number in range(count)
    ]


def texts(task: Task, split: str) -> set[str]:
    return {example.text for example in task.split(split)}


def failure(given: Path, out: Path, code: int = EXIT_DATA, **asked: str) -> UserError:
    with pytest.raises(UserError) as caught:
        prepare_task(str(given), out, **asked)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert not list(out.parent.glob(f".{out.name}.partial*"))
    return caught.value


def numbers(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "task.json").read_text())
    return content
