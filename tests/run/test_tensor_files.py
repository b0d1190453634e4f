"""Tensors in blocks over several files: any block of them is read, and damage is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, load

from simsmoe_cli.parallel.sharded import Bounds, OwnShare
from simsmoe_cli.run.tensor_files import BLOCKS, START, TensorFiles, save_share

WHOLE = torch.arange(30.0).view(5, 6)


def written(folder: Path, *blocks: Bounds) -> list[Path]:
    """A file for each block of `WHOLE`; the first holds further tensors."""
    paths = []
    for number, (start, size) in enumerate(blocks):
        share = OwnShare({"b": torch.tensor(3), "a": torch.ones(0)}, {"b": (), "a": (0,)})
        if number:
            share = OwnShare()
        ends = [slice(low, low + wide) for low, wide in zip(start, size, strict=True)]
        share.tensors["x"], share.starts["x"] = WHOLE[tuple(ends)].contiguous(), start
        paths.append(folder / f"{number}.safetensors")
        save_share(share, paths[-1])
    return paths


QUARTERS = [
    Bounds((0, 0), (2, 4)), Bounds((2, 0), (3, 4)), Bounds((0, 4), (2, 2)), Bounds((2, 4), (3, 2)),
]  # fmt: skip


def test_any_block_is_read(tmp_path: Path) -> None:
    files = TensorFiles(written(tmp_path, *QUARTERS))
    assert files.found == {"x": ((5, 6), "F32"), "b": ((), "I64"), "a": ((0,), "F32")}
    assert torch.equal(files.read("x"), WHOLE)
    for top, height, left, width in [(0, 5, 0, 6), (1, 3, 3, 2), (2, 3, 0, 4), (4, 1, 5, 1)]:
        found = files.read("x", Bounds((top, left), (height, width)))
        assert torch.equal(found, WHOLE[top : top + height, left : left + width])
    assert files.read("x", Bounds((5, 0), (0, 6))).shape == (0, 6)
    assert files.read("b").item() == 3


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_pytorch_reads_them(tmp_path: Path) -> None:
    written(tmp_path, *QUARTERS)
    state = {"x": torch.zeros(5, 6)}
    load(state, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert torch.equal(state["x"], WHOLE)


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        (QUARTERS[:3], "not a whole tensor"),
        ([*QUARTERS, QUARTERS[0]], "not a whole tensor"),
        ([*QUARTERS[:3], Bounds((4,), (1,))], "number of dimensions"),
    ],
)
def test_blocks_that_are_no_whole_tensor_are_refused(
    tmp_path: Path, blocks: list[Bounds], why: str
) -> None:
    paths = written(tmp_path, *blocks[:3])
    for number, (start, size) in enumerate(blocks[3:], 3):
        paths.append(tmp_path / f"{number}.safetensors")
        save_share(OwnShare({"x": torch.zeros(size)}, {"x": start}), paths[-1])
    with pytest.raises(ValueError, match=why):
        TensorFiles(paths)


@pytest.mark.parametrize(
    "header", ["{", "[" * 5000, "[]", "1", {"x": {}}, {"x": {START: 3}}, {"x": {START: [-1, 0]}},
               {"x": {START: [0.0, 0]}}, {"x": {START: [0]}}, {"y": {START: [0, 0]}}]
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, header: object) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"x": WHOLE}, tmp_path / "x.safetensors", {BLOCKS: text})
    with pytest.raises(ValueError, match=r"in its header|where its block"):
        TensorFiles([tmp_path / "x.safetensors"])
