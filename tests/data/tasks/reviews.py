"""Some of IMDB's reviews."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.errors import EXIT_DATA, UserError


def failure(task: str, source: Path, out: Path) -> str:
    with pytest.raises(UserError) as caught:
        prepare_task(task, out, source=str(source))
    assert caught.value.code == EXIT_DATA
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reviews(data: Path, split: str, every: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One review of so many, as its line and as what the line says."""
    with gzip.open(data / f"imdb/{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in islice(file, 0, None, every):
            yield line, json.loads(line)
