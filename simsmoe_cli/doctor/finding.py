"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the subject of the check.
        status: ok; missing, if training works without it; broken, if it does not.
        found: the result in words.
        cost: the features that do not work, or are slower, without it; empty if ok.
        remedy: how to get it, a line per command; empty if ok.
    """

    name: str
    status: Literal["ok", "missing", "broken"]
    found: str
    cost: str = ""
    remedy: str = ""


def first_line(error: object) -> str:
    """The first line of an error's text, or its kind."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
