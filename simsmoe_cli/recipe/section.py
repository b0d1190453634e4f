"""The base class of all sections of a recipe, and the class of their problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        paths: the fields involved, dotted; the first is where it is reported.
        what: the problem of the given value.
        hint: the nearest valid value, or advice.
    """

    paths: tuple[str, ...]
    what: str
    hint: str = ""


class Section(BaseModel):
    """A part of a recipe: strict types, no unknown keys, immutable once validated."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    def without_effect(
        self, section: str, beside: str, alternative: str, because: str, keep: str = ""
    ) -> Iterator[Problem]:
        """A problem for every field that differs from its default although it is not used.

        Args:
            section: name of this section.
            beside: the other setting with which the fields have no effect.
            alternative: another solution than leaving a field out.
            because: path of the field that leaves this section unread.
            keep: a field of this section that is read all the same.
        """
        for name, info in type(self).model_fields.items():
            if name != keep and getattr(self, name) != info.get_default():
                yield Problem(
                    (f"{section}.{name}", because),
                    f"has no effect with {beside}",
                    f"Leave it out, {alternative}.",
                )
