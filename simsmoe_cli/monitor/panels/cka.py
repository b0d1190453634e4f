"""The panel "CKA": pairwise debiased linear CKA of the experts of one layer, at one probe."""

from __future__ import annotations

from functools import partial

import numpy as np
from rich.text import Text

from simsmoe_cli.monitor.draw.heatmap import Layout, heat_map, layout
from simsmoe_cli.monitor.draw.scales import SIMILARITY_SCALE, Scale, color_bar
from simsmoe_cli.monitor.draw.text import cut, filled
from simsmoe_cli.monitor.panels import pairs
from simsmoe_cli.monitor.panels.panel import Panel, Picture, run_grid
from simsmoe_cli.monitor.state.probes import LayerSimilarity
from simsmoe_cli.monitor.view import View


def draw(view: View, width: int, height: int) -> Picture:
    """A heat map of experts against experts for each run."""
    runs = run_grid(view, width, height - 2)
    found = {run: pairs.shown(view, run) for run in runs.runs}
    if not any(found.values()):
        return pairs.no_matrices(view, width, height)
    scale = SIMILARITY_SCALE

    def draw_run(_run: int, probe: pairs.Probe, high: int) -> tuple[list[Text], Layout]:
        return _map(view, probe[1], scale, runs.width, high)

    lines, maps = runs.beside(
        view,
        found,
        draw_run,
        missing=partial(pairs.why_none, view),
        heading=lambda probe: f"step {probe[0]:,}",
    )
    lines = filled(lines, height - 2)
    lines += [_detail(view, width), _scale_and_time(view, scale, width)]
    return Picture(lines, _where(view), maps=maps)


def _map(
    view: View, layer: LayerSimilarity, scale: Scale, width: int, height: int
) -> tuple[list[Text], Layout]:
    experts = layer.experts
    labels = [str(expert) for expert in range(experts)]
    grid = layout(experts, experts, width, height, label_width=len(labels[-1]), halves=view.color)
    lines = heat_map(
        layer.cka,
        scale,
        grid,
        row_labels=labels,
        column_labels=labels,
        masked_RC=np.eye(experts, dtype=bool),
        selected=pairs.pair_of(view, experts),
        color=view.color,
    )
    return lines, grid


def _detail(view: View, width: int) -> Text:
    """The pair under the cursor, or the most similar one, in each run."""
    line = Text(no_wrap=True)
    pair = view.selection.pair
    if pair is not None:
        line.append(f"experts {pair[0]} and {pair[1]}: ", "bold").append("CKA ")
    for layer in pairs.told_of_each_run(view, line):
        here = pairs.pair_of(view, layer.experts) if pair is not None else pairs.most_similar(layer)
        if here is None:
            line.append("–", "dim")
            continue
        if pair is None:
            line.append("most similar " if not line.plain.strip("● ") else "", "dim")
            line.append(f"{here[0]} and {here[1]}: ", "dim")
        line.append(pairs.value_text(float(layer.cka[here])))
        if not view.several and pair is not None:
            line.append(f", {pairs.share_text(float(layer.shared[here]))}", "dim")
    return cut(line, width)


def _scale_and_time(view: View, scale: Scale, width: int) -> Text:
    """The scale of the colours, and which of the probes is shown."""
    line = Text("CKA ", style="dim")
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
    probe = pairs.shown(view, view.selection.run)
    where = f"layer {view.layer_label}"
    if probe is None:
        return where
    step, layer = probe
    return f"{where} · {view.step_text(step)} · mean {pairs.value_text(layer.mean)}"


def _click(view: View, run: int, row: int, column: int) -> View:
    return view if row == column else view.choose(run=run, pair=(row, column))


def _height(view: View, _width: int) -> int:
    probe = pairs.shown(view, view.selection.run)
    return 3 + min(36, probe[1].experts if probe is not None else 1)


PANEL = Panel(
    id="cka",
    title="Pairwise CKA",
    short="CKA",
    about=(
        "How similar the outputs of two experts are on the same tokens: debiased linear CKA, 1 for "
        "the same up to rotation and scale, about 0 for unrelated ones, slightly negative by "
        "chance; – where it is undefined. Arrow keys walk layers and the probes of training; the "
        "cursor, moved by shift and arrows or h j k l, shows a pair's exact value. A layer where "
        "many pairs are close to 1 has collapsed."
    ),
    draw=draw,
    keys=pairs.PAIR_KEYS,
    click=_click,
    height=_height,
)
