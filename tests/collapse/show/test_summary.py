"""The first numbers and the glossary of a report."""

from __future__ import annotations

from simsmoe_cli.collapse.show.summary import about, glossary, tiles
from tests.collapse.reports import report


def test_the_first_numbers_are_those_of_the_findings() -> None:
    main = report(layers=3).main
    shown = {tile.label: tile for tile in tiles(main, None)}
    highest = main.highest
    assert highest is not None
    assert shown["Mean CKA of all layers"].value == main.overall.cka_mean
    assert shown[f"Highest: layer {highest.label}"].value == highest.cka_mean.value
    assert shown["Dead experts"].text == "0"
    assert shown["Bits per character"].text == "2.9000"
    assert shown["Bits per character"].below == "n = 16,320 bytes"


def test_another_run_stands_below_each_number() -> None:
    made = report("plain", "other")
    below = [tile.below for tile in tiles(made.main, made.against)]
    assert below[0] == "other: 0.100"
    assert below[-1] == "other: 2.9100"
    assert about(made).endswith("Compared with other.")


def test_the_glossary_says_what_a_high_cka_does_not_mean() -> None:
    words = dict(glossary(report().main))
    assert "not the same outputs" in words["CKA"]
    assert "4,096 bytes of enwik8 valid" in words["Text"]
    assert "95%" in words["Interval"]
