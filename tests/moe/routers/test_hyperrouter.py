"""HyperRouter: a frozen network makes the router out of a vector, and only the vector learns."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec
from simsmoe_cli.moe.routers.hyperrouter import HyperRouter
from simsmoe_cli.recipe.routers import HyperRouterSettings

WIDTH, EXPERTS, HIDDEN = 12, 5, 20


def make(seed: int = 0) -> HyperRouter:
    torch.manual_seed(seed)
    settings = HyperRouterSettings(hidden=HIDDEN)
    return HyperRouter(RouterSpec(width=WIDTH, num_experts=EXPERTS, top_k=2, settings=settings))


def logits(router: HyperRouter, x_TD: Tensor) -> Tensor:
    result: Tensor = router(x_TD, RouterInput()).logits_TN
    return result


def test_the_router_is_what_the_network_makes_of_the_vector() -> None:
    router = make()
    assert router.w_in.shape == (HIDDEN, WIDTH)
    assert router.w_out.shape == (EXPERTS * (WIDTH + 1), HIDDEN)
    x_TD = torch.randn(7, WIDTH)
    hidden = (router.w_in @ router.embedding + router.b_in).clamp(min=0)
    made = router.w_out @ hidden + router.b_out
    for expert in range(EXPERTS):
        row = made[expert * (WIDTH + 1) : (expert + 1) * (WIDTH + 1)]
        expected_T = x_TD @ row[:WIDTH] + row[WIDTH]
        torch.testing.assert_close(logits(router, x_TD)[:, expert], expected_T)


def test_the_vector_learns_and_the_network_does_not() -> None:
    """The teacher differs in its vector alone, so all there is to learn can be learned."""
    router, teacher = make(), make()
    with torch.no_grad():
        teacher.embedding.add_(torch.randn(WIDTH))
    frozen = {name: value.clone() for name, value in router.named_buffers()}
    optimizer = torch.optim.Adam(router.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        x_TD = torch.randn(256, WIDTH)
        target_TN = logits(teacher, x_TD).detach().softmax(-1)
        loss = F.cross_entropy(logits(router, x_TD), target_TN)
        floor = -(target_TN * target_TN.log()).sum(-1).mean()
        losses.append((loss - floor).item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]
    assert set(frozen) == {"w_in", "b_in", "w_out", "b_out"}
    assert all(torch.equal(value, frozen[name]) for name, value in router.named_buffers())
    assert [name for name, _ in router.named_parameters()] == ["embedding"]


def test_it_balances_by_its_vector() -> None:
    router = make()
    x_TD = torch.randn(512, WIDTH) + 1
    before = router(x_TD, RouterInput()).losses["balance"]
    optimizer = torch.optim.Adam(router.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        router(x_TD, RouterInput()).losses["balance"].backward()
        optimizer.step()
    after = router(x_TD, RouterInput()).losses["balance"]
    assert before > 1.5
    assert after < 1.2
