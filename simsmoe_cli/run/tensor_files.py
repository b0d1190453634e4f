"""Tensors in one or several safetensors files, of which each may hold a block of a tensor.

Files of several ranks say in their header where their blocks lie, in the format of
torch.distributed.checkpoint (HuggingFaceStorageWriter), which can read them. A tensor is read whole
or in part, whatever its blocks are, so any number of ranks can read what another number wrote, and
none of them needs memory for more than it keeps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from simsmoe_cli.parallel.sharded import Bounds, OwnShare

BLOCKS, START = "DCP_SHARDING_INFO", "saved_offsets"  # torch.distributed.checkpoint._hf_utils


def save_share(share: OwnShare, path: Path) -> None:
    """Write what a rank holds of tensors.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    blocks = {name: {START: list(start)} for name, start in share.starts.items()}
    # One entry only: safetensors writes several in a random order, and a resumed run would write
    # other bytes.
    save_file(share.tensors, path, {BLOCKS: json.dumps(blocks, sort_keys=True)})


class _Block(NamedTuple):
    file: Any
    bounds: Bounds


class TensorFiles:
    """The tensors of some files; only their headers are read until a tensor is asked for.

    Attributes:
        paths: of the files.
        found: shape and type (as safetensors calls it) of each whole tensor, by name.

    Raises:
        SafetensorError, OSError: a file cannot be read.
        ValueError: the blocks of a tensor are not a whole tensor.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self.found: dict[str, tuple[tuple[int, ...], str]] = {}
        self._blocks: dict[str, list[_Block]] = {}
        kinds: dict[str, set[str]] = {}
        for path in paths:
            file: Any = safe_open(path, "pt")
            starts = _starts(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                size = tuple(part.get_shape())
                start = (0,) * len(size) if starts is None else starts.get(name, ())
                if len(start) != len(size):
                    raise ValueError(f"it does not say where its block of {name!r} lies")
                self._blocks.setdefault(name, []).append(_Block(file, Bounds(start, size)))
                kinds.setdefault(name, set()).add(str(part.get_dtype()))
        for name, blocks in self._blocks.items():
            self.found[name] = (
                _whole_shape(name, [block.bounds for block in blocks]),
                "".join(sorted(kinds[name])),
            )

    def read(self, name: str, part: Bounds | None = None) -> Tensor:
        """A tensor, or a part of it, on the CPU.

        Raises:
            SafetensorError, OSError: its file cannot be read.
        """
        if part is None:
            shape, _ = self.found[name]
            part = Bounds((0,) * len(shape), shape)
        read: Tensor | None = None
        for file, block in self._blocks[name]:
            if block == part:
                return cast(Tensor, file.get_tensor(name))
            low = [max(pair) for pair in zip(part.start, block.start, strict=True)]
            high = [min(pair) for pair in zip(_ends(part), _ends(block), strict=True)]
            if all(start < stop for start, stop in zip(low, high, strict=True)):
                found = file.get_slice(name)[_slices(low, high, block.start)]
                read = found.new_zeros(part.size) if read is None else read
                read[_slices(low, high, part.start)] = found
        return torch.empty(part.size) if read is None else read


def _starts(header: dict[str, str]) -> dict[str, tuple[int, ...]] | None:
    """Where the blocks of a file lie; None if its tensors are whole."""
    if BLOCKS not in header:
        return None
    try:
        blocks = json.loads(header[BLOCKS])
        starts = {name: tuple(block[START]) for name, block in blocks.items()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{BLOCKS} in its header cannot be read") from None
    if not all(type(n) is int and n >= 0 for start in starts.values() for n in start):
        raise ValueError(f"{BLOCKS} in its header holds something else than indices")
    return starts


def _whole_shape(name: str, blocks: Sequence[Bounds]) -> tuple[int, ...]:
    """The shape of the tensor that blocks make up."""
    if len({len(block.size) for block in blocks}) != 1:
        raise ValueError(f"the blocks of {name!r} do not have the same number of dimensions")
    shape = tuple(max(ends) for ends in zip(*map(_ends, blocks), strict=True))
    if sum(math.prod(block.size) for block in blocks) != math.prod(shape):
        raise ValueError(f"the blocks of {name!r} are not a whole tensor")
    return shape


def _ends(block: Bounds) -> tuple[int, ...]:
    return tuple(start + size for start, size in zip(block.start, block.size, strict=True))


def _slices(low: Sequence[int], high: Sequence[int], origin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(start - at, stop - at) for start, stop, at in zip(low, high, origin, strict=True)
    )
