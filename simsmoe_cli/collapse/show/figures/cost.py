"""Figures of what the model could do without: experts left out, and two experts made one."""

from __future__ import annotations

from simsmoe_cli.collapse.ablation import Ablation
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.correlation import nan_array
from simsmoe_cli.collapse.show.figures.style import (
    MANY_POINTS,
    Drawing,
    beside_each_other,
    by_layer,
    finish,
    in_a_row,
    legend_above,
    muted,
    new_figure,
    place_of,
    subjects,
)
from simsmoe_cli.collapse.show.format import per_run

WITH_INTERVALS = 64  # experts of a layer; with more, bars would hide each other


def left_out_figure(main: Findings, against: Findings | None) -> Drawing | None:
    """Loss without each expert, layer by layer; None where none was left out."""
    runs = [run for run in subjects(main, against) if run[0].ablation is not None]
    if main.ablation is None or not main.ablation.left_out:
        return None
    figure, axes = by_layer(runs, 2.5, "loss without it, nats")
    said = []
    for index, (findings, name, colour) in enumerate(runs):
        measured = findings.ablation
        assert measured is not None
        for layer in findings.layers:
            changes = [one.change for one in measured.left_out if one.layer == layer.layer]
            middle = place_of(index, layer, runs) + beside_each_other(index, runs)
            at = middle + in_a_row(len(changes), 0.22)
            if len(changes) <= WITH_INTERVALS:
                # One line with gaps for all of a layer: thousands of lines would take seconds.
                ends = nan_array([[change.low, change.high, None] for change in changes])
                axes.plot(at.repeat(3), ends.flatten(), color=colour, lw=0.8, alpha=0.6)
            nats = nan_array([[change.nats for change in changes]])[0]
            axes.plot(at, nats, ".", color=colour, ms=4, mew=0)
        axes.plot([], [], ".", color=colour, ms=4, label=name)
        said.append((name, _counted(measured)))
    axes.axhline(0, color=muted(), lw=0.8, ls="--")
    finish(axes, runs, zero=False)
    return Drawing(
        "left-out",
        "What the loss costs without each expert",
        "One point for each expert left out, with its interval. At 0 it is not missed.",
        figure,
        "cost",
        f"{per_run(said)} An expert's tokens go to the best of the others by the router's own "
        f"scores. {main.ablation.level:.0%} interval, paired bootstrap over windows. Null: no "
        "change, 0.",
    )


def merging_figure(main: Findings, against: Findings | None) -> Drawing | None:
    """Similarity of a pair against the cost of one output for both; None where not measured."""
    runs = [run for run in subjects(main, against) if run[0].ablation and run[0].ablation.pairs]
    if main.ablation is None or not main.ablation.pairs:
        return None
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    said = []
    for findings, name, colour in runs:
        measured = findings.ablation
        assert measured is not None
        for kind, form in (("similar", "o"), ("random", "x")):
            pairs = [pair for pair in measured.pairs if pair.kind == kind]
            many = len(pairs) > MANY_POINTS
            for pair in pairs:
                change = pair.mean_output
                if pair.cka is None or change.nats is None:
                    continue
                if change.low is not None and change.high is not None and not many:
                    ends = [change.low, change.high]
                    axes.plot([pair.cka] * 2, ends, color=colour, lw=0.7, alpha=0.4)
                axes.plot(pair.cka, change.nats, form, color=colour, ms=3.5, mew=1, rasterized=many)
            run = f", {name}" if len(runs) > 1 else ""
            axes.plot([], [], form, color=colour, ms=3.5, mew=1, label=f"{kind} pairs{run}")
        said.append((name, _counted(measured)))
    axes.axhline(0, color=muted(), lw=0.8, ls="--")
    axes.set_xlabel("debiased CKA of the pair")
    axes.set_ylabel("loss with one output, nats")
    legend_above(axes)
    return Drawing(
        "merging",
        "Are similar experts cheaper to merge?",
        "Both experts of a pair give their mean output. Left to right: more similar.",
        figure,
        "cost",
        f"{per_run(said)} {main.ablation.level:.0%} interval, paired bootstrap over windows. Null: "
        "no change, 0; control: random pairs.",
    )


def _counted(measured: Ablation) -> str:
    return (
        f"cases: n = {len(measured.left_out):,} experts and {len(measured.pairs):,} pairs, each on "
        f"{measured.windows:,} windows of {measured.tokens:,} tokens in all; the loss of the "
        f"unchanged model is {measured.loss_nats:.4f} nats"
    )
