"""Tables: exact values behind what is shown, and undefined ones named."""

from __future__ import annotations

from simsmoe_cli.collapse.show.tables import experts_table, layers_table, pairs_table
from tests.collapse.reports import report


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
