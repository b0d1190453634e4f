"""Pairs of experts in order of similarity."""

from __future__ import annotations

from simsmoe_cli.collapse.pairs import most_similar, pairs_of
from tests.collapse.reports import report

CKA = [[1.0, 0.2, None], [0.2, 1.0, 0.9], [None, 0.9, 1.0]]


def test_the_highest_cka_comes_first_and_undefined_pairs_are_left_out() -> None:
    layers = report(layers=1, experts=3, cka=CKA).main.layers
    assert [(pair.name, pair.cka) for pair in most_similar(layers, 5)] == [
        ("1 and 2", 0.9),
        ("0 and 1", 0.2),
    ]
    assert [pair.cka for pair in pairs_of(layers)] == [0.2, None, 0.9]
    assert next(iter(most_similar(layers, 1))).full_name == f"1 and 2 of layer {layers[0].label}"


def test_exact_copies_come_before_all_others_even_where_cka_is_undefined() -> None:
    copies = [{"experts": [0, 2], "renumbered": False}]
    layers = report(layers=1, experts=3, cka=CKA, copies=copies).main.layers
    first = most_similar(layers, 1)[0]
    assert (first.name, first.cka) == ("0 and 2", None)
    assert first.copies is not None


def test_a_pair_is_above_the_null_if_its_interval_is() -> None:
    low = [[1.0, 0.001, None], [0.001, 1.0, 0.8], [None, 0.8, 1.0]]
    layers = report(layers=1, experts=3, cka=CKA, cka_low=low).main.layers
    assert [pair.above_null for pair in pairs_of(layers)] == [False, False, True]


def test_a_duplicate_gives_the_same_outputs_and_not_only_the_same_representation() -> None:
    apart = [[0.0, 0.05, 1.3], [0.05, 0.0, 1.2], [1.3, 1.2, 0.0]]
    layers = report(layers=1, experts=3, cka=CKA, apart=apart).main.layers
    assert [pair.duplicate for pair in pairs_of(layers)] == [True, False, False]
    of_an_earlier_version = report(layers=1, experts=3, cka=CKA).main.layers
    assert [pair.duplicate for pair in pairs_of(of_an_earlier_version)] == [False] * 3
    copies = [{"experts": [0, 2], "renumbered": False}]
    layers = report(layers=1, experts=3, cka=CKA, copies=copies).main.layers
    assert [pair.duplicate for pair in pairs_of(layers)] == [False, True, False]
