"""Probes: they change nothing, and say what a slow count says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import Routing, StepContext
from simsmoe_cli.run import checkpoint, checkpoint_state
from simsmoe_cli.run.event_log import EventLog, read_events
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.probes import Probe, probe, probe_batch
from tests.train.tiny import recipe

VOCABULARY = 13
LAYERS, EXPERTS = 2, 4


@pytest.fixture
def lm() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(
        recipe(model={"bias": True, "dropout": 0.3}, similarity={"preset": "calibrated"}),
        VOCABULARY,
    )


@pytest.fixture
def batch_BM() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (4, 32)))


def look(lm: LanguageModel, batch_BM: torch.Tensor) -> Probe:
    return probe(lm, batch_BM, StepContext(), "fp32")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_probe_changes_nothing(
    lm: LanguageModel, batch_BM: torch.Tensor, training: bool, precision: str
) -> None:
    lm.train(training)
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    random_state, tokens = torch.get_rng_state(), batch_BM.clone()
    probe(lm, batch_BM, StepContext(), precision)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(batch_BM, tokens)
    assert {module.training for module in lm.modules()} == {training}
    after = lm.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(parameter.grad is None for parameter in lm.parameters())
    assert all(not module._forward_pre_hooks for module in lm.modules())


def test_a_run_computes_the_same_with_probes_and_without(trainer: Callable[..., Trainer]) -> None:
    settings: dict[str, Any] = {
        "model": {"dropout": 0.1},
        "similarity": {"preset": "calibrated", "weight": 0.003, "min_tokens": 4},
    }
    probed = trainer("probed", **settings, train={"probe_every": 1})
    probed.train()
    plain = trainer("plain", **settings, train={"probe_every": 0})
    plain.train()
    for name in (checkpoint_state.MODEL, checkpoint_state.TRAINING):
        ours, theirs = (
            load_file(checkpoint.find(run.run, "last") / name) for run in (probed, plain)
        )
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_copied_experts_are_alike_and_others_less_so(
    lm: LanguageModel, batch_BM: torch.Tensor
) -> None:
    experts = lm.moe_layers[1].experts
    for parameter in experts.parameters():
        parameter.data[3] = parameter.data[0]
    found = look(lm, batch_BM)
    cka = found.cka[1]
    assert cka[0][3] == pytest.approx(1, abs=1e-5)
    assert np.diag(cka) == pytest.approx(1)
    assert np.array_equal(cka, cka.T)
    assert max(cka[i][j] for i, j in ((0, 1), (0, 2), (1, 2), (1, 3))) < 0.9
    for layer, cka in zip(found.similarity, found.cka, strict=True):
        pairs = {(i, j): cka[i, j] for i in range(EXPERTS) for j in range(i + 1, EXPERTS)}
        assert layer["mean"] == pytest.approx(np.mean(list(pairs.values())))
        assert layer["highest"] == max(pairs.values()) == pairs[tuple(layer["pair"])]
    assert found.similarity[1]["pair"] == [0, 3]


def test_load_entropy_and_shared_tokens_by_a_loop(
    lm: LanguageModel, batch_BM: torch.Tensor
) -> None:
    routings: list[Routing] = []
    hooks = [
        layer.router.register_forward_hook(lambda _, args, routing: routings.append(routing))
        for layer in lm.moe_layers
    ]
    found = look(lm, batch_BM)
    for hook in hooks:
        hook.remove()
    assert [layer["layer"] for layer in found.router] == list(range(LAYERS))
    assert [layer["layer"] for layer in found.similarity] == list(range(LAYERS))
    for routing, router, shared in zip(routings, found.router, found.shared, strict=True):
        chosen = [set(row) for row in routing.index_TK.tolist()]
        counts = [sum(expert in row for row in chosen) for expert in range(EXPERTS)]
        load = np.array(counts) / sum(counts)
        assert router["load"] == pytest.approx(load, rel=1e-5)
        assert sum(router["load"]) == pytest.approx(1, rel=1e-5)
        assert router["load_cv"] == pytest.approx(load.std() / load.mean(), rel=1e-4)
        for i in range(EXPERTS):
            for j in range(EXPERTS):
                assert shared[i, j] == sum(i != j and {i, j} <= row for row in chosen)
        assert found.tokens == len(chosen)
        probability = routing.logits_TN.double().softmax(-1).numpy()
        entropy = -(probability * np.log(probability)).sum(1).mean()
        mean = probability.mean(0)
        assert router["entropy_nats"] == pytest.approx(entropy, rel=1e-5)
        assert router["entropy_of_mean_nats"] == pytest.approx(
            -(mean * np.log(mean)).sum(), rel=1e-5
        )


def test_experts_without_load_are_dead(lm: LanguageModel, batch_BM: torch.Tensor) -> None:
    gate = lm.moe_layers[0].router.gate
    assert isinstance(gate, torch.nn.Linear)
    gate.bias.data[2] = -1e9
    found = look(lm, batch_BM)
    first, second = found.router
    assert first["load"][2] == 0
    assert first["dead"] is None  # a probe alone has too few tokens to judge
    batches = [[40_000, 30_000, 0, 30_000], [25_000] * 4]
    assert found.judge_dead(batches)
    assert (first["dead"], second["dead"]) == ([2], [])
    assert first["slots"] == batches[0]
    assert not found.judge_dead([batches[0], [9, 9, 9, 9]])
    assert (first["dead"], second["dead"]) == ([2], None)
    assert not found.judge_dead([[], []])
    assert second["slots"] == [0, 0, 0, 0]


def test_a_router_that_knows_nothing_has_the_entropy_of_chance(
    lm: LanguageModel, batch_BM: torch.Tensor
) -> None:
    for layer in lm.moe_layers:
        gate = layer.router.gate
        assert isinstance(gate, torch.nn.Linear)
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.zeros_(gate.bias)
    for layer in look(lm, batch_BM).router:
        assert layer["entropy_nats"] == pytest.approx(math.log(EXPERTS))
        assert layer["entropy_of_mean_nats"] == pytest.approx(math.log(EXPERTS))


def test_what_is_undefined_is_null_in_the_events(
    lm: LanguageModel, batch_BM: torch.Tensor, tmp_path: Path
) -> None:
    """It is nan in the matrices."""
    one, none = (layer.experts for layer in lm.moe_layers)
    one.w_out.data[1] = 0
    none.w_out.data[:] = 0
    found = look(lm, batch_BM)
    log = EventLog(tmp_path / "events.jsonl")
    log.emit({"kind": "router", "step": 1, "layers": found.router})
    log.emit({"kind": "similarity", "step": 1, "layers": found.similarity})
    log.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert all("NaN" not in line and json.loads(line) for line in lines)
    first, second = list(read_events(tmp_path / "events.jsonl"))[1]["layers"]
    assert np.isnan(found.cka[0][1]).all()
    defined = [found.cka[0][i, j] for i, j in ((0, 2), (0, 3), (2, 3))]
    assert first["mean"] == pytest.approx(np.mean(defined))
    assert first["highest"] == max(defined)
    assert np.isnan(found.cka[1]).all()
    assert second == {"layer": 1, "mean": None, "shared_mean": None, "shared_pairs": 0}


@pytest.mark.parametrize(
    ("length", "block", "count", "shape"),
    [
        (1000, 32, 128, (4, 32)),
        (1000, 32, 100, (3, 32)),
        (1000, 512, 64, (1, 64)),
        (40, 32, 128, (4, 32)),
        (20, 32, 64, (3, 20)),
    ],
)
def test_a_probe_reads_blocks_spread_over_the_split(
    length: int, block: int, count: int, shape: tuple[int, int]
) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    batch_BM = probe_batch(tokens, block, count)
    assert batch_BM.shape == shape
    assert batch_BM.dtype == torch.int64
    assert (batch_BM.diff(dim=1) == 1).all()
    assert batch_BM[0, 0] == 0
    if shape[0] > 1:
        assert batch_BM[-1, -1] == length - 1
        steps = batch_BM[:, 0].diff()
        assert steps.max() - steps.min() <= 1
