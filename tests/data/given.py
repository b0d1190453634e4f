"""Sources of text that tests of several rooms read."""

from __future__ import annotations

from pathlib import Path

from simsmoe_cli.data.corpora.parts import Source
from simsmoe_cli.data.corpora.sources import resolve


def parts_of(given: Path | str, scratch: Path) -> Source:
    scratch.mkdir()
    return resolve(None, str(given), scratch, scratch, lambda stage, done, total: None)
