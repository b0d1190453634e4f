"""The matrix of a layer that is shown: which values, in which order, and which pairs are left out.

Shapes: N experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.monitor.panels.panel import Key
from simsmoe_cli.monitor.state.probes import LayerSimilarity
from simsmoe_cli.monitor.view import View
from simsmoe_cli.run.cluster_order import cluster_order
from simsmoe_cli.run.probes import Matrix

Probe = tuple[int, LayerSimilarity]  # its step, and the matrices of the chosen layer
LIMITS = (None, 0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class ShownMatrix:
    """A matrix as it is shown.

    Attributes:
        step: of its probe.
        values: [N, N]; nan where undefined.
        change: whether the values are differences.
        order: experts as they stand in the map, [N].
        left_out: [N, N], pairs that are not shown: below the limit, and experts with themselves.
    """

    step: int
    values: Matrix
    change: bool
    order: NDArray[np.int64]
    left_out: NDArray[np.bool_]

    @property
    def experts(self) -> int:
        return len(self.values)

    def place(self, expert: int) -> int:
        """Where an expert stands in the map."""
        return int(np.flatnonzero(self.order == expert)[0])

    def pairs(self, count: int | None = None) -> list[tuple[int, int]]:
        """The pairs that are shown, the highest value first; of differences the largest."""
        first, second = np.triu_indices(self.experts, 1)
        values = self.values[first, second]
        size = np.abs(values) if self.change else values
        rank = np.argsort(-np.nan_to_num(size, nan=-np.inf), kind="stable")
        here = np.isfinite(values) & ~self.left_out[first, second]
        return [(int(first[i]), int(second[i])) for i in rank if here[i]][:count]


def shown(view: View, run: int) -> Probe | None:
    """The probe of a run that is shown."""
    frame = view.probe(view.runs[run].history.similarities)
    layer = None if frame is None else frame.layer(view.selection.layer)
    return None if frame is None or layer is None else (frame.step, layer)


def matrix_of(view: View, run: int) -> ShownMatrix | None:
    """The matrix of a run as the view asks for it; None where there is none."""
    probe = shown(view, run)
    if probe is None:
        return None
    step, layer = probe
    wanted = view.selection.matrix
    own = _values(view, layer)
    values = own
    if own is not None and wanted.compare:
        other = _compared_with(view, run)
        fits = other is not None and other.shape == own.shape
        values = own - other if fits and other is not None else None
    if own is None or values is None:
        return None
    order = cluster_order(own) if wanted.clustered else np.arange(layer.experts)
    left_out = np.eye(layer.experts, dtype=bool)
    if wanted.above is not None:
        size = np.abs(values) if wanted.compare else values
        left_out |= ~(size > wanted.above)
    return ShownMatrix(step, values, bool(wanted.compare), order, left_out)


def why_no_matrix(view: View, run: int) -> str:
    """Why `matrix_of` has nothing for a run, in words."""
    frame = view.probe(view.runs[run].history.similarities)
    if reason := "" if frame is None else frame.without_matrices():
        return f"no matrices: {reason}"
    probe = shown(view, run)
    if probe is None:
        return "no probe of this layer"
    if _values(view, probe[1]) is None:
        return "not measured on shared tokens"
    if view.selection.matrix.compare == "run" and run == 0:
        return "the others minus this run"
    return "nothing to compare with"


def why_undefined(view: View, run: int) -> str:
    """Why pairs have no similarity on shared tokens, in words; "" if all have one, or if that is
    not what is shown."""
    matrix, frame = matrix_of(view, run), view.probe(view.runs[run].history.similarities)
    if not view.selection.matrix.on_shared or matrix is None or frame is None:
        return ""
    pairs = matrix.experts * (matrix.experts - 1) // 2
    undefined = pairs - np.isfinite(matrix.values[np.triu_indices(matrix.experts, 1)]).sum()
    if not undefined:
        return ""
    enough = f"fewer than {frame.fewest_shared}" if frame.fewest_shared else "too few"
    advice = " (raise train.probe_tokens)" if view.runs[run].history.probes_held_out else ""
    return f"{undefined:,} of {pairs:,} pairs share {enough} tokens{advice}"


def words(view: View) -> str:
    """The choices that differ from the plain matrix, for a title; "" if none does."""
    wanted = view.selection.matrix
    told = []
    if wanted.on_shared:
        told.append("on shared tokens")
    if wanted.compare == "probe":
        told.append(f"change since step {_base_step(view):,}")
    elif wanted.compare == "run":
        own, first = (f(view, view.selection.run) for f in (shown, _of_first))
        other = own is not None and first is not None and own[0] != first[0]
        at = f" at step {first[0]:,}" if other and first is not None else ""
        told.append(f"minus {view.runs[0].history.name}{at}")
    if wanted.above is not None:
        told.append(f"above {wanted.above:g}")
    if wanted.clustered:
        told.append("by cluster")
    return ", ".join(told)


def _values(view: View, layer: LayerSimilarity) -> Matrix | None:
    return layer.cka_shared if view.selection.matrix.on_shared else layer.cka


def _compared_with(view: View, run: int) -> Matrix | None:
    """The matrix that is subtracted."""
    if view.selection.matrix.compare == "run":
        first = _of_first(view, run) if run else None
        return None if first is None else _values(view, first[1])
    frames = view.runs[run].history.similarities
    layer = frames[frames.at(_base_step(view))].layer(view.selection.layer)
    return None if layer is None else _values(view, layer)


def _of_first(view: View, run: int) -> Probe | None:
    """The first run's last probe up to the one of a run that is shown; its first where all are
    later."""
    own, frames = shown(view, run), view.runs[0].history.similarities
    if own is None or not len(frames):
        return None
    frame = frames[frames.at(own[0])]
    layer = frame.layer(view.selection.layer)
    return None if layer is None else (frame.step, layer)


def _base_step(view: View) -> int:
    frames = view.chosen.similarities
    base = view.selection.matrix.base
    return base if base is not None else frames[0].step if len(frames) else 0


def _choosing(change: Callable[[View], dict[str, Any]]) -> Callable[[View, int], View]:
    """A key's action, from the fields of the matrix choice that it changes."""

    def act(view: View, _width: int) -> View:
        return view.choose(matrix=replace(view.selection.matrix, **change(view)))

    return act


