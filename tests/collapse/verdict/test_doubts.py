"""Too few tokens, wide intervals, text beyond the model: nothing is called healthy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.verdict.judge import judge
from tests.collapse.chained import Chained, gate, told
from tests.collapse.planted import QUICK


@pytest.mark.parametrize("rows", [4, 5, 63])
def test_few_rows_decide_nothing(rows: int, tmp_path: Path) -> None:
    found, verdict = told(Chained(2), tmp_path, rows)
    assert found.text.rows == rows
    assert verdict.headline == f"Undecided: only {rows} tokens were compared."
    assert f"{rows} tokens are too few to know" in gate(found)


def test_an_interval_that_reaches_what_is_alike_decides_nothing() -> None:
    found = measure(Chained(1), QUICK)
    layer = found.layers[0]
    for high, words in (
        (0.3, "the interval of a layer's mean CKA reaches 0.30"),
        (None, "too few"),
    ):
        mean = layer.cka_mean.model_copy(update={"high": high})
        wide = found.model_copy(update={"layers": [layer.model_copy(update={"cka_mean": mean})]})
        assert judge(wide).level == "undefined"
        assert words in judge(wide).headline


def on_text(nats: float, choices: int | None = 256, token: int | None = None) -> Chained:
    planted = Chained(1, nats=nats)
    planted.choices, planted.token = choices, token
    return planted


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (on_text(math.log(256) * 1.01), "predicts this text no better than a uniform guess"),
        (on_text(math.log(256) * 0.92), "predicts this text hardly better than a uniform guess"),
        (on_text(0.001, token=7), "the text is hardly more than one token, repeated"),
        (on_text(math.nan), "the loss on this text is undefined"),
    ],
)
def test_a_text_beyond_the_model_is_said_before_its_numbers(
    source: Chained, words: str, tmp_path: Path
) -> None:
    _, verdict = told(source, tmp_path)
    assert verdict.level == "undefined"
    assert verdict.headline == f"Undecided: {'the model ' * words.startswith('pred')}{words}."
    assert words in verdict.sentences[0].text.replace("The loss", "the loss")
    assert verdict.sentences[0].tone == "warning"
    assert not [s for s in verdict.sentences if s.tone == "good"]


def test_a_model_that_is_alike_on_a_text_beyond_it_is_said_to_be_both() -> None:
    planted = on_text(5.6)
    for expert in range(1, 5):
        planted.copy(0, 0, expert, permuted=True)
        planted.experts[0].w_out.data[expert] *= 1.001
    verdict = judge(measure(planted, QUICK))
    assert verdict.level == "collapsed"
    assert verdict.headline.endswith(
        "; but the model predicts this text no better than a uniform guess."
    )


def test_a_text_that_is_predicted_raises_no_doubt() -> None:
    assert judge(measure(on_text(2.0), QUICK)).level == "healthy"
