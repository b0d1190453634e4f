"""What the dashboard looks at: one value that all panels read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """What is chosen in the dashboard.

    Attributes:
        run: index of the run that keys act on.
        layer: of which experts are compared, by its place among those with experts.
        step: the probe shown is the last one not after this step; None follows the newest.
        pair: two experts, the lower first; None while no cell is chosen.
        expert: an expert in the map of loads; None while no cell is chosen.
        at: the step a cursor on the curves stands at; None while there is no cursor.
        by_time: curves stand against hours since the run began instead of steps.
    """

    run: int = 0
    layer: int = 0
    step: int | None = None
    pair: tuple[int, int] | None = None
    expert: int | None = None
    at: float | None = None
    by_time: bool = False
