"""The measurement of a real model on real text: the probe's numbers, and those beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.layers import measure, with_pair_of
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.base import Batch
from simsmoe_cli.collapse.sources.evaluation_windows import evaluation_windows
from simsmoe_cli.collapse.sources.run import CorpusSource
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import UserError
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.train.probes import probe
from tests.collapse.planted import QUICK, Planted, oracle_debiased
from tests.collapse.runs import RELATIVE, opened, write_run
from tests.train.tiny import recipe

ALL_DRAWS = True
SMALL = Options(rows=512, tokens=512, blocks=8, resamples=50, rbf_rows=128)


@pytest.fixture(scope="module")
def source(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> CorpusSource:
    return opened(write_run(tmp_path_factory.mktemp("runs") / "run", store), store)


@pytest.fixture(scope="module")
def found(source: CorpusSource) -> Findings:
    return measure(source, SMALL)


def batch(source: CorpusSource, count: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of what is read."""
    parts = list(evaluation_windows(source.tokens, source.block, count, count, False, 8192))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def test_the_numbers_are_those_of_a_probe_on_the_same_tokens(
    source: CorpusSource, found: Findings
) -> None:
    inputs, _ = batch(source)
    probed = probe(source.model, inputs, source.context, "fp32")
    for layer, routing, similarity, cka, shared in zip(
        found.layers, probed.router, probed.similarity, probed.cka, probed.shared, strict=True
    ):
        assert layer.layer == routing["layer"] == similarity["layer"]
        assert layer.load == pytest.approx(routing["load"], abs=1e-6)
        assert layer.load_cv == pytest.approx(routing["load_cv"], abs=1e-5)
        assert layer.dead == routing["dead"]
        assert layer.entropy_nats == pytest.approx(routing["entropy_nats"], abs=1e-5)
        assert layer.entropy_of_mean_nats == pytest.approx(
            routing["entropy_of_mean_nats"], abs=1e-5
        )
        assert np.array(layer.cka) == pytest.approx(cka, abs=1e-5)
        assert layer.cka_mean.value == pytest.approx(similarity["mean"], abs=1e-5)
        for i, j in layer.pairs():
            assert layer.shared[i][j] == pytest.approx(shared[i, j] / probed.tokens, abs=1e-6)
    assert probed.tokens == found.text.rows == found.text.tokens == 512


def test_the_loss_is_that_of_the_text_read(source: CorpusSource, found: Findings) -> None:
    inputs, targets = batch(source)
    with torch.no_grad():
        logits = source.model(inputs, (), StepContext()).logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert found.text.loss_nats == pytest.approx(loss, rel=1e-5)
    assert found.text.bpc == pytest.approx(loss / math.log(2), rel=1e-5)
    assert found.text.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.text.scored == 512


def test_what_was_measured_is_said(source: CorpusSource, found: Findings) -> None:
    subject = found.subject
    assert (subject.kind, subject.name, subject.recipe) == ("run", "run", recipe().name)
    assert (subject.router, subject.similarity, subject.checkpoint) == ("smoe", "none", "best")
    assert (subject.step, subject.seed, subject.torch) == (4, 0, torch.__version__)
    assert subject.parameters == sum(p.numel() for p in source.model.parameters())
    assert subject.settings == source.model.recipe.model_dump(mode="json")
    text = found.text
    assert (text.corpus, text.split, text.unit, text.block) == ("sources", "valid", "byte", 32)
    settings = found.settings
    assert (settings.level, settings.resamples, settings.blocks) == (0.95, 50, 8)
    assert (settings.rbf_rows, settings.rank_rows) == (128, 512)
    assert [layer.name for layer in found.layers] == ["layers.1.moe", "layers.3.moe"]
    assert [layer.top_k for layer in found.layers] == [2, 2]
    assert all(layer.effective_rank_max == 32 for layer in found.layers)
    assert all(layer.entropy_max_nats == pytest.approx(math.log(4)) for layer in found.layers)


def test_load_is_counted_on_more_tokens_than_experts_see(source: CorpusSource) -> None:
    more = measure(source, replace(SMALL, tokens=2048))
    assert more.text.rows == 512
    assert more.text.tokens == 2048
    inputs, _ = batch(source, 2048)
    router = probe(source.model, inputs, source.context, "fp32").router
    for layer, routing in zip(more.layers, router, strict=True):
        assert layer.load == pytest.approx(routing["load"], abs=1e-6)


