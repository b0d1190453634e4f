"""The panel "CKA": pairwise debiased linear CKA of the experts of one layer, at one probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from rich.text import Text

from simsmoe_cli.monitor.draw.heatmap import Layout, heat_map, layout
from simsmoe_cli.monitor.draw.scales import SIMILARITY_SCALE, Scale, change_scale, color_bar
from simsmoe_cli.monitor.draw.text import cut, filled, side_by_side
from simsmoe_cli.monitor.panels import matrices, pairs
from simsmoe_cli.monitor.panels.matrices import ShownMatrix
from simsmoe_cli.monitor.panels.panel import GAP, Panel, Picture, run_grid
from simsmoe_cli.monitor.view import View

TITLE = "Pairwise CKA"
BELOW = 2  # lines
LISTED, LIST_WIDTH, LEAST_MAP = 10, 24, 24  # pairs; cells


def draw(view: View, width: int, height: int) -> Picture:
    """A heat map of experts against experts for each run, and the top pairs if asked for."""
    why = matrices.why_undefined(view, view.selection.run)
    below = BELOW + bool(why)
    listed = view.selection.matrix.listed
    beside = listed and width >= LEAST_MAP + GAP + LIST_WIDTH
    room = width - (GAP + LIST_WIDTH if beside else 0)
    runs = run_grid(view, room, height - below)
    found = {run: matrices.matrix_of(view, run) for run in runs.runs}
    known = [matrix for matrix in found.values() if matrix is not None]
    if not known and not view.selection.matrix.compare:
        return pairs.no_matrices(view, width, height)
    scale = _scale(known)

    def draw_run(_run: int, matrix: ShownMatrix, high: int) -> tuple[list[Text], Layout]:
        return _map(view, matrix, scale, runs.width, high)

    lines, maps = runs.beside(
        view,
        found,
        draw_run,
        missing=partial(matrices.why_no_matrix, view),
        heading=lambda matrix: f"step {matrix.step:,}",
    )
    if listed:
        top = _top_pairs(view, height - below)
        lines = side_by_side([lines, top], room, GAP) if beside else top
        maps = maps if beside else []
    lines = filled(lines, height - below)
    lines += [cut(Text(why, "dim", no_wrap=True), width)] if why else []
    lines += [_detail(view, found, width), _scale_and_time(view, scale, width)]
    choices = matrices.words(view)
    return Picture(lines, _where(view), f"{TITLE}, {choices}" if choices else "", maps=maps)


def _scale(known: Sequence[ShownMatrix]) -> Scale:
    changes = [matrix.values.ravel() for matrix in known if matrix.change]
    return change_scale(np.concatenate(changes)) if changes else SIMILARITY_SCALE


def _map(
    view: View, matrix: ShownMatrix, scale: Scale, width: int, height: int
) -> tuple[list[Text], Layout]:
    order = matrix.order
    labels = [str(expert) for expert in order]
    grid = layout(
        len(order),
        len(order),
        width,
        height,
        label_width=max(map(len, labels)),
        halves=view.color,
    )
    pair = pairs.pair_of(view, matrix.experts)
    lines = heat_map(
        matrix.values[np.ix_(order, order)],
        scale,
        grid,
        row_labels=labels,
        column_labels=labels,
        masked_RC=matrix.left_out[np.ix_(order, order)],
        selected=None if pair is None else (matrix.place(pair[0]), matrix.place(pair[1])),
        color=view.color,
    )
    return lines, grid


def _top_pairs(view: View, height: int) -> list[Text]:
    """The top pairs of the chosen run, as a list."""
    run = view.selection.run
    matrix, probe = matrices.matrix_of(view, run), matrices.shown(view, run)
    if matrix is None or probe is None:
        return [Text("no pairs", style="dim")]
    shown = matrix.pairs()
    all_pairs = matrix.experts * (matrix.experts - 1) // 2
    lines = [Text(f"top of {len(shown):,}/{all_pairs:,} pairs", style="dim")]
    lines.append(Text("experts".rjust(9) + "CKA".rjust(7) + "shared".rjust(8), style="dim"))
    chosen = pairs.pair_of(view, matrix.experts)
    for pair in shown[: min(LISTED, max(0, height - len(lines)))]:
        value = f"{matrix.values[pair]:+.3f}" if matrix.change else f"{matrix.values[pair]:.3f}"
        share = float(probe[1].shared[pair])
        line = Text(f"{pair[0]:>4} {pair[1]:>4}{value:>7}")
        line.append(f"{100 * share:7.1f}%" if math.isfinite(share) else "–".rjust(8), "dim")
        if chosen is not None and set(chosen) == set(pair):
            line.stylize(f"bold {view.palette.accent}")
        lines.append(line)
    return lines


def _detail(view: View, found: dict[int, ShownMatrix | None], width: int) -> Text:
    """The pair under the cursor, or the top one, in each run; in fewer words where there is too
    little room, so that no number is cut."""
    others = [run for run in range(len(view.runs)) if run not in found]
    every = found | {run: matrices.matrix_of(view, run) for run in others}
    known = {run: matrix for run in sorted(every) if (matrix := every[run]) is not None}
    chosen = {run: matrix for run, matrix in known.items() if run == view.selection.run}
    ways = ((known, True), (known, False), (chosen, False))
    lines = [_detail_line(view, runs, in_words=in_words) for runs, in_words in ways]
    return cut(next((line for line in lines if line.cell_len <= width), lines[-1]), width)


def _detail_line(view: View, known: dict[int, ShownMatrix], *, in_words: bool) -> Text:
    """The detail of some runs, the pair in words or in figures alone."""
    line = Text(no_wrap=True)
    pair = view.selection.pair
    if pair is not None:
        line.append(f"experts {pair[0]} and {pair[1]}: ", "bold").append("CKA ")
    for number, (run, matrix) in enumerate(known.items()):
        if view.several:
            line.append("  " if number else "").append("● ", view.color_of(run))
        here = pairs.pair_of(view, matrix.experts)
        if pair is None:
            here = next(iter(matrix.pairs(1)), None)
        if here is None:
            line.append("–", "dim")
            continue
        if pair is None:
            if in_words:
                what = "largest change " if matrix.change else "most similar "
                line.append("" if number else what, "dim")
                line.append(f"{here[0]} and {here[1]}: ", "dim")
            else:
                line.append(f"{here[0]}·{here[1]} ", "dim")
        value = float(matrix.values[here])
        line.append("+" if matrix.change and value > 0 else "").append(pairs.value_text(value))
        if not view.several and pair is not None:
            line.append_text(_more_of_a_pair(view, run, here))
    return line


def _more_of_a_pair(view: View, run: int, pair: pairs.Pair) -> Text:
    """Shared tokens of a pair, and its similarity on them."""
    probe = matrices.shown(view, run)
    if probe is None:
        return Text()
    layer = probe[1]
    told = f", {pairs.share_text(float(layer.shared[pair]))}"
    if layer.cka_shared is not None:
        told += f", CKA on them {pairs.value_text(float(layer.cka_shared[pair]))}"
    return Text(told, style="dim")


def _scale_and_time(view: View, scale: Scale, width: int) -> Text:
    """The scale of the colours, and which of the probes is shown."""
    line = Text("change " if scale.kind == "change" else "CKA ", style="dim")
    line.append_text(color_bar(scale, min(30, width // 2), color=view.color))
    frames = view.chosen.similarities
    room = min(40, width - line.cell_len - 14)
    if len(frames) > 1 and room >= 6:
        step = view.selection.step
        at = len(frames) - 1 if step is None else frames.at(step)
        dot = round(at / (len(frames) - 1) * (room - 1))
        line.append("   ").append("─" * dot, "dim")
        line.append("●", view.palette.primary)
        line.append("─" * (room - 1 - dot), "dim")
        line.append(f" {at + 1}/{len(frames)}", "dim")
    return line


def _where(view: View) -> str:
    probe = matrices.shown(view, view.selection.run)
    where = f"layer {view.layer_label}"
    if probe is None:
        return where
    step, layer = probe
    on_shared = view.selection.matrix.on_shared and layer.cka_shared is not None
    mean = layer.shared_mean if on_shared else layer.mean
    return f"{where} · {view.step_text(step)} · mean {pairs.value_text(mean)}"


def _click(view: View, run: int, row: int, column: int) -> View:
    matrix = matrices.matrix_of(view, run)
    if row == column or matrix is None:
        return view
    return view.choose(run=run, pair=(int(matrix.order[row]), int(matrix.order[column])))


def _height(view: View, _width: int) -> int:
    probe = matrices.shown(view, view.selection.run)
    return 3 + min(36, probe[1].experts if probe is not None else 1)


PANEL = Panel(
    id="cka",
    title=TITLE,
    short="CKA",
    about=(
        "How similar the outputs of two experts are on the same tokens: debiased linear CKA, 1 for "
        "the same up to rotation and scale, about 0 for unrelated ones, slightly negative by "
        "chance; – where it is undefined. Arrow keys walk layers and the probes of training; the "
        "cursor, moved by shift and arrows or h j k l, shows a pair's exact value. A layer where "
        "many pairs are close to 1 has collapsed. Of many experts: c puts similar ones together, "
        "f hides pairs below a value, p lists the top ten, and v shows what changed since the "
        "first probe (b: since this one) or the difference to the first run, which means something "
        "where experts of both runs began alike. Where cells are joined, the highest is seen."
    ),
    draw=draw,
    keys=(*pairs.PAIR_KEYS, *matrices.MATRIX_KEYS),
    click=_click,
    height=_height,
)
