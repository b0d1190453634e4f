"""One place says what a run is scored by, how a score is written, and which one is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from simsmoe_cli.run.score import Scoring, bits, perplexity, score_text


@pytest.mark.parametrize(
    ("unit", "saw_bpc", "measure", "in_words"),
    [
        ("byte", False, "bits", "bits per byte"),
        ("character", False, "bits", "bits per character"),
        ("word", True, "nats", "nats per word"),
        ("text", True, "accuracy", "share of texts classified right"),
        ("", True, "bits", "bits per character"),
        ("", False, "nats", "nats per token"),
    ],
)
def test_the_unit_decides(unit: str, saw_bpc: bool, measure: str, in_words: str) -> None:
    scoring = Scoring.of_run(unit, saw_bpc)
    assert scoring.measure == measure
    assert scoring.in_words == in_words


def test_bits_are_nats_over_ln_2_where_a_token_is_a_byte_or_a_character() -> None:
    assert bits(math.log(2), "byte") == pytest.approx(1)
    assert bits(2 * math.log(2), "character") == pytest.approx(2)
    assert bits(1.0, "word") is None


def test_perplexity_does_not_overflow() -> None:
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert math.isfinite(perplexity(1e9))


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({"accuracy": 0.625, "loss_nats": 1.0}, "accuracy 62.50%"),
        ({"bpc": 2.5, "loss_nats": 1.7}, "2.500 BPC"),
        ({"bpc": None, "perplexity": 168.021, "loss_nats": 5.1}, "perplexity 168.02"),
        ({"perplexity": 2.5e8}, "perplexity 2.50e+08"),
        ({"loss_nats": 5.1}, "5.100 nats"),
    ],
)
def test_a_score_in_words(scores: dict[str, float | None], text: str) -> None:
    assert score_text(scores) == text


def test_a_score_is_read_from_an_event() -> None:
    event = {"kind": "eval", "step": 1, "loss_nats": math.log(2), "bpc": None, "accuracy": 0.5}
    assert Scoring("bits", "byte").of(event) == pytest.approx(1)  # older runs of bytes have no bpc
    assert Scoring("nats", "word").of(event) == pytest.approx(math.log(2))
    assert Scoring("accuracy", "text").of(event) == 0.5
    assert math.isnan(Scoring("accuracy", "text").of({"kind": "eval", "step": 1}))


@dataclass
class Known:
    loss_nats: float | None
    bpc: float | None = None
    accuracy: float | None = None


@pytest.mark.parametrize(
    ("scores", "scoring", "label", "read"),
    [
        ([Known(1.0, 1.4), Known(2.0)], Scoring("bits", "byte"), "bits per byte", [1.4, None]),
        ([Known(1.0), Known(None)], Scoring("nats", "byte"), "loss, nats per byte", [1.0, None]),
        ([Known(1.0, accuracy=0.5)], Scoring("accuracy", "text"), "accuracy", [0.5]),
        ([], Scoring("nats", "byte"), "loss, nats per byte", []),
    ],
)
def test_known_scores_decide_what_a_report_shows(
    scores: list[Known], scoring: Scoring, label: str, read: list[float | None]
) -> None:
    assert Scoring.of_scores("byte", scores) == scoring
    assert scoring.axis_label == label
    assert [scoring.read(one) for one in scores] == read


def test_less_loss_and_more_accuracy_are_better_and_any_score_is_better_than_none() -> None:
    assert Scoring("bits", "byte").better(1.0, 1.1)
    assert not Scoring("bits", "byte").better(1.1, 1.1)
    assert Scoring("accuracy", "text").better(0.6, 0.5)
    for scoring in (Scoring("nats", "word"), Scoring("accuracy", "text")):
        assert scoring.better(1.0, math.nan)
        assert not scoring.better(math.nan, math.nan)


def test_nothing_scored_yet_is_a_dash() -> None:
    assert Scoring("bits", "byte").text(math.nan) == "BPC –"
