"""The result of reading a task's files: labelled rows by split, and facts about the source."""

from __future__ import annotations

from dataclasses import dataclass, field

from simsmoe_cli.data.tasks.parsers import Row
from simsmoe_cli.data.tasks.store import SourceFile


@dataclass
class Found:
    """The labelled rows of a source, and facts about it.

    Attributes:
        given: path, URL or Python version it was read from.
        layout: the arrangement of its files.
        splits: train, and valid and test if there are such; a label is the name of a class.
        sources: the files that were read.
        files: of each split, as a user knows it.
        whole: false for a part of a known task.
        notes: notes on the published data.
        warnings: problems of this copy.
    """

    given: str
    layout: str
    splits: dict[str, list[Row]] = field(default_factory=dict)
    sources: list[SourceFile] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    whole: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
