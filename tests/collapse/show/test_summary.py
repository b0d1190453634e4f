"""The first numbers and the glossary of a report."""

from __future__ import annotations

from simsmoe_cli.collapse.show.summary import glossary, tiles
from tests.collapse.reports import report, with_costs


def test_the_first_numbers_are_those_of_the_findings() -> None:
    main = with_costs(report(layers=3)).main
    shown = {tile.label: tile.values[0][1] for tile in tiles(main, None)}
    assert shown["Mean CKA of two experts"].value == main.overall.cka_mean
    assert shown["Dead experts"].text == "0"
    assert shown["Dead experts"].note == "of 12"
    assert shown["Bits per character"].text == "2.9000"
    assert shown["Bits per character"].note == "n = 16,320 bytes"
    # 0.001 nats less than a loss of 2 nats.
    assert shown["Loss without the least missed"].text == "-0.05%"
    assert shown["Loss without the least missed"].note == "expert 0 of layer 0"


def test_dead_experts_are_not_counted_on_too_few_tokens() -> None:
    main = report(dead=None).main
    (dead,) = (tile.values[0][1] for tile in tiles(main, None) if tile.label == "Dead experts")
    assert (dead.value, dead.text, dead.note) == (None, "–", "too few tokens to judge")


def test_both_runs_are_in_every_tile() -> None:
    made = report("plain", "other")
    for tile in tiles(made.main, made.against):
        assert [name for name, _ in tile.values] == ["plain", "other"]
    means = tiles(made.main, made.against)[0].values
    assert [value.text for _, value in means] == ["0.400", "0.100"]


def test_a_number_that_one_run_lacks_is_said_to_be_missing() -> None:
    made = report("plain", "other")
    measured = with_costs(made).main
    shown = {tile.label: tile for tile in tiles(measured, made.against)}
    other = shown["Loss without the least missed"].values[1][1]
    assert (other.value, other.note) == (None, "not measured")
    assert "Loss without the least missed" not in {
        tile.label for tile in tiles(made.main, made.against)
    }


def test_the_glossary_says_what_a_high_cka_does_not_mean() -> None:
    words = dict(glossary(report().main))
    assert "not the same outputs" in words["CKA"]
    assert "4,096 bytes of enwik8 valid" in words["Text"]
    assert "95%" in words["Interval"]
