"""Ranges of fields that `simsmoe sweep --search` draws values from: "0.001..0.1", "2..8"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simsmoe_cli.errors import UserError, printable

if TYPE_CHECKING:
    import optuna

LARGE_RATIO = 10.0  # of the ends of a range, from which values are drawn by their logarithm


@dataclass(frozen=True)
class Range:
    """The values of a field: whole numbers if both ends are."""

    low: float
    high: float

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= LARGE_RATIO

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def of_type(self, kind: str, field: str) -> Range:
        """The range of a field of this type, in words as `recipe.fields` has them.

        Raises:
            UserError: it takes whole numbers, and an end is not one.
        """
        if not kind.startswith("whole number"):
            return Range(float(self.low), float(self.high))
        if not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise UserError("takes whole numbers", where=f"--grid {printable(field)}")
        return Range(int(self.low), int(self.high))

    def draw(self, trial: optuna.Trial, field: str) -> float:
        """The trial's value of the field."""
        if self.whole:
            return trial.suggest_int(field, int(self.low), int(self.high), log=self.logarithmic)
        return trial.suggest_float(field, self.low, self.high, log=self.logarithmic)


def parse_range(text: str, where: str) -> Range | None:
    """The range of "0.001..0.1" or "2..8"; None if the text is not one.

    Args:
        text: to read.
        where: it was given, for messages.

    Raises:
        UserError: its ends are in the wrong order, or it has three dots.
    """
    if "..." in text:
        raise UserError("a range has two dots", where=where, hint="For example 0.0001..0.01.")
    low, dots, high = text.partition("..")
    if not dots:
        return None
    try:
        ends = [
            int(end) if end.strip().lstrip("-").isdigit() else float(end) for end in (low, high)
        ]
    except ValueError:
        return None
    if not all(map(math.isfinite, ends)):
        raise UserError("a range has two finite ends", where=where, hint="For example 0.001..0.1.")
    if not ends[0] < ends[1]:
        raise UserError(
            "the lower end of a range comes first, and the ends differ",
            where=where,
            hint="For example 0.001..0.1.",
        )
    return Range(*ends)
