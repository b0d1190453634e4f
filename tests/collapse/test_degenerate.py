"""Damaged, trivial and degenerate models: what is undefined is said, and nothing is called healthy.

The suite turns warnings into errors, so no figure or table of these may divide by nothing either.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from simsmoe_cli.attach.expert_calls import Routed
from simsmoe_cli.collapse.fail_above import fail_above
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.report import Report, Verdict
from simsmoe_cli.collapse.show.files import write_report
from simsmoe_cli.collapse.show.summary import tiles
from simsmoe_cli.collapse.show.tables import experts_table, pairs_table
from simsmoe_cli.collapse.show.terminal import show
from simsmoe_cli.collapse.sources.base import Batch, LayerSpec
from simsmoe_cli.collapse.verdict import judge
from simsmoe_cli.errors import EXIT_COLLAPSE, UserError
from simsmoe_cli.moe.experts.loop import LoopExperts
from tests.collapse.planted import HIDDEN, QUICK, WIDTH, Planted


class Chained(Planted):
    """Layers that read what the layers before them gave, as those of a model do.

    They are called 1, 3, 5 and so on, as in the pattern "sg".
    """

    def __init__(self, layers: int = 2, experts: int = 5, top_k: int = 2, nats: float = 1.0):
        super().__init__(layers)
        self.layers = [LayerSpec(f"layers.{2 * n + 1}.moe", experts) for n in range(layers)]
        if experts != len(self.bias_LN[0]):
            self.experts = [
                LoopExperts(experts, WIDTH, HIDDEN, activation="swiglu", bias=False)
                for _ in range(layers)
            ]
            self.bias_LN = torch.zeros(layers, experts)
        self.top_k, self.nats = top_k, nats
        self.choices: int | None = None
        self.token: int | None = None

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        for start in range(0, tokens, 512):
            size = min(512, tokens - start)
            x_TD = torch.randn(size, WIDTH, generator=generator)
            routed = []
            for number, bias_N in enumerate(self.bias_LN):
                logits_TN = x_TD[:, : len(bias_N)] + bias_N
                index_TK = logits_TN.topk(self.top_k).indices
                routed.append(Routed(x_TD, index_TK, logits_TN))
                outputs_NTD = self.dense(number, x_TD)
                for chosen_T in index_TK.T:
                    x_TD = x_TD + 0.1 * outputs_NTD[chosen_T, torch.arange(size)]
            ids_T = torch.arange(start, start + size)
            if self.token is not None:
                ids_T = torch.full((size,), self.token)
            nats = self.nats * size
            yield Batch(ids_T, routed, start < rows, nats, size, choices=self.choices)


def told(source: Planted, tmp_path: Path, rows: int = 1024) -> tuple[Findings, Verdict]:
    """Findings and verdict; page, figures, JSON and terminal are made of them on the way."""
    found = measure(source, replace(QUICK, rows=rows, tokens=rows))
    report = Report(findings=[found, found], against=found, verdict=judge(found, found))
    assert Report.from_json(report.to_json()) == report
    written = write_report(report, tmp_path / "report", ("html", "json", "svg"))
    page = next(path for path in written if path.suffix == ".html").read_text()
    assert ">nan<" not in page
    shown = io.StringIO()
    show(report, Console(file=shown, width=200), [])
    assert "nan" not in shown.getvalue().replace("NaN", "").split()
    return found, judge(found)


def gate(found: Findings) -> str:
    """What --fail-above 1 says: no mean is above it, so only what is not known."""
    with pytest.raises(UserError) as caught:
        fail_above(found, 1.0)
    assert caught.value.code == EXIT_COLLAPSE
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named_and_undefines_all_after_it(
    value: float, tmp_path: Path
) -> None:
    planted = Chained(3)
    planted.experts[0].w_out.data[2, 3, 4] = value
    found, verdict = told(planted, tmp_path)
    first, *rest = found.layers
    assert first.non_finite == [2]
    assert first.dead == []
    assert first.load_cv is not None
    assert first.cka[2] == [None] * 5
    assert all(first.cka[i][j] is not None for i, j in first.pairs() if 2 not in (i, j))
    for layer in rest:
        assert layer.non_finite_inputs > 0
        assert layer.non_finite == []
        assert layer.dead is None
        assert layer.load == [None] * 5
        assert layer.load_cv is layer.entropy_nats is layer.entropy_of_mean_nats is None
        assert layer.cka_mean.value is None
        for matrix in (layer.cka, layer.cka_biased, layer.cka_rbf, layer.shared, layer.cka_shared):
            assert matrix == [[None] * 5] * 5
        assert layer.effective_rank == [None] * 5
    assert verdict.level == "undefined"
    assert verdict.headline.startswith("Not finite: expert 2 of layer 1 has weights or outputs")
    assert "Expert 2 of layer 1" in verdict.sentences[0].text
    assert "reach layers 3 and 5 with values that are not finite" in verdict.sentences[1].text
    assert not [s for s in verdict.sentences if "dead, with less than" in s.text]
    assert not [s for s in verdict.sentences if s.tone == "good"]
    assert "layers 1, 3, 5 have values that are not finite" in gate(found)
    labels = [tile.label for tile in tiles(found, None)]
    assert "Mean CKA of 1 of 3 layers" in labels
    assert "Load CV, mean of 1 of 3 layers" in labels


def test_a_router_that_is_not_finite_has_no_load(tmp_path: Path) -> None:
    planted = Chained(2)
    planted.bias_LN[1, 0] = math.nan
    found, verdict = told(planted, tmp_path)
    layer = found.layers[1]
    assert (layer.non_finite_inputs, layer.non_finite_scores) == (0, 1024)
    assert layer.dead is None
    assert layer.cka_mean.value is not None  # the experts' outputs are known all the same
    assert "router's scores in layer 3 are not finite" in verdict.sentences[0].text
    assert "layer 3 has values that are not finite" in gate(found)


def test_a_score_of_minus_infinity_is_an_expert_ruled_out(tmp_path: Path) -> None:
    planted = Chained(1)
    planted.bias_LN[0, 0] = -math.inf
    found, verdict = told(planted, tmp_path)
    assert found.layers[0].finite
    assert found.layers[0].dead == [0]
    assert verdict.headline == "Partly collapsed: 1 expert is dead."


def test_experts_that_are_all_equal_are_a_collapse_and_one_group(tmp_path: Path) -> None:
    planted = Chained(2)
    for expert in range(1, 5):
        planted.copy(0, 0, expert)
        planted.copy(1, 0, expert, permuted=expert == 3)
    found, verdict = told(planted, tmp_path)
    assert [(c.experts, c.renumbered) for c in found.layers[0].copies] == [([0, 1, 2, 3, 4], False)]
    assert [(c.experts, c.renumbered) for c in found.layers[1].copies] == [([0, 1, 2, 3, 4], True)]
    assert verdict.level == "collapsed"
    assert "8 experts are exact copies of others" in verdict.headline
    assert verdict.sentences[0].text == (
        "All 5 experts of layer 1 are exact copies: their weights are equal. "
        "All but one of them are redundant."
    )
    # All pairs are at 1, and what is left of differences is rounding: nothing to correlate.
    assert not [s for s in verdict.sentences if "share tokens" in s.text]


def test_experts_of_zeros_are_copies_whose_likeness_is_undefined(tmp_path: Path) -> None:
    planted = Chained(2)
    for experts in planted.experts:
        experts.w_in.data.zero_()
        experts.w_out.data.zero_()
    found, verdict = told(planted, tmp_path)
    assert found.overall.cka_mean is None
    assert found.layers[0].weight_matched == [[None] * 5] * 5
    assert verdict.level == "collapsed"
    assert "All 5 experts of layer 1 are exact copies" in verdict.sentences[0].text


def test_copies_come_first_however_many_pairs_are_about_as_alike(tmp_path: Path) -> None:
    """Experts 1 to 9 are nearly the same; of all 36 pairs, 8 and 9 alone are exact copies."""
    planted = Chained(1, experts=10)
    for expert in range(2, 10):
        planted.copy(0, 1, expert)
        planted.experts[0].w_out.data[expert] *= 1 + 1e-6 * expert
    planted.copy(0, 8, 9)
    found, verdict = told(planted, tmp_path)
    assert [group.experts for group in found.layers[0].copies] == [[8, 9]]
    assert verdict.sentences[0].text.startswith("Experts 8 and 9 of layer 1 are exact copies")
    assert verdict.sentences[0].evidence["experts"] == [8, 9]
    assert "1 expert is an exact copy of another" in verdict.headline
    assert any(
        sentence.text == "The same holds for 32 more pairs." for sentence in verdict.sentences
    )
    table = pairs_table(Report(findings=[found], against=None, verdict=verdict))
    assert [cell.text for cell in table.rows[0][:3]] == ["1", "8 and 9", "equal"]
    assert {row[2].text for row in table.rows[1:]} == {"different"}
    states = experts_table(Report(findings=[found], against=None, verdict=verdict)).rows
    assert [row[3].text for row in states[7:]] == ["at work", "copy of 9", "copy of 8"]


def test_several_groups_of_copies_are_told_the_largest_first(tmp_path: Path) -> None:
    planted = Chained(2, experts=12)
    for source, target in ((0, 5), (0, 7), (1, 2), (3, 4)):
        planted.copy(1, source, target)
    planted.copy(0, 1, 2)
    _, verdict = told(planted, tmp_path)
    assert verdict.headline == "Partly collapsed: 5 experts are exact copies of others."
    texts = [sentence.text for sentence in verdict.sentences[:4]]
    assert texts[0].startswith("Experts 0, 5 and 7 of layer 3 are exact copies")
    assert texts[1].startswith("Experts 1 and 2 of layer 1 are exact copies")
    assert texts[3] == "1 more group of experts are exact copies, in layer 3."


def test_equal_weights_with_other_biases_are_no_copies() -> None:
    class Shifted(Chained):
        def dense(self, layer: int, x_TD: torch.Tensor) -> torch.Tensor:
            outputs_NTD = super().dense(layer, x_TD).clone()
            outputs_NTD[1, :, :20] += outputs_NTD[0].std()
            return outputs_NTD

    planted = Shifted(1)
    planted.copy(0, 0, 1)
    assert measure(planted, QUICK).layers[0].copies == []


def test_a_constant_router_leaves_the_others_dead(tmp_path: Path) -> None:
    planted = Chained(2)
    planted.bias_LN[:, :2] = 1000.0
    found, verdict = told(planted, tmp_path)
    assert [layer.dead for layer in found.layers] == [[2, 3, 4]] * 2
    assert verdict.headline == "Partly collapsed: 6 experts are dead."


def test_an_expert_that_says_nothing_is_not_called_healthy(tmp_path: Path) -> None:
    planted = Chained(2)
    planted.experts[0].w_out.data[1] = 0
    _, verdict = told(planted, tmp_path)
    assert verdict.level == "undefined"
    assert verdict.headline == "Undecided: 1 of 10 experts could not be compared."


def test_a_layer_of_which_most_pairs_are_undefined_passes_no_gate(tmp_path: Path) -> None:
    planted = Chained(1)
    planted.experts[0].w_out.data[:3] = 0
    planted.experts[0].w_in.data[:3] *= torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    found, verdict = told(planted, tmp_path)
    assert found.layers[0].cka_mean.n == 1
    assert verdict.level == "undefined"
    assert "most pairs of layer 1 could not be compared" in verdict.headline
    assert "the mean debiased CKA of layer 1 is undefined" in gate(found)


@pytest.mark.parametrize(
    ("made", "headline"),
    [
        (lambda: Chained(1, experts=2, top_k=1), "Healthy: the experts are different"),
        (lambda: Chained(2, experts=4, top_k=4), "Healthy: the experts are different"),
        (lambda: Chained(1), "Healthy: the experts are different"),
        (lambda: Chained(2, experts=1, top_k=1), "Undefined: no two experts could be compared"),
    ],
)
def test_few_experts_all_experts_and_one_layer(
    made: Callable[[], Chained], headline: str, tmp_path: Path
) -> None:
    _, verdict = told(made(), tmp_path)
    assert verdict.headline.startswith(headline)


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


# What the loss says of the text


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
