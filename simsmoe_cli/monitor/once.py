"""One static picture of runs, as text for a terminal, a log or a pipeline: the panels of the
dashboard.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import short
from simsmoe_cli.monitor.draw.bars import bars
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot, scatter
from simsmoe_cli.monitor.draw.heatmap import heat_map, layout
from simsmoe_cli.monitor.draw.scales import color_bar, magnitude_scale, similarity_scale
from simsmoe_cli.monitor.json_snapshot import Seen
from simsmoe_cli.monitor.state.alerts import duration
from simsmoe_cli.monitor.state.layers import most_alike
from simsmoe_cli.monitor.state.probes import SimilarityFrame
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.run.correlation import pearson

COLORS = ("#3b8fd4", "#d08700", "#1f9e77", "#c06a9b", "#a08c00", "#d9593d", "#7c86d6", "#909090")
BESIDE_FROM = 96  # cells of width from which panels stand beside each other
GAP = 3
LOG_LINES = 12
PAIRS_LISTED = 5
LAYERS_LISTED = 8
MARKS = {"info": " ", "good": "✓", "warning": "!", "alert": "▲"}
STYLES = {"info": "", "good": "green", "warning": "yellow", "alert": "bold red"}


def picture(
    runs: Sequence[Seen], width: int = 100, *, color: bool = True, now: float | None = None
) -> list[Text]:
    """The panels of the runs as lines of at most `width` cells; several runs share the curves.

    Args:
        runs: at least one.
        width: at least 40.
        color: False tells values apart by characters alone.
        now: seconds since the epoch; None asks the clock.
    """
    now = time.time() if now is None else now
    lines: list[Text] = []
    if len(runs) > 1:
        lines += [_headline(run.history, now, width) for run in runs]
        lines += _panel(_title_of_scores(runs), _together(runs, width, color), width)
    for run in runs:
        lines += [Text()] if lines else []
        lines += _run(run, width, color, now, alone=len(runs) == 1)
    return lines


def _run(run: Seen, width: int, color: bool, now: float, *, alone: bool) -> list[Text]:
    history = run.history
    lines = [_headline(history, now, width), *_about(history, width)]
    if not history.total_events:
        said = _events(history, width) if history.log else []
        return [*lines, Text("No event yet.", "dim"), *said]
    half = (width - GAP) // 2 if width >= BESIDE_FROM else width
    if alone and "train" in history.series:
        title = _title_of_scores([run])
        lines += _panel(title, _together([run], width, color), width)
    speed = [
        _panel(f"{title} {short(history.last(name))}", _small(history, name, third, color), third)
        for third in [(width - 2 * GAP) // 3 if width >= BESIDE_FROM else width]
        for name, title in (
            ("tokens_per_s", "tokens/s"),
            ("lr", "learning rate"),
            ("grad_norm", "gradient norm"),
        )
        if name in history.series
    ]
    lines += _beside(speed, width)
    if losses := history.named("loss."):
        curves = [
            _curve(history, f"loss.{name}", f"{name} {short(series.last)}", number)
            for number, (name, series) in enumerate(losses.items())
        ]
        plot = line_plot(curves, width, 8, x_label="step", color=color)
        lines += _panel("auxiliary losses, nats", plot, width)
    lines += _beside([_load(history, half, color), _by_layer(history, half, color)], width)
    if len(history.similarities):
        lines += _similarity(history, half, width, color)
    return lines + _events(history, width)


def _headline(history: RunHistory, now: float, width: int) -> Text:
    """Name, state, step, ETA."""
    status = history.status_at(now)
    text = Text(history.name, "bold")
    text.append(f"  {status}", STYLES["good" if status in ("training", "finished") else "warning"])
    if status == "stale" and math.isfinite(quiet := history.quiet_s(now)):
        text.append(f", no event for {duration(quiet)}")
    of = f" of {history.total_steps:,} ({history.progress:.0%})" if history.total_steps else ""
    text.append(f"  step {history.step:,}{of}", "not bold")
    eta = history.eta_seconds(now)
    text.append(f"  {duration(eta)} left" if eta is not None else "", "not bold")
    text.truncate(width, overflow="ellipsis")
    return text


def _about(history: RunHistory, width: int) -> list[Text]:
    """Two lines: what it is, and where it stands."""
    what = [
        history.recipe_name and f"recipe {history.recipe_name}",
        history.router and f"router {history.router}",
        history.similarity and f"similarity {history.similarity}",
        history.parameters and f"{short(history.parameters)} parameters",
        f"{history.device} {history.precision}".strip(),
    ]
    best = f" at step {history.best_step:,}" if history.best_step is not None else ""
    numbers = [
        (f"train {history.scoring.name}", history.last("train"), ""),
        ("valid", history.last("valid"), ""),
        ("best", history.best_score, best),
        ("test", history.test_score, ""),
    ]
    where = [f"{name} {value:.3f}{rest}" for name, value, rest in numbers if math.isfinite(value)]
    lines = [Text("  ".join(part for part in what if part)), Text("  ".join(where))]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return [line for line in lines if line.plain]


def _title_of_scores(runs: Sequence[Seen]) -> str:
    units = dict.fromkeys(
        f"{run.history.scoring.name}, {run.history.scoring.in_words}"
        for run in runs
        if run.history.total_events
    )
    return "; ".join(units) or "score"


def _together(runs: Sequence[Seen], width: int, color: bool) -> list[Text]:
    """The scores of all runs in one plot."""
    curves: list[Curve] = []
    for run in runs:
        history = run.history
        for name in ("train", "valid"):
            if name in history.series:
                value = _digits(history.last(name), 3)
                label = f"{name} {value}" if len(runs) == 1 else f"{history.name} {name} {value}"
                curves.append(_curve(history, name, label, len(curves)))
    return line_plot(curves, width, 14, x_label="step", color=color)


def _curve(history: RunHistory, name: str, label: str, number: int) -> Curve:
    points = history.series[name].points()
    style = COLORS[number % len(COLORS)]
    return Curve(label, points.step, points.mean, points.low, points.high, style)


def _small(history: RunHistory, name: str, width: int, color: bool) -> list[Text]:
    return line_plot([_curve(history, name, "", 0)], width, 7, legend=False, color=color)


def _load(history: RunHistory, width: int, color: bool) -> list[Text]:
    """Router load by layer and expert, with CV and dead experts."""
    layers = history.router_layers
    experts = max((len(layer.load) for layer in layers), default=0)
    if not experts:
        return []
    load = np.full((len(layers), experts), np.nan)
    for row, layer in enumerate(layers):
        load[row, : len(layer.load)] = layer.load
    scale = magnitude_scale(load)
    labels = [history.label(layer.layer) for layer in layers]
    place = layout(len(layers), experts, width, 24, label_width=max(map(len, labels)), halves=color)
    columns = [str(expert) for expert in range(experts)]
    lines = heat_map(load, scale, place, row_labels=labels, column_labels=columns, color=color)
    lines.append(color_bar(scale, width, color=color))
    lines += _load_words(history)
    title = f"load by layer and expert, step {history.routers[-1].step:,}"
    return _panel(title, lines, width)


def _load_words(history: RunHistory) -> list[Text]:
    """CV and dead experts of each layer; of many layers only what stands out."""
    layers = history.router_layers
    many = len(layers) > LAYERS_LISTED
    lines = []
    if many:
        known = [layer for layer in layers if math.isfinite(layer.load_cv)] or list(layers)
        low, high = (pick(known, key=lambda layer: layer.load_cv) for pick in (min, max))
        span = f"CV {_digits(low.load_cv)} to {_digits(high.load_cv)}"
        lines.append(Text(f"{span}, highest in layer {history.label(high.layer)}"))
    told = [layer for layer in layers if layer.dead or not many]
    for layer in told[:LAYERS_LISTED]:
        dead = f"; dead: {', '.join(map(str, layer.dead))}" if layer.dead else ""
        label = history.label(layer.layer)
        lines.append(Text(f"layer {label}: CV {_digits(layer.load_cv)}{dead}"))
    if rest := len(told[LAYERS_LISTED:]):
        lines.append(Text(f"and {rest} more layers with dead experts"))
    return lines


def _by_layer(history: RunHistory, width: int, color: bool) -> list[Text]:
    """Mean CKA of each layer, now and over training."""
    if not len(history.similarities):
        return []
    frame = history.similarities[-1]
    labels = [f"layer {history.label(number)}" for number in frame.means]
    values = np.array(list(frame.means.values()), dtype=np.float64)
    lines = bars(labels, values, width, high=1.0, style=COLORS[0] if color else "")
    curve = _curve(history, "cka", "", 0)
    lines += [Text(), *line_plot([curve], width, 8, legend=False, x_label="step", color=color)]
    return _panel(f"mean CKA by layer; of all {_digits(frame.mean)}", lines, width)


def _similarity(history: RunHistory, half: int, width: int, color: bool) -> list[Text]:
    """The layer whose experts are most alike: its matrix, and shared tokens against CKA."""
    frame = history.similarities[-1]
    defined = {number: mean for number, mean in frame.means.items() if math.isfinite(mean)}
    number = max(defined, key=defined.__getitem__) if defined else next(iter(frame.means), None)
    layer = frame.layer(number) if number is not None else None
    if layer is None:
        return []
    scale = similarity_scale(layer.cka)
    labels = [str(expert) for expert in range(layer.experts)]
    place = layout(
        layer.experts, layer.experts, half, 36, label_width=len(labels[-1]), halves=color
    )
    matrix = heat_map(
        layer.cka,
        scale,
        place,
        row_labels=labels,
        column_labels=labels,
        masked_RC=np.eye(layer.experts, dtype=bool),
        color=color,
    )
    matrix.append(color_bar(scale, half, color=color))
    matrix += _pairs(history, frame)
    title = f"layer {history.label(layer.layer)}, the most alike: CKA, step {frame.step:,}"
    upper = np.triu_indices(layer.experts, 1)
    shared, cka = layer.shared[upper], layer.cka[upper]
    mark = "•" if len(cka) < 200 else ""
    points = scatter(shared, cka, half, max(8, min(18, len(matrix))), x_label="shared", mark=mark)
    told = f"CKA against shared tokens, r {_digits(pearson(shared, cka))}, n {len(cka)}"
    return _beside([_panel(title, matrix, half), _panel(told, points, half)], width)


def _pairs(history: RunHistory, frame: SimilarityFrame) -> list[Text]:
    """The most alike pairs of all layers."""
    found = [
        (value, number, first, second)
        for number in frame.means
        if (layer := frame.layer(number)) is not None
        for first, second, value in most_alike(layer, PAIRS_LISTED)
    ]
    found.sort(key=lambda pair: -pair[0])
    return [
        Text(f"layer {history.label(number)}, experts {first} and {second}: CKA {value:.2f}")
        for value, number, first, second in found[:PAIRS_LISTED]
    ]


def _events(history: RunHistory, width: int) -> list[Text]:
    newest = list(history.log)[-LOG_LINES:]
    digits = max((len(f"{line.step:,}") for line in newest), default=1)
    lines = []
    for line in newest:
        text = Text(f"{line.step:>{digits},} {MARKS[line.level]} ")
        text.append(line.text, STYLES[line.level])
        text.truncate(width, overflow="ellipsis")
        lines.append(text)
    return _panel("events and warnings", lines, width)


def _panel(title: str, lines: Sequence[Text], width: int) -> list[Text]:
    """Lines under a title."""
    head = Text(f"── {title} ", "bold")
    head.truncate(width, overflow="ellipsis")
    head.append("─" * (width - head.cell_len), "dim")
    return [Text(), head, *lines]


def _beside(blocks: Sequence[list[Text]], width: int) -> list[Text]:
    """Blocks next to each other where there is room, else one under the other."""
    blocks = [block for block in blocks if block]
    if width < BESIDE_FROM or len(blocks) < 2:
        return [line for block in blocks for line in block]
    wide = (width - GAP * (len(blocks) - 1)) // len(blocks)
    lines = []
    for row in range(max(map(len, blocks))):
        line = Text()
        for number, block in enumerate(blocks):
            part = block[row].copy() if row < len(block) else Text()
            if number < len(blocks) - 1:
                part.append(" " * (wide + GAP - part.cell_len))
            line.append_text(part)
        lines.append(line)
    return lines


def _digits(value: float, count: int = 2) -> str:
    """So many digits, or a dash where undefined."""
    return f"{value:.{count}f}" if math.isfinite(value) else "–"
