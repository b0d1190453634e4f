"""Sizes and costs against hand counts, and against what training really keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError
from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.size import least_bytes, measure, memory_of, require_possible
from simsmoe_cli.recipe.load import load_recipe

VOCAB = 50
TINY = (
    "model.width=16", "model.heads=2", "moe.hidden=24", "moe.experts=4", "model.ffn_hidden=40",
    "train.batch=4", "train.micro_batches=2", "train.block=32", "similarity.preset=none",
)  # fmt: skip
RELATIVE = (
    "model.attention=relative", "model.span=20", "model.norm=layernorm",
    "model.norm_position=post", "model.moe_norm=double", "model.bias=true",
    "model.activation=relu", "model.dropout=0.1",
)  # fmt: skip


def recipe(*overrides: str):  # type: ignore[no-untyped-def]
    return load_recipe("quickstart", [*TINY, *overrides])


def test_rope_by_hand() -> None:
    size = measure(recipe("model.pattern=sgf", "model.repeats=3", "model.span=8"), VOCAB)
    attention, norm = 4 * 16 * 16, 16
    experts = 4 * 3 * 16 * 24
    router = 16 * 4
    dense = 3 * 16 * 40
    layers = 3 * (attention + experts + router + dense + 3 * norm)
    assert size.parameters == layers + 2 * VOCAB * 16 + norm
    assert size.active_parameters == size.parameters - 3 * experts // 2
    # A window of 8 in a block of 32: 1, 2, ... 8, 8, 8 positions seen.
    seen = (sum(range(1, 9)) + 24 * 8) / 32
    weights = 3 * (attention + experts / 2 + router + dense) + VOCAB * 16
    assert size.forward_flops_per_token == round(2 * weights + 3 * 4 * 16 * seen)
    assert size.training_flops_per_token == 3 * size.forward_flops_per_token
    assert size.carried_bytes == 0


def test_a_training_whose_k_grows_is_counted_with_the_mean_k() -> None:
    """A forward pass, and so the budget of similarity learning, with that of the first step."""
    k = ("smoe_dropout.k_start=1", "smoe_dropout.k_end=3")
    size = measure(recipe("moe.router=smoe-dropout", *k), VOCAB)
    fixed = [
        measure(recipe("moe.router=smoe-dropout", "smoe_dropout.k_end=2", "moe.top_k=2"), VOCAB),
        measure(recipe("moe.router=smoe-dropout", "smoe_dropout.k_end=1", "moe.top_k=1"), VOCAB),
    ]
    assert size.training_flops_per_token == fixed[0].training_flops_per_token
    assert size.forward_flops_per_token == fixed[1].forward_flops_per_token
    assert size.active_parameters == fixed[1].active_parameters


def test_relative_by_hand() -> None:
    size = measure(recipe("model.pattern=sgf", "model.repeats=3", *RELATIVE), VOCAB)
    attention, norm = 4 * 16 * 16, 2 * 16
    experts = 4 * (2 * 16 * 24 + 24 + 16)
    router = 16 * 4 + 4
    dense = 2 * 16 * 40 + 40 + 16
    layers = 3 * (attention + experts + router + dense + 4 * norm)
    table = 8 * 20
    assert size.parameters == layers + 2 * VOCAB * 16 + VOCAB + table
    assert size.active_parameters == size.parameters - 3 * experts // 2
    weights = 3 * (attention + 2 * 2 * 16 * 24 + 16 * 4 + 2 * 16 * 40) + VOCAB * 16
    # 20 positions: query by key, query by position, weight by value. Keys and values of the 20
    # remembered positions are projected once for the 32 of a block.
    products = 3 * (3 * 2 * 16 * 20 + 2 * 2 * 16 * 16 * 20 / 32)
    assert size.forward_flops_per_token == round(2 * weights + products)
    assert size.carried_bytes == 3 * 4 * 20 * 16 * 4


@pytest.mark.parametrize("overrides", [(), RELATIVE, ("moe.router=hash", "moe.top_k=1")])
def test_a_deep_model_is_counted_as_it_is_built(overrides: tuple[str, ...]) -> None:
    deep = recipe("model.pattern=sgf", "model.repeats=7", *overrides)
    size, model = measure(deep, VOCAB), LanguageModel(deep, VOCAB)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    carried = model.initial_memory(deep.train.batch)
    assert size.carried_bytes == sum(4 * tensor.numel() for tensor in carried)
    shallow = [measure(recipe("model.pattern=sgf", f"model.repeats={n}", *overrides), VOCAB)
               for n in (2, 3)]  # fmt: skip
    kept = [each.activation_bytes for each in (*shallow, size)]
    assert kept[2] == pytest.approx(kept[1] + 4 * (kept[1] - kept[0]), rel=0.02)


def test_what_no_machine_can_hold_is_refused_before_it_is_built() -> None:
    huge = ("model.width=1000000", "moe.hidden=10000000", "moe.experts=8192")
    said = r"at least [\d,]+ GB of memory.*model.width \(now 1,000,000\)"
    with pytest.raises(UserError, match=said) as caught:
        measure(recipe(*huge), VOCAB)
    assert caught.value.code == EXIT_OUT_OF_MEMORY


@pytest.mark.parametrize("overrides", [(), RELATIVE, ("model.tie_embeddings=true",)])
def test_what_is_refused_could_not_have_been_trained(overrides: tuple[str, ...]) -> None:
    """The bound is below what training takes, and not far below."""
    settings = recipe("model.pattern=sgf", *overrides)
    size = measure(settings, VOCAB)
    least = least_bytes(settings, VOCAB)
    assert 0.2 * size.training_bytes < least <= size.training_bytes
    require_possible(settings, VOCAB, least)
    with pytest.raises(UserError):
        require_possible(settings, VOCAB, least - 1)


def test_the_memory_of_this_machine_is_known() -> None:
    assert 2**28 < memory_of(torch.device("cpu")) < 2**50


def test_tied_embeddings_are_counted_once_and_multiply_once() -> None:
    apart, tied = measure(recipe(), VOCAB), measure(recipe("model.tie_embeddings=true"), VOCAB)
    assert apart.parameters - tied.parameters == VOCAB * 16
    assert apart.forward_flops_per_token == tied.forward_flops_per_token


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_similarity_heads_cost_training_and_not_the_model(head: str) -> None:
    without = measure(recipe(), VOCAB)
    overrides = ("similarity.preset=calibrated", f"similarity.head={head}")
    trained = measure(recipe(*overrides), VOCAB)
    frozen = measure(recipe(*overrides, "similarity.head_frozen=true"), VOCAB)
    per_layer = 16 * 4 + 4 + (4 * 4 + 4 if head == "mlp" else 0)
    for size in (trained, frozen):
        assert size.head_parameters == 4 * per_layer
        assert size.parameters == without.parameters
        assert size.active_parameters == without.active_parameters
        assert size.forward_flops_per_token == without.forward_flops_per_token
        assert size.weight_bytes == 4 * (without.parameters + 4 * per_layer)
    assert trained.gradient_bytes == trained.weight_bytes
    assert frozen.gradient_bytes == 4 * without.parameters
    assert frozen.optimizer_bytes == 2 * frozen.gradient_bytes


@pytest.mark.parametrize("overrides", [(), RELATIVE, ("similarity.preset=calibrated",)])
def test_activations_are_what_a_real_forward_pass_keeps_on_a_gpu(
    overrides: tuple[str, ...],
) -> None:
    settings = recipe(*overrides)
    model = LanguageModel(settings, VOCAB)
    own = {t.data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(VOCAB, (2, 32))
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with as_on_accelerators(), hooks:
        output = model(tokens, model.initial_memory(2))
        loss = F.cross_entropy(output.logits.flatten(0, 1), tokens.flatten())
        loss = loss + sum(output.losses.values())
    assert measure(settings, VOCAB).activation_bytes == pytest.approx(sum(kept.values()), rel=0.02)
    assert loss.isfinite()


def test_bf16_keeps_less_and_the_backend_changes_nothing() -> None:
    full = measure(recipe(), VOCAB)
    assert measure(recipe("train.precision=bf16"), VOCAB).activation_bytes < full.activation_bytes
    assert measure(recipe("moe.backend=loop"), VOCAB) == full
    # Widths that only the loop takes.
    odd = measure(recipe("moe.hidden=25", "moe.backend=loop"), VOCAB)
    assert odd.parameters == full.parameters + 4 * 4 * 3 * 16
