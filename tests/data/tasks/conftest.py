"""Some of IMDB's reviews, where the real files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.tasks.reviews import reviews


@pytest.fixture
def data(shared: Path) -> Path:
    return shared / "data"


@pytest.fixture
def some_reviews(data: Path, tmp_path: Path) -> Path:
    """A hundredth of IMDB, both ways: some/aclImdb and some/lines."""
    for split in ("train", "test"):
        few = list(reviews(data, split, 100))
        lines = tmp_path / "some/lines" / f"{split}.jsonl"
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.write_text("".join(line for line, _ in few))
        for _, review in few:
            path = tmp_path / "some/aclImdb" / f"{review['id']}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(review["text"])
    return tmp_path / "some"
