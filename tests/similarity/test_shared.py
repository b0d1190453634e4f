"""CKA on shared tokens: each pair's tokens picked one by one, whichever way the rows come."""

from __future__ import annotations

import torch

from simsmoe_cli.similarity.cka import debiased_linear_cka
from simsmoe_cli.similarity.shared import (
    FEWEST_SHARED,
    cka_of_routed,
    received,
    routed_rows,
    shared_counts,
)


def test_each_pair_is_compared_on_the_tokens_that_both_were_sent() -> None:
    generator = torch.Generator().manual_seed(0)
    experts, tokens = 5, 400
    index = torch.rand(tokens, experts, generator=generator).topk(2).indices
    index[:, 1][index[:, 1] == 3] = experts  # slots of expert 3 are often empty
    index[:300][index[:300] == 3] = experts
    weight = torch.randn(experts, 12, 12, generator=generator)
    x_TD = torch.randn(tokens, 12, generator=generator)
    outputs = (x_TD @ weight).tanh()

    rows, count = routed_rows(x_TD, received(index, experts))
    assert count.tolist() == [int((index == expert).sum()) for expert in range(experts)]
    expert_R = torch.arange(experts).repeat_interleave(count)
    run = torch.stack([(row @ weight[e]).tanh() for row, e in zip(rows, expert_R, strict=True)])
    found = cka_of_routed(run, received(index, experts))
    chosen = [set(row) for row in index.tolist()]
    for i in range(experts):
        for j in range(experts):
            both = [token for token, row in enumerate(chosen) if {i, j} <= row and i != j]
            if len(both) < FEWEST_SHARED:
                assert found[i, j].isnan()
            else:
                expected = debiased_linear_cka(outputs[i, both], outputs[j, both])
                torch.testing.assert_close(found[i, j], expected, rtol=1e-4, atol=1e-5)
    assert found.isfinite().sum() > experts
    assert received(index, experts).sum(0).tolist() == count.tolist()


def test_counts_are_exact_where_a_model_computes_in_bf16() -> None:
    index = torch.tensor([[0, 1]] * 257 + [[1, 2]] * 44)
    received_TN = received(index, 3)
    rows_RD = torch.randn(2 * 301, 8, generator=torch.Generator().manual_seed(0))
    exact = cka_of_routed(rows_RD, received_TN)
    with torch.autocast("cpu", torch.bfloat16):
        assert shared_counts(received_TN).tolist() == [[257, 257, 0], [257, 301, 44], [0, 44, 44]]
        assert torch.equal(cka_of_routed(rows_RD, received_TN).nan_to_num(), exact.nan_to_num())
