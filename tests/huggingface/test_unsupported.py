"""What is given instead of a model's folder is named, with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.huggingface.unsupported import (
    other_file,
    other_folder,
    read_object,
)


def test_a_folder_of_nothing_known_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert other_folder(tmp_path) is None


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "No such file" in str(other_folder(tmp_path / "none"))


def test_weights_alone_are_not_a_folder() -> None:
    assert "one file of a model" in str(other_file(Path("x.bin")))
    assert "GGUF" in str(other_file(Path("x.gguf")))


def test_an_object_in_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config\.json is gone"):
        read_object(path)
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
