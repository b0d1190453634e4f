"""Errors that users see, the exit codes of commands, and foreign text made safe to print.

Every error that a user can cause is a :class:`UserError`: what is wrong, where, the nearest valid
thing, what to do. The command line prints it as one line and exits with its code; users of the
Python API can catch it like any other exception.
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
EXIT_RANK_LOST = 7
EXIT_SIGINT = 130
EXIT_SIGPIPE = 141
EXIT_SIGTERM = 143

MOST_LINES = 10  # problems shown of those reported together
MOST_NAMES = 40  # names listed in a hint
MOST_COMPARED = 5_000  # names that an unknown one is compared with
FEW = 3  # nearest names shown of very many
LONGEST_COMPARED = 100  # characters of an unknown name that are compared


def printable(text: object, most: int = 80) -> str:
    """A foreign text as one short line that any terminal can show.

    Line ends, control characters and whatever else is not printable become escapes such as
    ``\\x1b``. A text longer than `most` characters loses its middle.
    """
    line = str(text)
    if len(line) > most:
        tail = most // 3
        line = f"{line[: most - tail - 1]}…{line[-tail:]}"
    return escaped(line)


def escaped(text: str, keep: str = "") -> str:
    """A foreign text of any length, with escapes such as ``\\x1b`` for unprintable characters.

    Args:
        text: the text.
        keep: characters that are not escaped, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def visible(text: str) -> str:
    """A foreign text of several lines that any terminal can show: :func:`escaped` except for its
    line ends and tabs."""
    return escaped(text, keep="\n\t")


class UserError(Exception):
    """A problem that a user can cause and solve.

    Its text is one line: unprintable characters are escaped, and very long parts are shortened.
    Shorten a foreign value in `what` with :func:`printable` first.

    Args:
        what: what is wrong, in a few words, without a full stop.
        where: the file, flag or field with the problem; empty if `what` says it.
        hint: advice, the nearest valid name first.
        code: exit code of the command.
        problems: the problems themselves, for an error that reports several together. The first
            ten are shown, and the number of the others.
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


class DataError(UserError):
    """A file, a run or a corpus that is damaged, missing or not what it should be: exit code 3."""

    def __init__(self, what: str, *, where: str = "", hint: str = ""):
        super().__init__(what, where=where, hint=hint, code=EXIT_DATA)


class NotPermitted(DataError):
    """A file that exists but that this user may not read; it may be undamaged.

    Args:
        path: of the file, or of its folder.
    """

    def __init__(self, path: object):
        super().__init__(
            "permission denied: this user may not read it",
            where=str(path),
            hint="If it is yours, allow it: chmod u+r on the file, u+rx on its folders. Otherwise "
            "ask its owner.",
        )


class EndedElsewhere(Exception):
    """Another process of the same training ended, and has said why.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int):
        super().__init__(f"another process ended with exit code {code}")
        self.code = code


class Terminated(BaseException):
    """SIGTERM as an exception, so that a command cleans up before it exits."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: "Did you mean 'x'? Available: a, b, x."."""
    names = sorted(known)
    close = closest(name, names)
    did_you_mean = f"Did you mean '{printable(close)}'? " if close else ""
    return f"{did_you_mean}Available: {listed(names, MOST_NAMES) or 'none'}."


def nearest_of_many(name: str, known: Iterable[str], all_by: str) -> str:
    """A hint for an unknown dotted name, where a list of all would be too long.

    Args:
        name: that is unknown.
        known: the valid names.
        all_by: the command that lists them.
    """
    names = sorted(known)
    ends_alike = [one for one in names if one.rpartition(".")[2] == name]
    close = difflib.get_close_matches(name[:LONGEST_COMPARED], names, n=FEW, cutoff=0.75)
    found = list(dict.fromkeys([*ends_alike, *close]))[:FEW]
    either = " or ".join(f"'{printable(one)}'" for one in found)
    did_you_mean = f"Did you mean {either}? " if found else ""
    return f"{did_you_mean}All are in `{all_by}`."


def listed(
    texts: Sequence[object], most: int = MOST_LINES, *, longest: int = 80, between: str = ", "
) -> str:
    """Several foreign texts as one: the first few, and the number of the others.

    Args:
        texts: each is made :func:`printable`.
        most: how many are shown.
        longest: most characters of each.
        between: separator.
    """
    shown = between.join(printable(text, longest) for text in texts[:most])
    rest = len(texts) - most
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 file", "3 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that is most similar to this one; empty if none is similar.

    Its time is bounded: long names are shortened, and only the first of many are compared.
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
