"""A text for benchmarks that every machine with Python has: modules of its standard library."""

from __future__ import annotations

import os
from pathlib import Path

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore


def standard_library(folder: Path, most: int) -> TokenStore:
    """Prepare at most this many bytes of the standard library in the folder, and open them."""
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    text = folder / "modules.txt"
    text.write_bytes(b"".join(module.read_bytes() for module in modules)[:most])
    prepare(str(text), folder / "modules")
    return TokenStore.open(folder / "modules")
