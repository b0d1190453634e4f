"""Stores that tests damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simsmoe_cli.files.untrusted import sealed

TEXT = "".join(f"line {number} of the text\n" for number in range(500))


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def facts(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return content


def seal(path: Path, content: dict[str, Any]) -> None:
    """Put a manifest in place whose checksum is right."""
    content.pop("checksum", None)
    (path / "manifest.json").write_text(json.dumps(sealed(content)))


def make_old(path: Path) -> None:
    """What the version before wrote: no checksum of the manifest, none of chunks."""
    content = facts(path)
    content["schema_version"] = 1
    del content["checksum"]
    for split in content["splits"].values():
        del split["chunks"]
    (path / "manifest.json").write_text(json.dumps(content))
