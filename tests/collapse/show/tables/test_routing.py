"""Tables of experts and routing: exact values behind what is shown, undefined ones named."""

from __future__ import annotations

from simsmoe_cli.collapse.show.tables.cost import merging_table, pair_costs_table
from simsmoe_cli.collapse.show.tables.routing import (
    experts_table,
    favourites_table,
    routing_table,
)
from simsmoe_cli.collapse.show.tables.similarity import layers_table, pairs_table
from tests.collapse.reports import report, with_costs


def test_every_row_has_a_cell_for_every_column_in_brief_too() -> None:
    made = report("plain", "other", layers=2)
    for table in (layers_table(made), pairs_table(made), experts_table(made)):
        assert table.rows
        for shown in (table, table.brief()):
            assert all(len(row) == len(shown.columns) for row in shown.rows)
    brief = [column.label for column in layers_table(made).brief().columns]
    assert brief[:2] == ["layer", "mean CKA"]
    assert "RBF CKA" not in brief


def test_an_expert_names_the_most_similar_other_one() -> None:
    cka = [[1.0, 0.3, 0.3], [0.3, 1.0, None], [0.3, None, 1.0]]
    rows = experts_table(report(layers=1, experts=3, cka=cka)).rows
    assert [row[6].text for row in rows] == ["expert 1", "expert 0", "expert 0"]
    assert [row[7].value for row in rows] == [0.3, 0.3, 0.3]


def test_states_of_experts_are_words_and_undefined_ones_are_said() -> None:
    copies = [{"experts": [0, 1], "renumbered": True}]
    made = report(layers=1, experts=3, dead=[1], non_finite=[2], copies=copies)
    states = [row[3].text for row in experts_table(made).rows]
    assert states == ["copy of 1", "dead, copy of 0", "not finite"]
    unknown = experts_table(report(layers=1, experts=2, dead=None, load=[None, None])).rows
    assert [(row[3].text, row[3].value) for row in unknown] == [("undefined", "")] * 2


def test_each_expert_has_what_it_costs_to_leave_it_out_beside_its_saliency() -> None:
    made = with_costs(report(layers=2))
    table = experts_table(made)
    heads = [column.label for column in table.columns]
    row = table.rows[made.main.layers[0].experts + 2]  # expert 2 of layer 1
    shown = dict(zip(heads, row, strict=True))
    assert shown["loss without it, nats"].value == 0.01 * 2 - 0.001 + 0.0001
    assert shown["interval"].text == "0.0171 to 0.0211"
    assert shown["REAP saliency"].value == 3.0
    assert "REAP saliency" not in [column.label for column in experts_table(report()).columns]


def test_similar_pairs_stand_beside_random_ones() -> None:
    made = with_costs(report(layers=2))
    table = merging_table(made)
    assert table is not None
    assert [row[0].text for row in table.rows] == [
        "the most similar pairs", "random pairs", "difference",
    ]  # fmt: skip
    assert [row[4].text for row in table.rows] == [
        "0.0050 (0.0030 to 0.0070)",
        "0.0100 (0.0080 to 0.0120)",
        "-0.0050 (-0.0070 to -0.0030)",
    ]
    assert [row[3].text for row in table.rows] == ["–"] * 3  # weights were not merged
    pairs = pair_costs_table(made)
    assert pairs is not None
    assert [row[2].text for row in pairs.rows] == ["similar", "random"] * 2
    assert merging_table(report()) is None
    assert pair_costs_table(report()) is None


def test_tokens_are_text_and_their_share_is_said() -> None:
    table = favourites_table(with_costs(report(layers=1)))
    assert table is not None
    assert table.rows[0][-1].text == r"'<b>\n' 75%"
    assert favourites_table(report()) is None


def test_routing_measures_of_earlier_versions_leave_no_empty_column() -> None:
    old = [column.label for column in routing_table(report()).columns]
    new = [column.label for column in routing_table(with_costs(report())).columns]
    added = [label for label in new if label not in old]
    assert added == [
        "MaxVio", "effective experts", "cosine of router rows", "median margin",
        "same experts as at the checkpoint before",
    ]  # fmt: skip
