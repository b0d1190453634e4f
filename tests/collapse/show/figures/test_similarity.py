"""Figures: what they show and say, for whom, and that they do not depend on the machine."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.figures.heat_maps import SIMILARITY_COLOURS
from simsmoe_cli.collapse.show.figures.similarity import report_figures
from simsmoe_cli.collapse.show.figures.style import (
    Drawing,
    figure_file,
    inline_svg,
    own_settings,
    style,
)
from simsmoe_cli.errors import UserError
from simsmoe_cli.run.similarity_colours import SIMILARITY
from tests.collapse.reports import report, with_costs

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawings() -> dict[str, Drawing]:
    return named(with_costs(report("plain", "other", layers=2), scale=2))


def named(made: Report) -> dict[str, Drawing]:
    with style():
        return {drawing.name: drawing for drawing in report_figures(made)}


def svg_file(drawing: Drawing) -> bytes:
    return figure_file(drawing, "svg")


def texts(svg: str) -> list[str]:
    """What can be read in an SVG."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_figure_asked_for_is_there(drawings: dict[str, Drawing]) -> None:
    assert set(drawings) == {
        "by-layer", "shared-tokens", "training", "loss", "difference", "load", "entropy",
        "effective-rank", "cka-layer-0", "cka-layer-0-against", "cka-layer-1",
        "cka-layer-1-against", "cka-all-layers", "left-out", "merging", "co-activation", "domains",
        "saturation",
    }  # fmt: skip
    of_an_earlier_version = set(named(report()))
    assert not {"left-out", "merging", "co-activation", "domains"} & of_an_earlier_version


def test_captions_are_short_and_the_numbers_say_n_the_interval_and_the_null(
    drawings: dict[str, Drawing],
) -> None:
    for drawing in drawings.values():
        assert len(drawing.caption) <= 90, drawing.name
        assert re.search(r"n = [\d,]+", drawing.numbers), drawing.name
        assert "interval" in drawing.numbers, drawing.name
        assert re.search(r"\bnull\b", drawing.numbers, re.IGNORECASE), drawing.name


def test_the_numbers_are_those_of_the_findings(drawings: dict[str, Drawing]) -> None:
    """Pearson and Spearman of Fig. 4a with their intervals, as in `reports.py`."""
    numbers = drawings["shared-tokens"].numbers
    assert (
        "Pearson 0.31 (n = 12 pairs; 95% interval 0.21 to 0.41; null, 95% within -0.20 to 0.20)"
        in numbers
    )
    assert "Spearman 0.27 (n = 12 pairs; 95% interval 0.17 to 0.37" in numbers
    assert "plain: " in numbers
    assert "other: " in numbers
    # Of two layers, a correlation says nothing.
    assert "Spearman" not in drawings["by-layer"].numbers


def test_curves_of_layers_differ_in_colour_and_say_what_is_left_out(
    drawings: dict[str, Drawing],
) -> None:
    assert drawings["saturation"].numbers.startswith("n = 4,096 bytes of enwik8 valid;")
    assert "is shown" not in drawings["saturation"].numbers
    many = named(with_costs(report(layers=13)))["saturation"]
    assert many.numbers.endswith("One layer in 3 is shown.")
    colours = [line.get_color() for line in many.figure.axes[0].lines if line.get_marker() == "o"]
    with style():
        assert len({to_hex(colour) for colour in colours}) == len(colours) == 5


def test_files_are_for_papers(drawings: dict[str, Drawing]) -> None:
    """Vectors that load nothing, pixels at 300 dpi, and no caption or title in any of them."""
    drawing = drawings["by-layer"]
    content = svg_file(drawing)
    root = ElementTree.fromstring(content)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href"):
                assert value.startswith(("#", "data:"))
    assert b"<dc:date>" not in content
    pdf = figure_file(drawing, "pdf")
    assert pdf.startswith(b"%PDF")
    assert b"/CreationDate" not in pdf
    assert b"/Subtype /Image" not in pdf
    width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    assert width == pytest.approx(3.5 * 72)
    assert height == pytest.approx(2.5 * 72)  # no room for words
    image = imread(io.BytesIO(figure_file(drawing, "png")))
    assert image.shape[1] == pytest.approx(3.5 * 300, abs=2)
    assert image[:3, :3].min() == 1  # the ground is white
    assert np.ptp(image[..., :3]) > 0.5


