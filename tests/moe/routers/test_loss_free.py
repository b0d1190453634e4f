"""Loss-free balancing: a bias on selection, and nothing else, evens the load."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simsmoe_cli.moe.balance import load_fraction
from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec
from simsmoe_cli.moe.routers.loss_free import LossFreeRouter
from simsmoe_cli.recipe.routers import LossFreeSettings


def make(experts: int = 4, top_k: int = 2, gamma: float = 0.01) -> LossFreeRouter:
    """A router whose logits are its first inputs."""
    settings = LossFreeSettings(gamma=gamma)
    router = LossFreeRouter(
        RouterSpec(width=8, num_experts=experts, top_k=top_k, settings=settings)
    )
    with torch.no_grad():
        router.gate.weight.copy_(torch.eye(experts, 8))
        router.gate.bias.zero_()
    return router


def tokens(logits_TN: list[list[float]]) -> Tensor:
    given = torch.tensor(logits_TN)
    return torch.cat([given, torch.zeros(given.shape[0], 8 - given.shape[1])], dim=1)


def test_the_bias_decides_who_is_chosen_and_not_with_what_weight() -> None:
    router = make().eval()
    x_TD = tokens([[2.0, 1.0, 0.0, -1.0]])
    assert router(x_TD, RouterInput()).index_TK.tolist() == [[0, 1]]
    router.bias_N.copy_(torch.tensor([-1.0, 0.0, 0.0, 0.5]))
    routing = router(x_TD, RouterInput())
    assert routing.index_TK.tolist() == [[3, 1]]
    score = torch.tensor([[-1.0, 1.0]]).sigmoid()
    torch.testing.assert_close(routing.weight_TK, score / score.sum())
    torch.testing.assert_close(routing.logits_TN, x_TD[:, :4])


def test_weights_of_tokens_that_no_expert_wants_are_numbers() -> None:
    """Sigmoids of logits below -104 are 0 in fp32."""
    x_TD = tokens([[-200.0] * 4, [-1e4] * 4]).requires_grad_()
    routing = make().eval()(x_TD, RouterInput())
    torch.testing.assert_close(routing.weight_TK, torch.full((2, 2), 0.5))
    routing.weight_TK[:, 0].sum().backward()
    assert x_TD.grad is not None
    assert x_TD.grad.isfinite().all()


def test_the_bias_takes_one_step_towards_even_load_in_training_alone() -> None:
    router = make(experts=3, top_k=1, gamma=0.125)
    # Loads 3, 2, 1 of a mean of 2.
    x_TD = tokens([[9.0, 0, 0]] * 3 + [[0, 9.0, 0]] * 2 + [[0, 0, 9.0]])
    router.eval()(x_TD, RouterInput())
    assert router.bias_N.tolist() == [0, 0, 0]
    router.train()(x_TD, RouterInput())
    assert router.bias_N.tolist() == [-0.125, 0, 0.125]
    router(x_TD, RouterInput())
    assert router.bias_N.tolist() == [-0.25, 0, 0.25]


@pytest.mark.parametrize("experts", [2, 3, 5, 6, 7])
def test_even_load_is_left_alone(experts: int) -> None:
    """In fractions of 1, an even load is not always exactly the mean."""
    router = make(experts=experts, top_k=1)
    router(tokens((9 * torch.eye(experts)).repeat(7, 1).tolist()), RouterInput())
    assert not router.bias_N.any()


def test_an_adversarial_load_is_pulled_back_to_even() -> None:
    """Every token prefers the same two of eight experts, by far."""
    torch.manual_seed(0)
    router = make(experts=8, gamma=0.01)
    favour_N = torch.tensor([3.0, 3.0, 0, 0, 0, 0, -2.0, -2.0])
    loads = []
    for _ in range(300):
        x_TD = 0.5 * torch.randn(1024, 8) + favour_N
        loads.append(load_fraction(router(x_TD, RouterInput()).index_TK, 8))
    assert loads[0][:2].sum() > 0.95
    settled_N = torch.stack(loads[-50:]).mean(0)
    assert (settled_N - 1 / 8).abs().max() < 0.02


def test_no_loss_pulls_against_the_task_which_still_teaches_the_router() -> None:
    router = make()
    routing = router(torch.randn(16, 8), RouterInput())
    assert routing.losses == {}
    routing.weight_TK[:, 0].sum().backward()
    assert router.gate.weight.grad is not None
    assert router.gate.weight.grad.any()
