"""Parts of all panels of pairs: the probe that is shown, and a cursor on a pair of experts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from rich.text import Text

from simsmoe_cli.monitor.draw.text import decimal, message
from simsmoe_cli.monitor.panels.matrices import matrix_of, shown, why_no_matrix
from simsmoe_cli.monitor.panels.panel import PROBE_KEYS, Key, Picture, waiting
from simsmoe_cli.monitor.state.probes import LayerSimilarity
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import View
from simsmoe_cli.run.probes import most_similar_pairs

Pair = tuple[int, int]


def told_of_each_run(view: View, line: Text) -> Iterator[LayerSimilarity]:
    """The layer shown of each run that has one; of several runs, a line gets a mark for each."""
    for run in range(len(view.runs)):
        probe = shown(view, run)
        if probe is not None:
            if view.several:
                line.append("  " if run else "").append("● ", view.color_of(run))
            yield probe[1]


def no_matrices(view: View, width: int, height: int) -> Picture:
    """The message if no run has matrices to show."""
    if not any(len(run.history.similarities) for run in view.runs):
        return waiting(view, "probe of similarity", width, height)
    return Picture(message(why_no_matrix(view, view.selection.run), width, height), empty=True)


def pair_of(view: View, experts: int) -> Pair | None:
    """The pair under the cursor; None if a layer of this many experts does not have it."""
    pair = view.selection.pair
    return pair if pair is not None and max(pair) < experts else None


def move_pair(view: View, _width: int, rows: int, columns: int) -> View:
    """Move the cursor over the map as it is shown; it jumps over the diagonal."""
    matrix = matrix_of(view, view.selection.run)
    if matrix is None or matrix.experts < 2:
        return view
    pair = pair_of(view, matrix.experts)
    if pair is None:
        return next_similar_pair(view)
    row, column = matrix.place(pair[0]) + rows, matrix.place(pair[1]) + columns
    if row == column:
        row, column = row + rows, column + columns
    inside = 0 <= row < matrix.experts and 0 <= column < matrix.experts
    if not inside:
        return view
    return view.choose(pair=(int(matrix.order[row]), int(matrix.order[column])))


def next_similar_pair(view: View, _width: int = 0) -> View:
    """Choose the most similar pair that is shown, or the one that comes after the chosen pair."""
    matrix = matrix_of(view, view.selection.run)
    if matrix is None:
        return view
    ranking = matrix.pairs()
    pair = pair_of(view, matrix.experts)
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
