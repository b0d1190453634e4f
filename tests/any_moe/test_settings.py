"""Arguments of attach that are refused in one line, before the model is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from simsmoe_cli.any_moe.find_layers import ListedLayer
from simsmoe_cli.any_moe.handle import attach
from simsmoe_cli.any_moe.settings import similarity_settings
from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.schedule import value_at
from tests.any_moe.own_model import OwnModel, own_batch


class NoRouter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))


def one_too_many(model: Any) -> list[ListedLayer]:
    layer = model.layers[0]
    return [ListedLayer("mine", layer, layer.experts, layer.gate, number=6)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"probe_every": "5"}, "probe_every must be a whole number of 1 or more, and is '5'"),
        ({"log_every": 2.5}, "log_every must be a whole number"),
        ({"total_steps": 0}, "total_steps must be a whole number"),
        ({"similarity": 0.003}, "expected the name of a preset or a dict of settings, got a float"),
        ({"layers": [1]}, "it must be a function"),
        ({"layers": lambda model: [1]}, "the finder returned a int"),
        ({"layers": lambda model: []}, "the finder found no layer"),
        ({"layers": one_too_many}, "layer mine has 5 experts, and its number says 6"),
        ({"run": ""}, "the run needs a folder of its own"),
        ({"run": "a\0b"}, "cannot make this folder"),
    ],
)
def test_other_arguments(arguments: dict[str, Any], said: str) -> None:
    model = OwnModel()
    with pytest.raises(UserError, match=said):
        attach(model, **arguments)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_run_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot make this folder"):
            attach(OwnModel(), run=path)
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_no_model_or_has_no_router() -> None:
    with pytest.raises(UserError, match="Module, and is a dict"):
        attach({})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="experts has 3 experts and no router beside it"):
        attach(NoRouter())


def test_a_state_of_another_model_and_a_mask_that_is_none() -> None:
    model = OwnModel()
    handle = attach(model)
    with pytest.raises(UserError, match="must be a tensor"):
        handle.batch([1, 0])  # type: ignore[arg-type]
    handle.batch(torch.ones(2, 3))
    with pytest.raises(UserError, match=r"the mask of handle\.batch has 6 tokens, and layer"):
        model(own_batch())
    handle.batch(None)
    with pytest.raises(UserError, match="expected 0 or more steps, got -1"):
        handle.load_state_dict({}, -1)
    handle.load_state_dict({"layer_0.tracker.shared_NN": torch.ones(3, 3)}, 3)
    with pytest.raises(UserError, match="other experts or settings"):
        model(own_batch())


@pytest.mark.parametrize(("total_steps", "weights"), [(None, [0.003, 0.003]), (10, [0.0, 0.003])])
def test_a_preset_has_its_last_weight_where_the_length_is_not_known(
    total_steps: int | None, weights: list[float]
) -> None:
    settings = similarity_settings("calibrated", total_steps)
    assert settings is not None
    assert [value_at(settings.weight, share) for share in (0.1, 0.9)] == weights
