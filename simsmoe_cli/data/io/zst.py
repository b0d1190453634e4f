"""Reading .zst files within bounded memory, with the package zstandard."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import UserError

MEMORY = 1 << 29  # bytes of the window; a file made by zstd --ultra -22 needs a quarter of it
FED = 1 << 12  # compressed bytes unpacked at a time: each may stand for 128 MiB at the worst


class ZstFile(io.RawIOBase):
    """The content of a .zst file, of one or more frames.

    Args:
        path: of the file.
        mode: "rb"; as `gzip.open` and others take it.

    Raises:
        UserError: the package zstandard is not installed.
        EOFError: (from `read`) the file ends inside a frame.
    """

    def __init__(self, path: Path, mode: str = "rb"):
        self._library = _library()
        self._file = open(path, "rb")  # noqa: SIM115
        self._decoder: Any = None
        self._rest = memoryview(b"")
        self._fed = b""

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        """The position in the compressed file."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        parts: list[memoryview] = []
        missing = size
        while size < 0 or missing:
            if not self._rest and not self._unpack():
                break
            part = self._rest if size < 0 else self._rest[:missing]
            self._rest = self._rest[len(part) :]
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _unpack(self) -> bool:
        """Unpack some more into `_rest`; false at the end of the file."""
        while not self._rest:
            if not self._fed:
                self._fed = self._file.read(FED)
                if not self._fed:
                    if self._decoder is not None:
                        raise EOFError("it ends inside a frame")
                    return False
            if self._decoder is None:
                whole = self._library.ZstdDecompressor(max_window_size=MEMORY)
                self._decoder = whole.decompressobj()
            try:
                self._rest = memoryview(self._decoder.decompress(self._fed))
            except self._library.ZstdError as error:
                raise ValueError(str(error)) from None
            self._fed = b""
            if self._decoder.eof:
                self._fed = self._decoder.unused_data
                self._decoder = None
        return True


def _library() -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise UserError(
            "reading .zst files needs the package zstandard",
            hint="Install it: pip install 'simsmoe[hf]' or pip install zstandard. Or unpack the "
            "file yourself.",
        ) from None
