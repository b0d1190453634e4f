"""What a user sees when something is wrong, and the exit codes that go with it.

Every error a user can cause is a :class:`UserError`: what is wrong, where, the nearest valid
thing, what to do. The command line prints it as one line and exits with its code; library
users can catch it like any other exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_NON_FINITE = 4
EXIT_OUT_OF_MEMORY = 5
EXIT_COLLAPSE = 6
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class UserError(Exception):
    """A problem a user can cause and mend.

    Args:
        what: what is wrong, in a few words, without a full stop.
        where: the file, flag or field it was found at; empty when `what` says it.
        hint: what to do about it, the nearest valid name first.
        code: the exit status of the command.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: int = EXIT_USAGE):
        self.what = what
        self.where = where
        self.hint = hint
        self.code = code
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.hint}" if self.hint else text


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        paths: the fields involved, dotted; the first is where it is reported.
        what: what is wrong with the value given.
        hint: the nearest valid thing, or what to do.
    """

    paths: tuple[str, ...]
    what: str
    hint: str = ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: "Did you mean 'x'? Available: a, b, x."."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    did_you_mean = f"Did you mean '{close[0]}'? " if close else ""
    return f"{did_you_mean}Available: {', '.join(names) or 'none'}."
