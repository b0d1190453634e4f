"""Every router's weights are those of a rule that is found from them, or are kept."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli import registry
from simsmoe_cli.collapse.measure.ablation.weighting import Weighting, find_weighting
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from tests.train.tiny import recipe

KEPT = {"hash", "random"}  # their weights are all equal
RULES = {
    "smoe": ("exp", "chosen"),
    "gshard": ("exp", "chosen"),
    "switch": ("exp", "all"),
    "loss-free": ("sigmoid", "chosen"),
    "remoe": ("relu", ""),
    "expert-choice": ("exp", "all"),
}


@pytest.mark.parametrize("router", list(registry.ROUTERS))
def test_the_rule_gives_the_routers_own_weights(router: str) -> None:
    more = {"expert_choice": {"allow_leak": True}} if router == "expert-choice" else {}
    made = recipe(moe={"router": router, "top_k": 1 if router == "switch" else 2}, **more)
    torch.manual_seed(0)
    model = LanguageModel(made, 11).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.mul_(3)
    ids = torch.randint(11, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        routed = model.route(ids, StepContext(step=8, total_steps=8))[0]
    assert routed.logits_TN is not None
    assert routed.weight_TK is not None
    rule = find_weighting(routed.logits_TN, routed.index_TK, routed.weight_TK)
    if router in KEPT:
        assert rule == Weighting()
        return
    if router in RULES:
        assert (rule.score, rule.over) == RULES[router]
    assert rule.score
    taken = routed.index_TK < routed.logits_TN.shape[1]
    found = rule.weights(routed.logits_TN, routed.index_TK)
    torch.testing.assert_close(found[taken], routed.weight_TK[taken], rtol=0.02, atol=1e-4)


def test_weights_of_no_known_rule_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 6, generator=generator)
    weight, index = torch.rand(200, 6, generator=generator).topk(2)
    assert find_weighting(logits, index, weight) == Weighting()