def test_the_same_findings_give_the_same_bytes(
    drawings: dict[str, Drawing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has one style, whatever the user's matplotlib is set to, and that stays so."""
    name = "cka-layer-0"
    before = (
        svg_file(drawings[name]),
        figure_file(drawings[name], "pdf"),
        inline_svg(drawings[name]),
    )
    for key, value in (("font.size", 20), ("axes.grid", False), ("text.usetex", True)):
        monkeypatch.setitem(matplotlib.rcParams, key, value)
    again = named(report("plain", "other", layers=2))[name]
    assert (svg_file(again), figure_file(again, "pdf"), inline_svg(again)) == before
    assert matplotlib.rcParams["font.size"] == 20
    assert matplotlib.rcParams["text.usetex"]


def test_files_follow_the_users_settings_and_a_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_settings() == {}
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "#00ff00")
    sheet = tmp_path / "paper.mplstyle"
    sheet.write_text("figure.figsize: 7, 5\naxes.prop_cycle: cycler('color', ['ff00ff'])\n")
    settings = own_settings(str(sheet))
    with style(settings):
        (drawing,) = (d for d in report_figures(report()) if d.name == "by-layer")
    content = figure_file(drawing, "svg", settings).decode()
    assert "#00ff00" in content
    assert "#ff00ff" in content
    assert ElementTree.fromstring(content).attrib["width"] == "504pt"  # 7 inches
    assert own_settings("ggplot")["axes.facecolor"] == "#E5E5E5"


def test_a_style_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'ggplot'"):
        own_settings("ggplott")
    for content in (b"", b"\xff\xfe\x00"):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(UserError, match="broken: not a file with settings of matplotlib"):
            own_settings(str(tmp_path / "broken"))


def test_light_is_similar_as_in_the_monitor(drawings: dict[str, Drawing]) -> None:
    low, high = (SIMILARITY_COLOURS(value)[:3] for value in (0.0, 1.0))
    assert [to_hex(low), to_hex(high)] == [SIMILARITY[0], SIMILARITY[-1]]
    assert sum(low) < sum(high)


def test_a_heat_map_shows_each_pair_of_a_small_layer(drawings: dict[str, Drawing]) -> None:
    layer = report("plain", "other", layers=2).main.layers[0]
    shown = texts(inline_svg(drawings["cka-layer-0"]))
    for i, j in layer.pairs():
        value = layer.cka[i][j]
        assert value is not None
        assert shown.count(f"{value:.2f}".lstrip("0")) >= 2


@pytest.fixture
def holes() -> dict[str, Any]:
    """Changes that leave what concerns expert 3 undefined."""
    layer = report().main.layers[0].model_dump()
    for name in ("cka", "cka_low", "cka_high", "cka_biased", "cka_rbf", "cosine", "weight_cosine"):
        for other in range(4):
            layer[name][3][other] = layer[name][other][3] = None
    layer["effective_rank"][3] = None
    return layer


def test_undefined_values_are_hatched_and_counted(holes: dict[str, Any]) -> None:
    found = named(report(**holes))
    drawing = found["cka-layer-0"]
    assert "3 pairs are undefined (hatched)" in drawing.caption
    assert "<pattern" in inline_svg(drawing)
    assert "nan" not in texts(inline_svg(drawing))
    assert "undefined" not in found["cka-layer-1"].caption
    assert "<pattern" not in inline_svg(found["cka-layer-1"])
    assert "3 pairs undefined" in found["by-layer"].numbers
    assert "1 undefined" in found["effective-rank"].numbers


def test_nothing_but_undefined_values(holes: dict[str, Any]) -> None:
    nothing = {name: [[None] * 4] * 4 for name in ("cka", "cka_low", "cka_high", "cka_rbf")}
    estimate = {**holes["cka_mean"], "value": None, "low": None, "high": None, "n": 0}
    drawing = named(report(**holes | nothing | {"cka_mean": estimate}))["cka-layer-0"]
    assert "Mean undefined" in drawing.caption
    assert "n = 0 pairs; no 95% interval" in drawing.numbers
    ElementTree.fromstring(inline_svg(drawing))


def test_a_dead_expert_is_named(holes: dict[str, Any]) -> None:
    load = [0.0, 0.5, 0.25, 0.25]
    found = named(report(layers=1, load=load, dead=[0]))["load"]
    assert "1 dead" in found.numbers
    shown = texts(inline_svg(found))
    assert "2.00" in shown  # twice a fair share
    assert "0.00" not in shown  # a cross stands there


def test_names_are_text_and_nothing_else() -> None:
    name = "<script>&'\"\x1b[31m $x^2$ 名"
    found = named(report(name, "other", layers=1))
    for drawing in (found["by-layer"], found["cka-layer-0"]):
        ElementTree.fromstring(svg_file(drawing))
        root = ElementTree.fromstring(inline_svg(drawing))
        assert not list(root.iter(f"{SVG}script"))
    shown = texts(inline_svg(found["by-layer"]))
    assert name.replace("\x1b", "\\x1b") in shown


def test_both_panels_of_the_difference_show_one_pair_or_say_why_not() -> None:
    alone = named(report("plain", layers=1))["difference"]
    assert "The most similar pair is shown. " in alone.numbers
    made = report("plain", "other", layers=1).model_dump()
    both = named(Report.model_validate(made))["difference"]
    assert "Both panels show the most similar pair of plain. It was chosen for that" in both.numbers
    made["against"]["difference"]["experts"] = [1, 2]
    apart = named(Report.model_validate(made))["difference"]
    assert "Each panel shows the most similar pair of its run: that of plain is missing" in (
        apart.numbers
    )


def test_the_scores_of_a_classifier_are_accuracies() -> None:
    made = report(layers=1).model_dump()
    for point in made["findings"][0]["history"]["losses"]:
        point |= {"bpc": None, "accuracy": 0.8}
    shown = texts(inline_svg(named(Report.model_validate(made))["loss"]))
    assert "accuracy" in shown
    assert "loss, nats per token" not in shown


def test_runs_of_one_name_are_told_apart() -> None:
    assert {"plain", "plain (against)"} <= set(
        texts(inline_svg(named(report("plain", "plain", layers=1))["by-layer"]))
    )


def test_a_model_without_history_has_no_curves() -> None:
    made = report(layers=1).model_dump()
    made["findings"][0]["history"] = {}
    made["findings"][0]["difference"] = None
    found = named(Report.model_validate(made))
    assert not {"loss", "training", "difference"} & set(found)


@pytest.mark.parametrize(("layers", "experts"), [(1, 1), (5, 20)])
def test_few_and_many_experts(layers: int, experts: int) -> None:
    found = named(report(layers=layers, experts=experts))
    assert f"cka-layer-{layers - 1}" in found
    for name in ("cka-layer-0", "cka-all-layers", "load", "shared-tokens"):
        ElementTree.fromstring(inline_svg(found[name]))


def test_maps_of_many_experts_are_ordered_by_cluster_and_keep_their_numbers() -> None:
    """As in the monitor: three planted clusters stand together, and each cell is its pair's."""
    groups = [[0, 3, 6, 9, 12, 15, 18], [1, 4, 7, 10, 13, 16, 19], [2, 5, 8, 11, 14, 17]]
    cka = np.random.default_rng(2).uniform(0, 0.1, (20, 20))
    for group in groups:
        cka[np.ix_(group, group)] += 0.8
    cka = (cka + cka.T) / 2
    found = named(report(layers=1, experts=20, cka=cka.tolist()))
    axes = found["cka-layer-0"].figure.axes[0]
    words = found["cka-layer-0"].numbers.partition("Experts by cluster, from the top: ")[2]
    order = [int(number) for number in words.rstrip(".").split(", ")]
    assert sorted(order) == list(range(20))
    for group in groups:
        places = [order.index(expert) for expert in group]
        assert max(places) - min(places) == len(group) - 1
    (image,) = axes.images
    for row, column in ((0, 1), (3, 17), (19, 8)):
        colour = SIMILARITY_COLOURS(cka[order[row], order[column]])
        assert np.allclose(image.get_array()[row, column], colour)
    for ticks in (axes.get_xticks(), axes.get_yticks()):
        assert ticks[0] == 0
        assert len(ticks) >= 6
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        place = max(label.get_position())  # the other coordinate is 0
        assert label.get_text() == str(order[int(place)])
    assert "by cluster" in found["cka-all-layers"].numbers
    assert "by cluster" not in named(report(layers=1))["cka-layer-0"].numbers


def test_layers_of_any_name_have_files_of_their_own() -> None:
    """Names from a foreign model reach file names as letters, digits, dots and dashes alone."""
    made = report(layers=4).model_dump()
    strange = ["../../<script>", "en\u202ecoder 1", "../../&script;", "x" * 300]
    for layer, label in zip(made["findings"][0]["layers"], strange, strict=True):
        layer["label"] = label
    found = named(Report.model_validate(made))
    files = [name for name in found if name.startswith("cka-layer-")]
    assert len(files) == 4
    for name in files:
        assert re.fullmatch(r"[A-Za-z0-9.-]{1,90}", name)
        assert ".." not in name
    for name in (*files, "by-layer", "load", "cka-all-layers"):
        ElementTree.fromstring(inline_svg(found[name]))
        ElementTree.fromstring(svg_file(found[name]))


def test_routing_that_is_undefined_is_hatched_and_said() -> None:
    undefined = {
        "load": [None] * 4, "dead": None, "load_cv": None, "load_max_over_mean": None,
        "entropy_nats": None, "entropy_of_mean_nats": None, "shared": [[None] * 4] * 4,
        "effective_rank": [None] * 4, "non_finite_inputs": 7,
    }  # fmt: skip
    found = named(report(layers=1, **undefined))
    assert "How many are dead is undefined. " in found["load"].numbers
    for name in ("load", "entropy", "effective-rank", "shared-tokens"):
        assert "nan" not in texts(inline_svg(found[name]))
    assert "<pattern" in inline_svg(found["load"])
