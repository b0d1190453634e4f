"""What a user sees when something is wrong, and the exit codes that go with it.

Every error a user can cause is a :class:`UserError`: what is wrong, where, the nearest valid
thing, what to do. The command line prints it as one line and exits with its code; library
users can catch it like any other exception.
"""

from __future__ import annotations

import difflib
import errno
import itertools
from collections.abc import Iterable, Sequence

EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_NON_FINITE = 4
EXIT_OUT_OF_MEMORY = 5
EXIT_COLLAPSE = 6
EXIT_SIGINT = 130
EXIT_SIGPIPE = 141
EXIT_SIGTERM = 143

MOST_LINES = 10  # of the problems reported together
MOST_NAMES = 40  # listed in a hint
MOST_COMPARED = 5_000  # names among which the nearest is looked for
LONGEST_COMPARED = 100  # characters of a name of which the nearest is looked for


def printable(text: object, most: int = 80) -> str:
    """A foreign text as one short line that any terminal can show.

    Line ends, control characters and whatever else is not printable become escapes such as
    ``\\x1b``; of a text longer than `most` characters the middle is left out.
    """
    line = str(text)
    if len(line) > most:
        tail = most // 3
        line = f"{line[: most - tail - 1]}…{line[-tail:]}"
    return escaped(line)


def escaped(text: str, keep: str = "") -> str:
    """A whole text with escapes such as ``\\x1b`` for what is not printable.

    Args:
        text: foreign.
        keep: characters that stay as they are, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def visible(text: str) -> str:
    """A foreign text of several lines that any terminal can show: whole, with its line ends and
    tabs, other characters as :func:`escaped` has them."""
    return escaped(text, keep="\n\t")


class UserError(Exception):
    """A problem a user can cause and mend.

    Its text is one line: whatever a terminal cannot show is escaped, and what is very long is cut.
    A foreign value in `what` should be cut with :func:`printable` first.

    Args:
        what: what is wrong, in a few words, without a full stop.
        where: the file, flag or field it was found at; empty when `what` says it.
        hint: what to do about it, the nearest valid name first.
        code: the exit status of the command.
        problems: further lines, for an error that reports several things together; the first
            ten are shown, and how many more there are.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        code: int = EXIT_USAGE,
        problems: Sequence[UserError] = (),
    ):
        self.what = what
        self.where = where
        self.hint = hint
        self.code = code
        self.problems = problems
        super().__init__(str(self))

    def __str__(self) -> str:
        text = printable(self.what, 800)
        if self.where:
            text = f"{printable(self.where, 300)}: {text}"
        if self.hint:
            text = f"{text}. {printable(self.hint, 1200)}"
        lines = [text, *(str(problem) for problem in self.problems[:MOST_LINES])]
        if len(self.problems) > MOST_LINES:
            lines.append(f"and {len(self.problems) - MOST_LINES:,} more")
        return "\n  ".join(lines)


class NotPermitted(UserError):
    """A file that is there and that this user may not read; nothing is known to be wrong with it.

    Args:
        path: of the file, or of its folder.
    """

    def __init__(self, path: object):
        super().__init__(
            "permission denied: this user may not read it",
            where=str(path),
            hint="If it is yours, allow it: chmod u+r on the file, u+rx on its folders. Otherwise "
            "ask its owner.",
            code=EXIT_DATA,
        )


class Terminated(BaseException):
    """SIGTERM as an exception, so that a command cleans up on its way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: "Did you mean 'x'? Available: a, b, x."."""
    names = sorted(known)
    close = closest(name, names)
    did_you_mean = f"Did you mean '{printable(close)}'? " if close else ""
    return f"{did_you_mean}Available: {listed(names, MOST_NAMES) or 'none'}."


def listed(
    texts: Sequence[object], most: int = MOST_LINES, *, longest: int = 80, between: str = ", "
) -> str:
    """The first foreign texts of several, and how many more there are; empty if there are none.

    Args:
        texts: each is shown by :func:`printable`.
        most: how many are shown.
        longest: characters of each.
        between: what separates them.
    """
    shown = between.join(printable(text, longest) for text in texts[:most])
    rest = len(texts) - most
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that is most like this one; empty if none is.

    Bounded in time: very long names are cut, and of very many not all are looked at.
    """
    names = itertools.islice(known, MOST_COMPARED)
    found = difflib.get_close_matches(name[:LONGEST_COMPARED], names, n=1, cutoff=cutoff)
    return found[0] if found else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of an accelerator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    phrases = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
