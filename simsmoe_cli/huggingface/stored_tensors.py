"""Reads the headers of safetensors files: the names, shapes and dtypes of the tensors.

Only headers are read. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from simsmoe_cli.errors import DataError, NotPermitted, UserError, printable

LFS_POINTER = b"version https://git-lfs"
PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names dtypes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: the safetensors file that holds it.
        shape: its shape.
        dtype: its dtype as safetensors writes it: "BF16", "F8_E4M3".
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name.

    Raises:
        UserError: the file cannot be read, is damaged, or shorter than its header says.
    """

    def bad(what: str, hint: str = "") -> UserError:
        return DataError(what, where=str(file), hint=hint)

    try:
        with open(file, "rb") as opened:
            start = opened.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise bad("a pointer of Git LFS, not weights", "Fetch the file: git lfs pull.")
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in list(tensors.keys())}
            return {
                name: StoredTensor(file, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except PermissionError:
        raise NotPermitted(file) from None
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror or printable(error)}") from None
    except UserError:
        raise
    except Exception as error:
        raise bad(f"damaged or cut short: {printable(error)}", "Download the file again.") from None
