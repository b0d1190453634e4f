"""CKA, pair tracker and similarity loss equal the published code's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.cka import linear_cka, rbf_cka
from simsmoe_cli.similarity.learning import SimilarityLearning

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}

GOLDEN = Path(__file__).parent


@pytest.mark.parametrize("case", range(4))
def test_cka(case: int) -> None:
    golden = load_file(GOLDEN / "cka.safetensors")
    x, y = golden[f"{case}.x"], golden[f"{case}.y"]
    measured = {
        "linear": linear_cka(x, y),
        "rbf_0.8": rbf_cka(x, y, sigma=0.8),
        "rbf_0.9": rbf_cka(x, y, sigma=0.9),
    }
    for name, value in measured.items():
        torch.testing.assert_close(value.reshape(1), golden[f"{case}.{name}"], **TOLERANCE)


@pytest.mark.parametrize("places", [6, 3])
def test_eight_steps_of_similarity_learning(places: int) -> None:
    """The published router and experts, in plain PyTorch, drive the tracker and the loss.

    At most three pairs are due in any step, so three places give what all six give. The published
    code measures a pair however few tokens it shares; the fewest here are 9.
    """
    golden = load_file(GOLDEN / "similarity_steps.safetensors")
    weight = {
        name.removeprefix("weight."): tensor
        for name, tensor in golden.items()
        if name.startswith("weight.")
    }
    settings = SimilaritySettings(
        preset="published",
        check_every=0.5,
        threshold=0.3,
        pairs=places,
        tokens=96,
        min_tokens=4,
    )
    learning = SimilarityLearning(settings, width=32, num_experts=4, top_k=2)
    learning.head.load_state_dict({name: weight[f"project.{name}"] for name in ("weight", "bias")})

    def run_experts(rows_RD: Tensor, count_N: Tensor) -> Tensor:
        outputs = []
        for expert, rows in enumerate(rows_RD.split(count_N.tolist())):
            w_in, b_in = weight["experts.htoh4.weight"], weight["experts.htoh4.bias"]
            w_out, b_out = weight["experts.h4toh.weight"], weight["experts.h4toh.bias"]
            hidden = torch.relu(rows @ w_in[expert].T + b_in[expert])
            outputs.append(hidden @ w_out[expert].T + b_out[expert])
        return torch.cat(outputs)

    for step in range(8):
        x_TD = golden[f"step{step}.x"][0]
        logits_TN = x_TD @ weight["gate.gate.weight"].T + weight["gate.gate.bias"]
        result = learning(x_TD, logits_TN.topk(2).indices, logits_TN, run_experts)
        torch.testing.assert_close(
            result.loss.reshape(1), golden[f"step{step}.similarity_loss"], **TOLERANCE
        )
        torch.testing.assert_close(
            learning.tracker.shared_NN, golden[f"step{step}.tracker_after"], **TOLERANCE
        )
