"""What every section of a recipe is made of, and how a problem with its fields is stated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        paths: the fields involved, dotted; the first is where it is reported.
        what: what is wrong with the value given.
        hint: the nearest valid value, or what to do.
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
        """A problem for every field that differs from its default although nothing reads it.

        Args:
            section: name of this section.
            beside: what the fields have no effect with.
            alternative: what to do instead of leaving a field out.
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
