"""The headers of safetensors files are read without their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.huggingface.stored_tensors import read_header


def test_a_header_says_shape_and_dtype(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {
        "a": torch.zeros(3, 4, dtype=torch.bfloat16),
        "b": torch.zeros((), dtype=torch.int64),
        "c": torch.zeros(5, dtype=torch.float8_e4m3fn),
    }
    save_file(tensors, file)
    found = read_header(file)
    assert {name: (part.shape, part.dtype, part.count) for name, part in found.items()} == {
        "a": ((3, 4), "BF16", 12),
        "b": ((), "I64", 1),
        "c": ((5,), "F8_E4M3", 5),
    }
    assert {part.file for part in found.values()} == {file}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged or cut short"),
        (b"\x08" + 7 * b"\x00" + b"{}      ", ""),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\xff" * 100, "damaged or cut short"),
    ],
)
def test_a_file_that_is_damaged_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    if not said:
        assert read_header(file) == {}
        return
    with pytest.raises(UserError, match=said) as caught:
        read_header(file)
    assert caught.value.code == EXIT_DATA
    assert caught.value.where == str(file)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_header(tmp_path / "none.safetensors")
