"""What the readers of tasks give: labelled rows by split, and what is known of their source."""

from __future__ import annotations

from dataclasses import dataclass, field

from simsmoe_cli.data.tasks.parsers import Row
from simsmoe_cli.data.tasks.store import SourceFile


@dataclass
class Found:
    """The labelled rows of a source, and what is known of it.

    Attributes:
        given: path, URL or Python version it was read from.
        layout: how it lies there.
        splits: train, and valid and test if there are such; a label is the name of a class.
        sources: what was read.
        files: of each split, as a user knows it.
        whole: false for a part of a known task.
        notes: what is known of the data.
        warnings: what is wrong with this copy.
    """

    given: str
    layout: str
    splits: dict[str, list[Row]] = field(default_factory=dict)
    sources: list[SourceFile] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    whole: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
