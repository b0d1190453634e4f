"""Similarity learning of two ranks that share the experts, each with tokens of its own.

The oracle has all tokens in one process, runs every expert on them, and takes CKA over both ranks'
tokens by its definition.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from simsmoe_cli.moe.experts.loop import LoopExperts
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.learning import SimilarityLearning
from tests.gloo_ranks import on_ranks
from tests.similarity.test_cka_over_ranks import cka

RANKS, TOKENS, WIDTH, EXPERTS, TOP_K, LEAST = 2, 80, 6, 4, 2, 10


def made_experts() -> LoopExperts:
    torch.manual_seed(0)
    return LoopExperts(EXPERTS, WIDTH, 8)


def tokens_of(rank: int) -> tuple[Tensor, Tensor]:
    """Hidden states and chosen experts; on the first rank few tokens go to expert 3."""
    generator = torch.Generator().manual_seed(rank)
    x_TD = torch.randn(TOKENS, WIDTH, generator=generator)
    score_TN = torch.rand(TOKENS, EXPERTS, generator=generator)
    if rank == 0:
        score_TN[:78, 3] = 0
    return x_TD, score_TN.topk(TOP_K).indices


def learned_on_a_rank(rank: int) -> dict[str, Tensor]:
    settings = SimilaritySettings.model_validate(
        # All pairs, on all of a rank's tokens, so that nothing is drawn.
        {"preset": "calibrated", "pairs": 6, "tokens": 2 * TOKENS, "min_tokens": LEAST}
        | {"threshold": 0.0, "budget": None}
    )
    experts = made_experts()
    experts.spread(init_device_mesh("cpu", (RANKS,)))
    learning = SimilarityLearning(settings, WIDTH, EXPERTS, TOP_K, over_ranks=True)
    x_TD, index_TK = tokens_of(rank)
    logits_TN = torch.zeros(TOKENS, EXPERTS)
    result = learning(x_TD, index_TK, logits_TN, lambda rows, count: experts(rows, count))
    (result.loss / RANKS).backward()
    found = {"loss": result.loss.detach(), "due": result.pairs_due, "mean": result.mean}
    for name, parameter in experts.named_parameters():
        assert isinstance(parameter.grad, DTensor)
        found[name] = parameter.grad.full_tensor()
    return found


def test_a_pair_is_compared_over_the_tokens_of_all_ranks(tmp_path: Path) -> None:
    of_ranks = on_ranks(learned_on_a_rank, RANKS, tmp_path)
    experts = made_experts().double()
    tokens = [tokens_of(rank) for rank in range(RANKS)]
    outputs = [experts.dense(x_TD.double()) for x_TD, _ in tokens]
    chosen = [(index_TK[..., None] == torch.arange(EXPERTS)).any(1) for _, index_TK in tokens]
    values = []
    for first in range(EXPERTS):
        for second in range(first + 1, EXPERTS):
            shared = [chosen_TN[:, first] & chosen_TN[:, second] for chosen_TN in chosen]
            assert sum(int(mask_T.sum()) for mask_T in shared) >= LEAST
            on_shared, anywhere = (
                [
                    [
                        outputs_NTD[expert][mask_T]
                        for outputs_NTD, mask_T in zip(outputs, masks, strict=True)
                    ]
                    for expert in (first, second)
                ]
                for masks in (shared, [mask_T | True for mask_T in shared])
            )
            values += [cka("cka-linear-debiased", *rows) for rows in (on_shared, anywhere)]
    similarity = torch.stack(values)
    loss = similarity.clamp(min=0).sum()
    loss.backward()
    for found in of_ranks:
        torch.testing.assert_close(found["loss"], loss.detach().float())
        torch.testing.assert_close(found["mean"], similarity.mean().detach().float())
        assert found["due"] == len(values) / 2
        for name, parameter in experts.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(found[name], parameter.grad.float(), rtol=1e-3, atol=1e-5)
