"""What fine-tuning takes over from a pre-trained run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.smoe_dropout import SMoEDropoutRouter
from simsmoe_cli.moe.routers.stablemoe import StableMoERouter
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.pretrained import Pretrained
from tests.train.transfer import objective_of, planned, pretrain

Make = Callable[..., Trainer[TaskEvaluation]]
CPU = torch.device("cpu")


def test_the_backbone_is_taken_over_and_the_head_is_fresh(base: RunDir, data_dir: Path) -> None:
    weights = load_file(next(base.best.glob("*.safetensors")))
    objective = objective_of(planned(base, data_dir, "finetune.drop_last_layer=true"))
    own = objective.model.state_dict()
    head = {"classifier.weight", "classifier.bias"}
    for name in own.keys() - head:
        assert torch.equal(own[name], weights[name]), name
    left = {name for name in weights.keys() - own.keys() if not name.startswith("output.")}
    assert left
    assert all(name.startswith(("layers.2.", "layers.3.")) for name in left)


def test_a_tied_output_layer_is_taken_over(data_dir: Path, tmp_path: Path) -> None:
    start = pretrain(data_dir, RunDir(tmp_path / "start"), model={"tie_embeddings": True})
    source = Pretrained.open(start, "best", data_dir)
    model = LanguageModel(source.recipe, source.opened.state["vocab_size"])
    assert source.load_into(model) == []
    trained = load_file(next(start.best.glob("*.safetensors")))["embedding.weight"]
    assert torch.equal(model.output.weight, trained)
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize("same", [True, False])
def test_heads_and_pair_counts_go_on_where_the_settings_do(
    data_dir: Path, tmp_path: Path, same: bool
) -> None:
    similarity = {"preset": "published", "check_every": 100.0}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), similarity=similarity)
    changes = [] if same else ["similarity.preset=paper"]
    layer = objective_of(planned(start, data_dir, *changes)).model.moe_layers[0]
    weights = load_file(next(start.best.glob("*.safetensors")))
    assert layer.similarity is not None
    counts = layer.similarity.tracker.shared_NN
    assert torch.equal(counts, weights["layers.1.moe.similarity.tracker.shared_NN"]) == same
    assert bool(counts.any()) == same


def test_a_frozen_router_stays_frozen(data_dir: Path, tmp_path: Path, finetune: Make) -> None:
    changes = {"moe": {"router": "stablemoe"}, "stablemoe": {"freeze_after": 0.5}}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), **changes)
    run = finetune("train.lr=1e-3", start=start)
    before = {n: p.clone() for n, p in run.model.named_parameters() if ".router." in n}
    run.step()
    for layer in run.model.moe_layers:
        assert isinstance(layer.router, StableMoERouter)
        assert layer.router.frozen
    after = dict(run.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_router_in_its_first_stage_freezes_in_fine_tuning(
    data_dir: Path, tmp_path: Path, finetune: Make
) -> None:
    """freeze_after is a share of the fine-tuning's own steps."""
    start = pretrain(
        data_dir,
        RunDir(tmp_path / "start"),
        moe={"router": "stablemoe"},
        stablemoe={"freeze_after": 1.0},
    )
    run = finetune("stablemoe.freeze_after=0.5", "finetune.epochs=1", start=start)
    frozen = []
    for _ in range(run.settings.steps):
        run.step()
        router = run.model.moe_layers[0].router
        assert isinstance(router, StableMoERouter)
        frozen.append(bool(router.frozen))
    assert run.settings.steps == 6
    assert frozen == [False] * 3 + [True] * 3


def test_experts_per_token_grow_on_from_where_they_were(data_dir: Path, tmp_path: Path) -> None:
    start = pretrain(
        data_dir,
        RunDir(tmp_path / "start"),
        moe={"router": "smoe-dropout"},
        smoe_dropout={"k_start": 1, "k_end": 3},
        train={"validate_every": 0},
    )
    router = objective_of(planned(start, data_dir)).model.moe_layers[0].router
    assert isinstance(router, SMoEDropoutRouter)
    assert (router.k_at(0, 100), router.k_at(99, 100)) == (3, 3)
