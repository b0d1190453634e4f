"""The matrix that is shown; in the second layer of the made run experts 2 and 5 stay copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simsmoe_cli.monitor.panels import cka
from simsmoe_cli.monitor.panels.cka import PANEL
from simsmoe_cli.monitor.panels.matrices import matrix_of
from simsmoe_cli.monitor.view import MatrixChoice, View
from simsmoe_cli.run import probes
from simsmoe_cli.run.folder import RunDir
from tests.monitor.made_run import EXPERTS, LAYERS, TOKENS, cka_of, write_run
from tests.monitor.views import drawn, key, view_of


def all_of(layer: int, step: int, separate: float = 1.0) -> np.ndarray:
    values = [[cka_of(layer, i, j, step, separate) for j in range(EXPERTS)] for i in range(EXPERTS)]
    return np.array(values, dtype=np.float64)


def test_by_cluster_the_same_values_stand_in_another_order(runs: Path) -> None:
    view = key(PANEL, view_of(runs / "first", layer=1), "c")
    matrix = matrix_of(view, 0)
    assert matrix is not None
    np.testing.assert_allclose(matrix.values, all_of(1, 2000), rtol=1e-6)
    order = matrix.order.tolist()
    assert sorted(order) == list(range(EXPERTS))
    assert abs(order.index(2) - order.index(5)) == 1
    labels = [int(label) for label in drawn(PANEL, view)[0].split()]
    assert labels == order
    assert PANEL.draw(view, 78, 20).title == "Pairwise CKA, by cluster"
    # Keys and clicks mean what stands in the map.
    at = view.choose(pair=(order[0], order[1]))
    assert key(PANEL, at, "j").selection.pair == (order[2], order[1])
    assert PANEL.click is not None
    assert PANEL.click(view, 0, 3, 4).selection.pair == (order[3], order[4])


def test_a_filter_leaves_the_pairs_above_a_value(runs: Path) -> None:
    view = view_of(runs / "first", layer=1)
    values = all_of(1, 2000)[np.triu_indices(EXPERTS, 1)]
    for limit in (0.3, 0.5, 0.7, 0.8, 0.9):
        view = key(PANEL, view, "f")
        matrix = matrix_of(view, 0)
        assert matrix is not None
        assert len(matrix.pairs()) == (values > limit).sum()
        assert f"above {limit:g}" in PANEL.draw(view, 78, 20).title
    (row,) = (line.split() for line in drawn(PANEL, view)[1:] if line.split()[:1] == ["2"])
    assert row == ["2", "·", "·", "·", "·", "·", "0.99", "·", "·"]
    assert key(PANEL, view, "f").selection.matrix.above is None


def test_the_change_since_the_first_probe_or_one_that_was_chosen(runs: Path) -> None:
    view = key(PANEL, view_of(runs / "first", layer=2), "v")
    changed = matrix_of(view, 0)
    assert changed is not None
    np.testing.assert_allclose(changed.values, all_of(2, 2000) - all_of(2, 0), atol=1e-6)
    view = key(PANEL, view.choose(step=500), "b").choose(step=None)
    assert PANEL.draw(view, 78, 20).title == "Pairwise CKA, change since step 500"
    changed = matrix_of(view, 0)
    assert changed is not None
    np.testing.assert_allclose(changed.values, all_of(2, 2000) - all_of(2, 500), atol=1e-6)
    largest = changed.pairs(1)[0]
    size = np.abs(changed.values)[np.triu_indices(EXPERTS, 1)]
    assert abs(changed.values[largest]) == np.nanmax(size)
    assert drawn(PANEL, view)[-2].startswith(f"largest change {largest[0]} and {largest[1]}: -0.")


def test_the_difference_to_the_first_run(runs: Path) -> None:
    view = view_of(runs / "first", runs / "second", layer=2)
    view = key(PANEL, key(PANEL, view, "v"), "v")
    assert PANEL.draw(view, 100, 20).title == "Pairwise CKA, minus first"
    assert matrix_of(view, 0) is None
    other = matrix_of(view, 1)
    assert other is not None
    expected = all_of(2, 2000, 0.2) - all_of(2, 2000)
    np.testing.assert_allclose(other.values, expected, atol=1e-6)
    assert "the others minus this run" in "\n".join(drawn(PANEL, view, 100))
    assert key(PANEL, view, "v").selection.matrix.compare == ""


def test_the_top_ten_pairs_are_a_list(runs: Path) -> None:
    view = key(PANEL, view_of(runs / "first", layer=1, pair=(5, 2)), "p")
    values = all_of(1, 2000)
    best = sorted(values[np.triu_indices(EXPERTS, 1)], reverse=True)[:10]
    for width in (78, 40):
        lines = [line.split() for line in drawn(PANEL, view, width)]
        listed = [line[-4:] for line in lines if line and line[-1].endswith("%")]
        assert [float(words[2]) for words in listed[:10]] == pytest.approx(best, abs=5e-4)
        assert listed[0][:2] == ["2", "5"]
    assert any("top of 28/28 pairs" in line for line in drawn(PANEL, view))
    assert PANEL.draw(view, 40, 20).maps == []


def with_shared(tmp_path: Path) -> View:
    """A run whose last probe holds CKA on shared tokens too."""
    path = write_run(tmp_path / "run", until=250, total=250)
    cka_all = np.stack([all_of(layer, 250) for layer in range(LAYERS)]).astype(np.float32)
    probes.write(
        RunDir(path),
        250,
        measure="cka-linear-debiased",
        tokens=TOKENS,
        cka_LNN=cka_all,
        shared_LNN=np.full((LAYERS, EXPERTS, EXPERTS), 100, np.int32),
        cka_shared_LNN=cka_all / 2,
    )
    return view_of(path, layer=1, pair=(2, 5))


def test_cka_on_shared_tokens_where_it_was_measured(tmp_path: Path, runs: Path) -> None:
    view = with_shared(tmp_path)
    assert drawn(PANEL, view)[-2].endswith("0.10% of tokens shared, CKA on them 0.495")
    matrix = matrix_of(key(PANEL, view, "u"), 0)
    assert matrix is not None
    np.testing.assert_allclose(matrix.values, all_of(1, 250) / 2, rtol=1e-5)
    old = key(PANEL, view_of(runs / "first"), "u")
    assert matrix_of(old, 0) is None
    assert "not measured on shared tokens" in "\n".join(drawn(PANEL, old))


def test_pairs_that_share_too_few_tokens_say_so_and_what_to_do(tmp_path: Path) -> None:
    """As of 64 experts, where hardly any pair shares 32 of a probe's 1,024 tokens."""
    path = write_run(tmp_path / "run", until=250, total=250)
    events = (path / "events.jsonl").read_text()
    events = events.replace('"tokens": 100000', '"tokens": 100000, "fewest_shared": 32')
    (path / "events.jsonl").write_text(events.replace('"moe": {', '"train": {}, "moe": {'))
    cka = np.stack([all_of(layer, 250) for layer in range(LAYERS)]).astype(np.float32)
    on_shared = np.full_like(cka, np.nan)
    on_shared[1, 2, 5] = on_shared[1, 5, 2] = 0.25
    shared = np.full(cka.shape, 4, np.int32)
    probes.write(
        RunDir(path), 250, measure="cka-linear-debiased", tokens=TOKENS,
        cka_LNN=cka, shared_LNN=shared, cka_shared_LNN=on_shared,
    )  # fmt: skip
    view = view_of(path, layer=1, pair=(0, 1))
    why = "27 of 28 pairs share fewer than 32 tokens (raise train.probe_tokens)"
    assert why not in drawn(PANEL, view)
    assert drawn(PANEL, view)[-2].endswith("CKA on them undefined")
    view = key(PANEL, view, "u")
    assert drawn(PANEL, view)[-3] == why
    assert PANEL.draw(view, 78, 20).note.endswith("mean 0.250")


@pytest.mark.parametrize("width", [30, 44, 68])
def test_the_detail_of_several_runs_never_cuts_a_number(runs: Path, width: int) -> None:
    folders = [runs / name for name in ("first", "second", "third")]
    view = view_of(*folders, layer=1, matrix=MatrixChoice(clustered=True))
    detail = drawn(cka.PANEL, view, width)[-2]
    assert detail.count("0.991") in (1, 3)
    assert not detail.endswith("…")
