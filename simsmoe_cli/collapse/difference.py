"""The part of a report's JSON that shows two experts' outputs token by token.

Imports no torch.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from simsmoe_cli.collapse.subject import Count, Facts


class Difference(Facts):
    """|E_i(x) - E_j(x)| of two experts on some tokens x (Fig. 5).

    The pair is the most similar pair of live experts. If two runs are compared, both show the pair
    of the run where it is more similar, unless that pair is missing or undefined in the other run.
    """

    layer: Count = Field(description="its index among the layers with experts, from 0")
    experts: tuple[Count, Count]
    cka: float
    rows: list[int] = Field(description="which of the measured rows: one per line of `values`")
    labels: list[str] = Field(description="the tokens x as text; empty where not known")
    features: list[tuple[int, int]] = Field(
        description="dimensions [first, end) whose mean is one column of `values`"
    )
    values: list[list[float]] = Field(
        description="[rows][features], in units of the root mean square of both experts' outputs: "
        "0 the same, about 1.4 unrelated"
    )
    mean: float = Field(description="root mean square difference over all rows and dimensions")

    @model_validator(mode="after")
    def _of_one_size(self) -> Self:
        """A line of values for each row, a value in it for each group of dimensions."""
        if [len(line) for line in self.values] != [len(self.features)] * len(self.rows):
            raise ValueError("values are not of rows and features")
        return self
