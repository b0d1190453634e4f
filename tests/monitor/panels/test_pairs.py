"""The cursor on pairs of experts; in the second layer of the made run 2 and 5 stay copies."""

from __future__ import annotations

from pathlib import Path

from simsmoe_cli.monitor.panels.pairs import (
    move_pair,
    next_similar_pair,
    pair_of,
    similar_pairs_of_all_layers,
)
from tests.monitor.made_run import EXPERTS, cka_of
from tests.monitor.views import view_of


def test_pairs_are_walked_by_similarity_and_begin_anew(runs: Path) -> None:
    view = view_of(runs / "first", layer=1)
    pairs = []
    for _ in range(29):
        view = next_similar_pair(view)
        pairs.append(view.selection.pair)
    assert pairs[0] == pairs[28] == (2, 5)
    assert len(set(pairs)) == EXPERTS * (EXPERTS - 1) // 2
    values = [cka_of(1, *pair, 2000, 1.0) or 0.0 for pair in pairs[:28] if pair]
    assert values == sorted(values, reverse=True)


def test_undefined_pairs_are_left_out_of_the_walk(runs: Path) -> None:
    view = view_of(runs / "first", layer=3)
    for _ in range(30):
        view = next_similar_pair(view)
        assert 6 not in (view.selection.pair or ())


def test_the_cursor_jumps_over_the_diagonal_and_stays_inside(runs: Path) -> None:
    view = view_of(runs / "first", layer=1, pair=(4, 5))
    assert move_pair(view, 78, 1, 0).selection.pair == (6, 5)
    assert move_pair(view_of(runs / "first", pair=(0, 1)), 78, -1, 0).selection.pair == (0, 1)
    assert move_pair(view_of(runs / "first", layer=1), 78, 0, 1).selection.pair == (2, 5)


def test_a_pair_that_a_layer_does_not_have_is_not_shown(runs: Path) -> None:
    assert pair_of(view_of(runs / "first", pair=(2, 9)), EXPERTS) is None


def test_the_most_similar_pairs_of_all_layers(runs: Path) -> None:
    lines = similar_pairs_of_all_layers(view_of(runs / "first").chosen, 3)
    assert lines[0].plain == "layer 3, experts 2 and 5: CKA 0.99"
    assert len(lines) == 3
