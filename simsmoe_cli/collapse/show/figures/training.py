"""Figures over the steps of a training: loss and similarity, from a report's history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from simsmoe_cli.collapse.findings import mean_of
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.figures.style import (
    Drawing,
    finish,
    ink,
    new_figure,
    step_axis,
    subjects,
)
from simsmoe_cli.collapse.show.format import number
from simsmoe_cli.errors import counted
from simsmoe_cli.run.score import Scoring

# Points of a curve that are drawn at most.
DRAWN = 2000


def loss_figure(report: Report) -> Drawing | None:
    """Loss against steps of one or two runs (Fig. 3); None where nothing was logged."""
    runs = subjects(report.main, report.against)
    if not any(findings.history.losses for findings, _, _ in runs):
        return None
    points = [point for findings, _, _ in runs for point in findings.history.losses]
    scoring = Scoring.of_scores(report.main.text.unit, points)
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    said = []
    for findings, name, colour in runs:
        count = 0
        for split, form in (("train", "-"), ("valid", "o-"), ("test", "D")):
            chosen = [point for point in findings.history.losses if point.split == split]
            values = [scoring.read(point) for point in chosen]
            curve(
                axes,
                [point.step for point in chosen],
                values,
                form,
                color=colour,
                alpha=0.4 if split == "train" else 1,
                lw=0.9 if split == "train" else 1.4,
                ms=3.5,
            )
            count += sum(value is not None for value in values)
        axes.plot([], [], "o-", color=colour, ms=3.5, label=name)
        seed = "" if findings.subject.seed is None else f", seed {findings.subject.seed}"
        run = f"{name}: " if len(runs) > 1 else ""
        said.append(f"{run}n = {count:,} points, one run{seed}.")
    step_axis(axes)
    axes.set_ylabel(scoring.axis_label)
    if scoring.measure != "accuracy":
        leave_out_start(axes, [scoring.read(point) for point in points])
    finish(axes, runs, zero=False)
    return Drawing(
        "loss",
        "How well it predicts, step by step",
        "Thin: training. Points: validation. Diamond: test.",
        figure,
        "training",
        f"{' '.join(said)} A single run has no interval: repeat it with other seeds to get one. No "
        f"null is drawn: a model that has learned nothing is as good as a guess.",
    )


def training_figure(report: Report) -> Drawing | None:
    """Similarity over training, by the probes and the checkpoints measured; None without any."""
    runs = subjects(report.main, report.against)
    if not any(findings.history.probes for findings, _, _ in runs) and len(report.findings) < 2:
        return None
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    said = []
    for index, (findings, name, colour) in enumerate(runs):
        probes = findings.history.probes
        steps = [probe.step for probe in probes]
        layers = max((len(probe.cka_mean) for probe in probes), default=0)
        for layer in range(layers):
            values = [
                probe.cka_mean[layer] if layer < len(probe.cka_mean) else None for probe in probes
            ]
            curve(axes, steps, values, "-", color=colour, lw=0.7, alpha=0.45)
        means = [mean_of(probe.cka_mean) for probe in probes]
        curve(axes, steps, means, "o-", color=colour, ms=3, lw=1.8)
        axes.plot([], [], "o-", color=colour, ms=3, label=name)
        measured = [findings] if index else report.findings
        for checkpoint in measured:
            value, step = checkpoint.overall.cka_mean, checkpoint.subject.step
            if value is not None and step is not None:
                axes.plot(step, value, "D", color=colour, mec=ink(), mew=0.7, ms=5)
        tokens = findings.history.probe_tokens
        run = f"{name}: " if len(runs) > 1 else ""
        of = "" if tokens is None else f" of {tokens:,} {findings.text.unit}s each"
        said.append(f"{run}n = {counted(len(probes), 'probe')}{of}, {counted(layers, 'layer')}.")
    step_axis(axes)
    axes.set_ylabel("mean debiased CKA")
    finish(axes, runs)
    return Drawing(
        "training",
        "When experts became similar",
        "Thick: mean of all layers. Thin: one layer. Diamond: this report.",
        figure,
        "training",
        f"{' '.join(said)} Probes have no interval. Null of one pair: 95% below "
        f"{number(report.main.null_95)}.",
    )


def curve(
    axes: Axes, steps: Sequence[int], values: Sequence[float | None], *form: str, **how: object
) -> None:
    """A line with gaps where a value is undefined, with no more points than a figure can show."""
    every = max(1, -(-len(steps) // DRAWN))
    drawn = np.array([np.nan if value is None else value for value in values], dtype=float)
    axes.plot(list(steps)[::every], drawn[::every], *form, **how)  # type: ignore[arg-type]


def leave_out_start(axes: Axes, values: Sequence[float | None]) -> None:
    """A vertical axis for the later part of the runs, without the high values of the start."""
    known = np.array([value for value in values if value is not None])
    if len(known) < 10:
        return
    low, high = known.min(), np.quantile(known, 0.9)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