def test_measuring_twice_gives_the_same(source: CorpusSource, found: Findings) -> None:
    assert measure(source, SMALL) == found


def test_measuring_changes_nothing(source: CorpusSource) -> None:
    before = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    state = torch.get_rng_state()
    measure(source, SMALL)
    after = source.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not module._forward_pre_hooks for module in source.model.modules())


def test_carried_memory_is_warm_where_similarity_is_measured(
    store: TokenStore, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", store, recipe=recipe(model=RELATIVE))
    source = opened(run, store)
    batches = list(source.read(1024, 256))
    assert [part.rows for part in batches] == [False, False, False, True]
    parts = list(evaluation_windows(source.tokens, 32, 1024, 256, True, 8192))
    memory: list[torch.Tensor] = []
    with torch.no_grad():
        for inputs, _, _ in parts:
            output = source.model(inputs, memory, source.context)
            memory = output.memory
    warm = output.moe[-1].routing.logits_TN
    assert torch.allclose(batches[-1].layers[-1].logits_TN, warm, atol=1e-5)
    with torch.no_grad():
        cold = source.model(parts[-1][0], (), source.context).moe[-1].routing.logits_TN
    assert not torch.allclose(warm, cold, atol=1e-3)
    assert measure(source, replace(SMALL, rows=256, tokens=1024)).text.rows == 256


def test_the_null_of_a_mean_is_the_95_percent_quantile_of_one_pair(found: Findings) -> None:
    for layer in found.layers:
        assert layer.cka_mean.null_low is None
        assert layer.cka_mean.null_high == layer.cka_null.quantile_95
        assert "95 %" in layer.cka_mean.method


def test_two_experts_and_one_layer_are_enough(store: TokenStore, tmp_path: Path) -> None:
    small = recipe(model={"repeats": 1}, moe={"experts": 2, "top_k": 1})
    found = measure(opened(write_run(tmp_path / "run", store, recipe=small), store), SMALL)
    assert found.layers[0].cka_mean.n == 1
    assert found.layers[0].cka_null.draws == 20
    assert found.overall.pearson.value is None
    assert found.overall.depth.value is None
    assert found.layers[0].shared == [[0, 0], [0, 0]]


def test_too_few_rows_are_refused() -> None:
    class Short(Planted):
        def read(self, tokens: int, rows: int) -> Iterator[Batch]:
            part = next(super().read(tokens, rows))
            part.ids_T = part.ids_T[:3]
            part.layers = [
                Routed(layer.input_TD[:3], layer.index_TK[:3], layer.logits_TN[:3])
                for layer in part.layers
            ]
            yield part

    with pytest.raises(UserError, match="fewer than 4 rows, got 3"):
        measure(Short(), QUICK)


def test_no_more_tokens_are_compared_than_asked_for() -> None:
    """The text is read in batches of 512."""
    planted = Planted()
    planted.copy(0, 0, 1)
    found = measure(planted, replace(QUICK, rows=100, tokens=1024))
    assert (found.text.rows, found.text.tokens) == (100, 1024)
    inputs = next(planted.read(512, 512)).layers[0].input_TD[:100]
    outputs = planted.dense(0, inputs).numpy()
    assert found.layers[0].cka[0][2] == pytest.approx(
        oracle_debiased(outputs[0], outputs[2]), abs=2e-4
    )
    assert found.difference is not None
    assert max(found.difference.rows) == 99
    other = with_pair_of(found, planted, replace(QUICK, rows=100, tokens=1024), found)
    assert other == found


def test_progress_is_told_batch_by_batch_and_layer_by_layer() -> None:
    told: list[tuple[float, int]] = []
    measure(Planted(2), QUICK, lambda share, done: told.append((share, done)))
    assert told[:8] == [(batch / 8, 0) for batch in range(1, 9)]
    assert told[8:] == [(1, 0), (1, 1), (1, 2)]


def test_only_the_layers_asked_for_are_measured() -> None:
    planted = Planted(4)
    whole, some = measure(planted, QUICK), measure(planted, QUICK, layers=[1, 3])
    assert [layer.layer for layer in some.layers] == [1, 3]
    assert some.layers == [whole.layers[1], whole.layers[3]]
    assert some.text == whole.text
    other = measure(Planted(4, seed=3), QUICK, layers=[1, 3])
    made = with_pair_of(some, planted, QUICK, other)
    assert made.difference is not None
    assert other.difference is not None
    assert made.difference.layer == other.difference.layer
