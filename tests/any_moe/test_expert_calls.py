"""What a layer did with its tokens is read while it runs, or the layer is refused.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.expert_calls import LayerRecorder, recording
from simsmoe_cli.any_moe.find_layers import find_expert_layers
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.similarity.routed import Routed
from tests.any_moe import models
from tests.any_moe.models import CHOSEN, EXPERTS, WIDTH

B, M = 3, 5


def recorded(
    layer: nn.Module, real_T: Tensor | None = None, top_k: int | None = CHOSEN
) -> tuple[Routed, Tensor]:
    """What is read of a layer in one pass, and the rows it was given."""
    model = nn.Module()
    model.add_module("mlp", layer)
    (found,) = find_expert_layers(model)
    recorder = LayerRecorder(found, top_k)
    hidden = torch.randn(B, M, WIDTH)
    with torch.no_grad(), recording([recorder]):
        layer(hidden)
    real_T = torch.ones(B * M, dtype=torch.bool) if real_T is None else real_T
    with torch.no_grad():
        return recorder.result(real_T, "mine"), hidden.flatten(0, 1)


@pytest.mark.parametrize("kind", [models.ListedLayer, models.StackedLayer])
def test_rows_choice_and_scores_are_those_of_the_layer(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = kind()
    routed, rows_TD = recorded(layer)
    logits_TN = layer.gate(rows_TD)
    assert torch.equal(routed.input_TD, rows_TD)
    assert torch.equal(routed.index_TK, logits_TN.topk(CHOSEN).indices)
    assert routed.logits_TN is not None
    assert torch.allclose(routed.logits_TN.softmax(-1), logits_TN.softmax(-1))


def test_padding_is_left_out() -> None:
    torch.manual_seed(0)
    real_T = torch.arange(B * M) % 3 > 0
    layer = models.StackedLayer()
    routed, rows_TD = recorded(layer, real_T)
    assert torch.equal(routed.input_TD, rows_TD[real_T])
    assert len(routed.index_TK) == int(real_T.sum())


def test_no_hook_stays_and_the_output_is_unchanged() -> None:
    torch.manual_seed(0)
    layer = models.StackedLayer()
    x = torch.randn(B, M, WIDTH)
    before = layer(x)
    recorder = LayerRecorder(find_expert_layers(layer)[0])
    with recording([recorder]):
        assert torch.equal(layer(x), before)
    assert not any(module._forward_hooks for module in layer.modules())
    assert not any(module._forward_pre_hooks for module in layer.modules())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (models.Contrary, "sends its experts other tokens than those that were read"),
        (models.Doubling, "does not compute the weighted sum of its chosen experts"),
    ],
)
def test_a_layer_that_works_in_another_way_is_refused(layer: type[nn.Module], said: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError) as caught:
        recorded(layer())
    assert f"mine: the layer mlp ({layer.__name__}) {said}" in str(caught.value)
    assert caught.value.code == EXIT_DATA


def test_a_router_that_hides_its_choice_needs_k() -> None:
    with pytest.raises(UserError, match="how many experts"):
        recorded(models.ListedLayer(), top_k=None)


def test_a_layer_that_did_not_run_is_refused() -> None:
    layer = models.StackedLayer()
    recorder = LayerRecorder(find_expert_layers(layer)[0])
    with recording([recorder]):
        pass
    with pytest.raises(UserError, match="is not run on text"):
        recorder.result(torch.ones(EXPERTS, dtype=torch.bool), "mine")