def _next_compare(view: View) -> dict[str, Any]:
    ways = ["", "probe", *(["run"] if view.several else [])]
    here = view.selection.matrix.compare
    at = ways.index(here) if here in ways else 0
    return {"compare": ways[(at + 1) % len(ways)]}


def _next_limit(view: View) -> dict[str, Any]:
    here = LIMITS.index(view.selection.matrix.above)
    return {"above": LIMITS[(here + 1) % len(LIMITS)]}


def _base_here(view: View) -> dict[str, Any]:
    probe = shown(view, view.selection.run)
    return {"compare": "probe", "base": None if probe is None else probe[0]}


MATRIX_KEYS = (
    Key(
        "c",
        _choosing(lambda view: {"clustered": not view.selection.matrix.clustered}),
        "Cluster",
        "Experts in the order of clusters, or of their numbers",
    ),
    Key("f", _choosing(_next_limit), "", "Only pairs above 0.3, 0.5, 0.7, 0.8, 0.9, or all"),
    Key(
        "v",
        _choosing(_next_compare),
        "",
        "Values, their change since the base probe, or the difference to the first run",
    ),
    Key(
        "b",
        _choosing(_base_here),
        "",
        "Show the change since this probe (the base; else the first)",
    ),
    Key(
        "p",
        _choosing(lambda view: {"listed": not view.selection.matrix.listed}),
        "Top",
        "The top ten pairs as a list",
    ),
    Key(
        "u",
        _choosing(lambda view: {"on_shared": not view.selection.matrix.on_shared}),
        "",
        "CKA on all tokens of the probe, or on those that both experts of a pair were given",
    ),
)
