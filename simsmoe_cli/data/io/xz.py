"""Reading .xz files within bounded memory."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

from simsmoe_cli.errors import DataError

MEMORY = 1 << 29  # bytes; a file made by xz -9 needs an eighth of it
CHUNK = 1 << 20


class XzFile(io.RawIOBase):
    """The content of an .xz file.

    The header of the file sets the size of the dictionary that its reader must allocate, up to 4
    GiB. `lzma.open` allocates any size; here a file that needs more than MEMORY is a UserError.

    Args:
        path: of the file.
        mode: "rb"; as `gzip.open` and others take it.
    """

    def __init__(self, path: Path, mode: str = "rb"):
        self._path = path
        self._file = open(path, "rb")  # noqa: SIM115
        self._decoder = self._new_decoder()

    @staticmethod
    def _new_decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        """The position in the compressed file."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        try:
            return self._read(size)
        except lzma.LZMAError as error:
            if "Memory usage limit" not in str(error):
                raise
            raise DataError(
                f"needs more than {MEMORY >> 20:,} MiB of memory to be unpacked",
                where=str(self._path),
                hint="Unpack it yourself if you trust it, and name what was in it.",
            ) from None

    def _read(self, size: int) -> bytes:
        while True:
            if self._decoder.eof:
                # Another stream may follow, after zero bytes that pad this one.
                rest = self._decoder.unused_data
                while not rest.strip(b"\0"):
                    rest = self._file.read(CHUNK)
                    if not rest:
                        return b""
                self._decoder = self._new_decoder()
                fed = rest.lstrip(b"\0")
            elif self._decoder.needs_input:
                fed = self._file.read(CHUNK)
                if not fed:
                    raise EOFError("it ends before its end-of-stream marker")
            else:
                fed = b""
            if content := self._decoder.decompress(fed, size):
                return content
