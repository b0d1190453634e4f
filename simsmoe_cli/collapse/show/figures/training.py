"""Figures over the steps of training: of a report's history, and of runs that are compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from simsmoe_cli.collapse.findings import Findings, Report
from simsmoe_cli.collapse.show.figures.style import (
    INK,
    SERIES,
    Drawing,
    from_zero,
    legend_above,
    new_figure,
    style,
)
from simsmoe_cli.collapse.show.format import labels, number, short
from simsmoe_cli.compare.runs import CURVES, Comparison

# Of all points of a curve, at most so many are drawn.
DRAWN = 2000
LOSS_LABELS = {
    "loss_nats": "loss, nats per token",
    "bpc": "bits per character",
    "accuracy": "accuracy",
}


def loss_figure(report: Report) -> Drawing | None:
    """Loss against steps of one or two runs (Fig. 3); None where nothing was logged."""
    runs = _runs(report)
    if not any(findings.history.losses for findings, _, _ in runs):
        return None
    points = [point for findings, _, _ in runs for point in findings.history.losses]
    score = "loss_nats"
    for better in ("bpc", "accuracy"):
        if any(getattr(point, better) is not None for point in points):
            score = better
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    said = []
    for findings, name, colour in runs:
        count = 0
        for split, form in (("train", "-"), ("valid", "o-"), ("test", "D")):
            chosen = [point for point in findings.history.losses if point.split == split]
            values = [getattr(point, score) for point in chosen]
            _curve(
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
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel(LOSS_LABELS[score])
    if score != "accuracy":
        _without_start(axes, [getattr(point, score) for point in points])
    if len(runs) > 1:
        legend_above(axes, 2)
    return Drawing(
        "loss",
        "How well it predicts, step by step",
        f"Thin: training; points: validation; diamond: test. {' '.join(said)} A single run has "
        f"no interval: repeat it with other seeds to know one. No null is drawn: where nothing "
        f"is learned it is that of guessing.",
        figure,
    )


def training_figure(report: Report) -> Drawing | None:
    """Similarity over training, by the probes and the checkpoints measured; None without any."""
    runs = _runs(report)
    if not any(findings.history.probes for findings, _, _ in runs) and len(report.findings) < 2:
        return None
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    said = []
    for place, (findings, name, colour) in enumerate(runs):
        probes = findings.history.probes
        steps = [probe.step for probe in probes]
        layers = max((len(probe.cka_mean) for probe in probes), default=0)
        for layer in range(layers):
            values = [
                probe.cka_mean[layer] if layer < len(probe.cka_mean) else None for probe in probes
            ]
            _curve(axes, steps, values, "-", color=colour, lw=0.7, alpha=0.45)
        means = [_mean(probe.cka_mean) for probe in probes]
        _curve(axes, steps, means, "o-", color=colour, ms=3, lw=1.8)
        axes.plot([], [], "o-", color=colour, ms=3, label=name)
        measured = [findings] if place else report.findings
        for checkpoint in measured:
            value, step = checkpoint.overall.cka_mean, checkpoint.subject.step
            if value is not None and step is not None:
                axes.plot(step, value, "D", color=colour, mec=INK, mew=0.7, ms=5)
        tokens = findings.history.probe_tokens
        run = f"{name}: " if len(runs) > 1 else ""
        of = "" if tokens is None else f" of {tokens:,} {findings.text.unit}s each"
        said.append(f"{run}n = {len(probes)} probes{of}, {layers} layers.")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("mean debiased CKA")
    from_zero(axes)
    if len(runs) > 1:
        legend_above(axes, 2)
    nulls = [layer.cka_null.quantile_95 for layer in report.main.layers]
    known = [value for value in nulls if value is not None]
    return Drawing(
        "training",
        "When experts became alike",
        f"Thick: mean of the layers at each probe of the training; thin: each layer; diamond: "
        f"what this report measured. {' '.join(said)} Probes have no interval. Null of one pair: "
        f"95% below {number(max(known) if known else None)}.",
        figure,
    )


def comparison_kinds(comparison: Comparison) -> list[str]:
    """The curves, of `CURVES`, that any run has."""
    return [
        name
        for name in CURVES
        if any(value is not None for run in comparison.runs for value in run.curves[name].values)
    ]


def comparison_figure(comparison: Comparison, kinds: Sequence[str]) -> Drawing:
    """Curves of several runs over each other, one panel for each of `kinds`."""
    count = len(comparison.runs)
    with style():
        figure = new_figure(0.4 + 0.13 * count + (1.7 if len(kinds) > 1 else 2.1) * len(kinds))
        grid = figure.subplots(len(kinds), 1, squeeze=False, sharex=True)[:, 0]
        for name, axes in zip(kinds, grid, strict=True):
            drawn: list[float | None] = []
            for place, run in enumerate(comparison.runs):
                curve = run.curves[name]
                dots = "o" if len(curve.values) <= 40 else ""
                _curve(
                    axes,
                    curve.steps,
                    curve.values,
                    dots + ("-", "--", ":")[place // len(SERIES) % 3],
                    color=SERIES[place % len(SERIES)],
                    label=short(run.label, 48),
                    ms=2.5,
                    lw=1.2,
                )
                drawn += curve.values
            if len(kinds) > 1:
                axes.set_title(CURVES[name], loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if name.endswith("bpc"):
                _without_start(axes, drawn)
            elif not name.endswith("accuracy"):
                from_zero(axes)
        grid[-1].set_xlabel("step")
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=1)
    points = sum(len(run.curves[name].values) for run in comparison.runs for name in kinds)
    title = CURVES[kinds[0]] if len(kinds) == 1 else "Runs compared"
    return Drawing(
        f"comparison-{'-'.join(kinds)}",
        title[:1].upper() + title[1:],
        f"What each training logged: n = {points:,} points of {count} runs. One run each, so "
        f"there is no interval; no null is drawn.",
        figure,
    )


def _runs(report: Report) -> list[tuple[Findings, str, str]]:
    first, second = labels(report.main.subject, report.against.subject if report.against else None)
    found = [(report.main, first, SERIES[0])]
    return found if report.against is None else [*found, (report.against, second, SERIES[1])]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _curve(
    axes: Axes, steps: Sequence[int], values: Sequence[float | None], form: str, **how: object
) -> None:
    """A line with gaps where a value is undefined, thinned to what a figure can show."""
    every = max(1, -(-len(steps) // DRAWN))
    drawn = np.array([np.nan if value is None else value for value in values], dtype=float)
    axes.plot(list(steps)[::every], drawn[::every], form, **how)  # type: ignore[arg-type]


def _without_start(axes: Axes, values: Sequence[float | None]) -> None:
    """A vertical axis that shows where runs end, not how high they began."""
    known = np.array([value for value in values if value is not None])
    if len(known) < 10:
        return
    low, high = known.min(), np.quantile(known, 0.9)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
