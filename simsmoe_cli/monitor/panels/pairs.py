"""What the panels of pairs share: the probe looked at, and a cursor on a pair of experts."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.panels.panel import PROBE_BINDINGS, Panel
from simsmoe_cli.monitor.state.probes import LayerSimilarity, Matrix


class PairPanel(Panel):
    """A panel of the pairs of the chosen layer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *PROBE_BINDINGS,
        Binding(
            "shift+left,h",
            "move(0,-1)",
            "Pair left",
            id="pairs.left",
            show=False,
            tooltip="Cursor on the pairs: left",
        ),
        Binding(
            "shift+right,l",
            "move(0,1)",
            "Pair right",
            id="pairs.right",
            show=False,
            tooltip="Cursor on the pairs: right",
        ),
        Binding(
            "shift+up,k",
            "move(-1,0)",
            "Pair up",
            id="pairs.up",
            show=False,
            tooltip="Cursor on the pairs: up",
        ),
        Binding(
            "shift+down,j",
            "move(1,0)",
            "Pair down",
            id="pairs.down",
            show=False,
            tooltip="Cursor on the pairs: down",
        ),
        Binding(
            "m",
            "most_alike",
            "Alike",
            id="pairs.most",
            tooltip="The most alike pair; again: the next one",
        ),
    ]

    def shown(self, run: int) -> tuple[int, LayerSimilarity] | None:
        """The probe of a run that is looked at: its step and the chosen layer's matrices."""
        frames = self.runs[run].history.similarities
        if not len(frames):
            return None
        step = self.selection.step
        frame = frames[len(frames) - 1 if step is None else frames.at(step)]
        layer = frame.layer(self.selection.layer)
        return None if layer is None else (frame.step, layer)

    def pair_of(self, experts: int) -> tuple[int, int] | None:
        """The pair under the cursor, in a layer of so many experts."""
        pair = self.selection.pair
        return pair if pair is not None and max(pair) < experts else None

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor; it jumps over the diagonal."""
        probe = self.shown(self.selection.run)
        if probe is None or probe[1].experts < 2:
            return
        experts = probe[1].experts
        pair = self.pair_of(experts)
        if pair is None:
            self.action_most_alike()
            return
        row, column = pair[0] + rows, pair[1] + columns
        if row == column:
            row, column = row + rows, column + columns
        if 0 <= row < experts and 0 <= column < experts:
            self.dashboard.choose(pair=(row, column))

    def action_most_alike(self) -> None:
        probe = self.shown(self.selection.run)
        if probe is None:
            return
        pair = self.pair_of(probe[1].experts)
        rank = 0
        if pair is not None:
            low, high = sorted(pair)
            rank = rank_of(probe[1].cka, (low, high)) + 1
        found = most_alike(probe[1].cka, rank) or most_alike(probe[1].cka, 0)
        self.dashboard.choose(pair=found)


def ranking(cka: Matrix) -> list[tuple[int, int]]:
    """All pairs whose CKA is defined, the most alike first."""
    rows, columns = np.triu_indices(len(cka), 1)
    values = cka[rows, columns]
    order = np.argsort(-values, kind="stable")
    return [(int(rows[at]), int(columns[at])) for at in order.tolist() if math.isfinite(values[at])]


def most_alike(cka: Matrix, rank: int) -> tuple[int, int] | None:
    """The pair that is so many pairs behind the most alike one; None where there is none."""
    pairs = ranking(cka)
    return pairs[rank] if rank < len(pairs) else None


def rank_of(cka: Matrix, pair: tuple[int, int]) -> int:
    """How many pairs are more alike; -1 where the pair's CKA is undefined."""
    pairs = ranking(cka)
    return pairs.index(pair) if pair in pairs else -1


def value_text(value: float) -> str:
    """A similarity, in words where it is none."""
    return f"{value:.3f}" if math.isfinite(value) else "undefined"


def share_text(value: float, short: bool = False) -> str:
    """A fraction of tokens in words."""
    if not math.isfinite(value):
        return "shared tokens unknown"
    return f"{100 * value:.2f}% " + ("shared" if short else "of tokens shared")
