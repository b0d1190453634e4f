"""Parts of all panels of pairs: the probe that is shown, and a cursor on a pair of experts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from rich.text import Text

from simsmoe_cli.monitor.draw.text import decimal, message
from simsmoe_cli.monitor.panels.panel import PROBE_KEYS, Key, Picture, waiting
from simsmoe_cli.monitor.state.probes import LayerSimilarity
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import View
from simsmoe_cli.run.probes import most_similar_pairs

Pair = tuple[int, int]
Probe = tuple[int, LayerSimilarity]  # its step, and the matrices of the chosen layer


def shown(view: View, run: int) -> Probe | None:
    """The probe of a run that is shown."""
    frame = view.probe(view.runs[run].history.similarities)
    layer = None if frame is None else frame.layer(view.selection.layer)
    return None if frame is None or layer is None else (frame.step, layer)


def told_of_each_run(view: View, line: Text) -> Iterator[LayerSimilarity]:
    """The layer shown of each run that has one; of several runs, a line gets a mark for each."""
    for run in range(len(view.runs)):
        probe = shown(view, run)
        if probe is not None:
            if view.several:
                line.append("  " if run else "").append("● ", view.color_of(run))
            yield probe[1]


def why_none(view: View, run: int) -> str:
    """The reason, in words, why `shown` has nothing for a run."""
    frame = view.probe(view.runs[run].history.similarities)
    reason = "" if frame is None else frame.without_matrices()
    return f"no matrices: {reason}" if reason else "no probe of this layer"


def no_matrices(view: View, width: int, height: int) -> Picture:
    """The message if no run has matrices to show."""
    if not any(len(run.history.similarities) for run in view.runs):
        return waiting(view, "probe of similarity", width, height)
    return Picture(message(why_none(view, view.selection.run), width, height), empty=True)


def pair_of(view: View, experts: int) -> Pair | None:
    """The pair under the cursor; None if a layer of this many experts does not have it."""
    pair = view.selection.pair
    return pair if pair is not None and max(pair) < experts else None


def most_similar(layer: LayerSimilarity) -> Pair | None:
    """The most similar pair; None where no pair is defined."""
    return next(((low, high) for low, high, _ in most_similar_pairs(layer.cka, 1)), None)


def move_pair(view: View, _width: int, rows: int, columns: int) -> View:
    """Move the cursor; it jumps over the diagonal."""
    probe = shown(view, view.selection.run)
    if probe is None or probe[1].experts < 2:
        return view
    experts = probe[1].experts
    pair = pair_of(view, experts)
    if pair is None:
        return next_similar_pair(view)
    row, column = pair[0] + rows, pair[1] + columns
    if row == column:
        row, column = row + rows, column + columns
    inside = 0 <= row < experts and 0 <= column < experts
    return view.choose(pair=(row, column)) if inside else view


def next_similar_pair(view: View, _width: int = 0) -> View:
    """Choose the most similar pair, or the one that comes after the chosen pair."""
    probe = shown(view, view.selection.run)
    if probe is None:
        return view
    layer = probe[1]
    ranking = [(low, high) for low, high, _ in most_similar_pairs(layer.cka, layer.experts**2)]
    pair = pair_of(view, layer.experts)
    here = (min(pair), max(pair)) if pair is not None else None
    rank = ranking.index(here) + 1 if here in ranking else 0
    return view.choose(pair=ranking[rank % len(ranking)] if ranking else None)


def value_text(value: float) -> str:
    """A similarity in words."""
    return decimal(value, undefined="undefined")


def share_text(value: float, short: bool = False) -> str:
    """A fraction of tokens in words."""
    if not math.isfinite(value):
        return "shared tokens unknown"
    return f"{100 * value:.2f}% " + ("shared" if short else "of tokens shared")


def similar_pairs_of_all_layers(history: RunHistory, count: int) -> list[Text]:
    """A line for each of the most similar pairs of the newest probe."""
    frame = history.similarities[-1]
    found = [
        (value, number, first, second)
        for number in frame.means
        if (layer := frame.layer(number)) is not None
        for first, second, value in most_similar_pairs(layer.cka, count)
    ]
    found.sort(key=lambda pair: -pair[0])
    return [
        Text(f"layer {history.label(number)}, experts {first} and {second}: CKA {value:.2f}")
        for value, number, first, second in found[:count]
    ]


PAIR_KEYS = (
    *PROBE_KEYS,
    *(
        Key(keys, partial(move_pair, rows=rows, columns=columns), "", f"Cursor on the pairs: {way}")
        for keys, rows, columns, way in (
            ("shift+left,h", 0, -1, "left"),
            ("shift+right,l", 0, 1, "right"),
            ("shift+up,k", -1, 0, "up"),
            ("shift+down,j", 1, 0, "down"),
        )
    ),
    Key("m", next_similar_pair, "Similar", "The most similar pair; again: the next one"),
)
