"""What one process of several holds and sends, against hand counts."""

from __future__ import annotations

import pytest

from simsmoe_cli.model.rank_cost import StepTime, rank_cost
from simsmoe_cli.model.size import measure
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe

VOCAB, WIDTH, HIDDEN, EXPERTS, TOP_K, REPEATS = 64, 16, 24, 8, 2, 3
ATTENTION = 4 * WIDTH * WIDTH
ONE_EXPERT = 3 * WIDTH * HIDDEN
ROUTER = WIDTH * EXPERTS
OUTSIDE = 2 * VOCAB * WIDTH + WIDTH


def recipe(*overrides: str) -> Recipe:
    given = (
        "model.pattern=sg", f"model.repeats={REPEATS}", f"model.width={WIDTH}", "model.heads=2",
        f"moe.experts={EXPERTS}", f"moe.hidden={HIDDEN}", f"moe.top_k={TOP_K}",
        "train.batch=8", "train.block=32", "similarity.preset=none",
    )  # fmt: skip
    return load_recipe("quickstart", [*given, *overrides])


def test_one_process_holds_everything_and_sends_nothing() -> None:
    cost, size = rank_cost(recipe(), VOCAB, 1), measure(recipe(), VOCAB)
    assert cost.parameters == size.parameters
    assert cost.memory_bytes == size.training_bytes
    assert cost.flops == 8 * 32 * size.training_flops_per_token
    assert cost.fsdp_bytes == cost.all_to_all_bytes == 0


def test_two_processes_by_hand() -> None:
    cost = rank_cost(recipe("train.micro_batches=2"), VOCAB, 2)
    attention, mixture = ATTENTION + WIDTH, EXPERTS * ONE_EXPERT + ROUTER + WIDTH
    layers = REPEATS * (attention + mixture)
    assert cost.parameters == (layers + OUTSIDE) / 2
    assert cost.weight_bytes == cost.gradient_bytes == 4 * cost.parameters
    assert cost.optimizer_bytes == 8 * cost.parameters
    # Half of everything is the other rank's: it is sent, twice in each micro-batch for sub-layers.
    assert cost.all_gather_bytes == 4 * 2 * (2 * layers + OUTSIDE) / 2
    assert cost.reduce_scatter_bytes == 4 * 2 * (layers + OUTSIDE) / 2
    assert cost.all_reduce_bytes == cost.all_to_all_bytes == 0
    assert cost.gathered_bytes == 4 * (2 * OUTSIDE + 3 * mixture)
    # A rank computes 2 of the 4 sequences of each micro-batch.
    own = measure(recipe("train.micro_batches=2", "train.batch=4"), VOCAB)
    assert cost.activation_bytes == own.activation_bytes
    assert cost.flops == 2 * 2 * 32 * own.training_flops_per_token


def test_copies_that_divide_their_experts_by_hand() -> None:
    """Two copies on four ranks each; two of the four share the experts."""
    cost = rank_cost(recipe("parallel.replicate=2", "parallel.expert=2"), VOCAB, 8)
    experts = EXPERTS * ONE_EXPERT // 2  # of one of the two
    dense = ATTENTION + 2 * WIDTH + ROUTER
    assert cost.parameters == REPEATS * (experts // 2 + dense // 4) + OUTSIDE // 4
    # Of dense weights 3/4 are other ranks'; of the rank's experts one half.
    layers = REPEATS * (experts / 2 + 3 * dense / 4)
    assert cost.all_gather_bytes == 4 * (2 * layers + 3 * OUTSIDE / 4)
    assert cost.reduce_scatter_bytes == 4 * (layers + 3 * OUTSIDE / 4)
    # Adding up two copies sends as much as a rank holds: half of it twice.
    assert cost.all_reduce_bytes == 4 * cost.parameters
    # One sequence of 32 tokens: half of its rows go to the other rank, four times a layer.
    rows = 32 * TOP_K * WIDTH * 4 * 4 / 2
    assert cost.all_to_all_bytes == REPEATS * (rows + EXPERTS * 8 / 2)


def test_experts_fewer_than_ranks_are_divided_within() -> None:
    """Otherwise ranks beyond the number of experts would hold nothing."""
    cost = rank_cost(recipe("train.batch=16"), VOCAB, 16)
    assert cost.parameters == rank_cost(recipe(), VOCAB, 1).parameters / 16


def test_half_precision_halves_the_rows_sent() -> None:
    counts = REPEATS * EXPERTS * 8 / 2
    full, half = (
        rank_cost(recipe("parallel.expert=2", f"train.precision={kind}"), VOCAB, 2)
        for kind in ("fp32", "bf16")
    )
    assert half.all_to_all_bytes - counts == (full.all_to_all_bytes - counts) / 2
    assert half.fsdp_bytes == full.fsdp_bytes


def test_the_slowest_rank_decides() -> None:
    """Of 8 sequences, three ranks compute 3, 3 and 2."""
    cost = rank_cost(recipe(), VOCAB, 3)
    assert cost.flops == 3 * 32 * measure(recipe(), VOCAB).training_flops_per_token


def test_the_time_of_a_step() -> None:
    cost = rank_cost(recipe("parallel.expert=2"), VOCAB, 2)
    time = cost.times(gpu_tflops=0.5, link_gbs=2)
    assert time.compute_s == cost.flops / 5e11
    assert time.fsdp_s == cost.fsdp_bytes / 2e9
    assert time.all_to_all_s == cost.all_to_all_bytes / 2e9
    # FSDP hides behind computing, or computing behind it; the rows of experts do not.
    assert StepTime(3.0, 2.0, 0.5).step_s == 3.5
    assert StepTime(1.0, 2.0, 0.5).step_s == pytest.approx(2.5)
