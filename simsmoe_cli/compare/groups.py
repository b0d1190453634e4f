"""Groups runs that differ in their seed alone, and compares each group with the first one.

The first group is the baseline. Runs of one seed are paired (`seeds.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simsmoe_cli.compare.measures import MEASURES
from simsmoe_cli.compare.read import RunSummary
from simsmoe_cli.compare.seeds import Difference, Mean, mean_over_seeds, paired_difference
from simsmoe_cli.run.changes import changes_results

SEED = "train.seed"
ALONE = "alone"  # the seed of a run that has none


@dataclass(frozen=True)
class Group:
    """Runs of one setting.

    Attributes:
        label: the run's name, or the beginning that the names share, with "*".
        runs: by seed.
    """

    label: str
    runs: dict[Any, RunSummary]

    @property
    def first(self) -> RunSummary:
        """Its first run, whose settings are those of all but for the seed."""
        return next(iter(self.runs.values()))

    def scores(self, measure: str) -> dict[Any, float]:
        """The values of a measure by seed, of the runs that have one."""
        values = {seed: run.measures[measure] for seed, run in self.runs.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def mean(self, measure: str) -> Mean | None:
        """The mean of a measure over the runs that have it; None if none has."""
        scores = list(self.scores(measure).values())
        return mean_over_seeds(scores) if scores else None

    def difference(self, baseline: Group, measure: str) -> Difference | None:
        """The difference to another group; None where no run can be paired.

        Two single runs are a pair whatever their seeds are.
        """
        own, other = self.scores(measure), baseline.scores(measure)
        if len(self.runs) == len(baseline.runs) == 1 and own and other:
            own, other = ({ALONE: value} for scores in (own, other) for value in scores.values())
        return paired_difference(own, other)

    def to_json(self, baseline: Group) -> dict[str, Any]:
        """Its means and its differences to the baseline, by measure."""
        means = {measure.name: self.mean(measure.name) for measure in MEASURES}
        found = {measure.name: self.difference(baseline, measure.name) for measure in MEASURES}
        return {
            "name": self.label,
            "runs": [run.label for run in self.runs.values()],
            "means": {name: asdict(mean) for name, mean in means.items() if mean},
            "differences": {
                name: asdict(difference) | {"shown": difference.shown}
                for name, difference in found.items()
                if difference and self is not baseline
            },
        }


def by_seed(runs: Sequence[RunSummary]) -> list[Group]:
    """The runs in groups that differ in their seed alone, in the order of their first runs."""
    found: list[tuple[dict[str, Any], dict[Any, RunSummary]]] = []
    for run in runs:
        settings = {path: run.history(path) for path in run.settings if path != SEED}
        settings = {path: value for path, value in settings.items() if changes_results(path)}
        seed = run.settings.get(SEED, ALONE)
        for known, members in found:
            if known == settings and seed != ALONE and seed not in members:
                members[seed] = run
                break
        else:
            found.append((settings, {seed: run}))
    return [Group(_label(list(members.values())), members) for _, members in found]


def _label(runs: Sequence[RunSummary]) -> str:
    names = [run.label for run in runs]
    if len(names) == 1:
        return names[0]
    begin = os.path.commonprefix(names)  # noqa: RUF071 (of names, not of paths)
    return f"{begin}*" if begin else f"{names[0]} and {len(names) - 1} more"
