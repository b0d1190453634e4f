"""The classifier: what it reads, what it leaves out, where its gradient goes, and padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.errors import UserError
from simsmoe_cli.model.blocks import SubLayer
from simsmoe_cli.model.classifier import Classifier, ClassifierOutput, pool, real_positions
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from tests.routers import CASES

VOCABULARY, CLASSES = 30, 3
SMALL = [
    "model.repeats=2",
    "model.width=16",
    "model.heads=2",
    "moe.experts=4",
    "moe.hidden=16",
    "similarity.preset=calibrated",
    "similarity.min_tokens=4",
    "finetune.task=any",
    "eval.final_blocks=0",
]
RELATIVE = [
    "model.attention=relative",
    "model.span=8",
    "model.norm=layernorm",
    "model.norm_position=post",
    "model.moe_norm=double",
    "model.activation=relu",
    "model.bias=true",
]
LENGTHS = [5, 1, 8, 3]


def recipe(*more: str) -> Recipe:
    return load_recipe("quickstart", [*SMALL, *more])


def make(*more: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(recipe(*more), VOCABULARY, CLASSES)


def batch(longest: int, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Four texts padded to `longest`, and their lengths."""
    ids = torch.full((len(LENGTHS), longest), padding)
    generator = torch.Generator().manual_seed(1)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(0, VOCABULARY, (length,), generator=generator)
    return ids, torch.tensor(LENGTHS)


def run(model: Classifier, ids: Tensor, length_B: Tensor) -> ClassifierOutput:
    real_T = real_positions(length_B, ids.shape[1])
    torch.manual_seed(2)
    output: ClassifierOutput = model(
        ids, length_B, StepContext(step=3, total_steps=20, real_T=real_T)
    )
    return output


def everything(model: Classifier, longest: int, padding: int) -> dict[str, Tensor]:
    """Logits, losses, gradients and buffers of a step over a batch."""
    ids, length_B = batch(longest, padding)
    output = run(model, ids, length_B)
    loss = F.cross_entropy(output.logits, torch.tensor([0, 1, 2, 1]))
    loss = loss + sum(output.losses.values())
    loss.backward()
    found: dict[str, Any] = {"logits": output.logits, "loss": loss, **output.losses}
    found |= {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers())


@pytest.fixture
def double() -> Iterator[None]:
    """Models in float64: the similarity of few tokens magnifies rounding in its gradients."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", [[], RELATIVE], ids=["rope", "relative"])
def test_padding_changes_no_logit_loss_gradient_or_count(case: str, model: list[str]) -> None:
    """Further columns of padding, of another token."""
    # The backend that computes in float64.
    settings = [*model, *CASES[case], "moe.backend=loop"]
    results = [
        everything(make(*settings).train(), longest, padding)
        for longest, padding in ((8, 0), (13, 7))
    ]
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        # Some losses and gates are computed in fp32 whatever the model is in.
        single = value.dtype == torch.float32
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if single else {"rtol": 1e-7, "atol": 1e-9}
        torch.testing.assert_close(results[1][name], value, msg=name, equal_nan=True, **tolerance)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("model", [[], RELATIVE], ids=["rope", "relative"])
def test_a_text_is_classified_alike_alone_and_among_others(pooling: str, model: list[str]) -> None:
    classifier = make(*model, f"finetune.pooling={pooling}").eval()
    ids, length_B = batch(8)
    together = run(classifier, ids, length_B).logits
    for row, length in enumerate(LENGTHS):
        alone = run(classifier, ids[row : row + 1, :length], length_B[row : row + 1]).logits
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-6)


def test_what_the_classifier_reads() -> None:
    hidden = torch.randn(4, 8, 16)
    length_B = torch.tensor(LENGTHS)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(pool(hidden, length_B, "last")[row], hidden[row, length - 1])
        torch.testing.assert_close(
            pool(hidden, length_B, "mean")[row], hidden[row, :length].mean(0)
        )


def test_the_last_token_decides_with_all_before_it() -> None:
    """Every token of a text reaches the logits, at the place of the last."""
    model = make().eval()
    ids, length_B = batch(8)
    before = run(model, ids, length_B).logits
    for row, length in enumerate(LENGTHS):
        for place in range(length):
            changed = ids.clone()
            changed[row, place] = (changed[row, place] + 1) % VOCABULARY
            after = run(model, changed, length_B).logits
            moved = (after - before).abs().amax(1) > 1e-7
            assert moved.tolist() == [other == row for other in range(len(LENGTHS))]


@pytest.mark.parametrize("router", ["smoe", "switch", "xmoe", "loss-free", "remoe"])
def test_the_gradient_reaches_router_experts_and_embeddings(router: str) -> None:
    """Of the task alone, without auxiliary losses."""
    model = make(*CASES[router]).train()
    ids, length_B = batch(8)
    F.cross_entropy(run(model, ids, length_B).logits, torch.tensor([0, 1, 2, 1])).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for layer in (0, 1):
        place = f"layers.{2 * layer + 1}.moe"
        for part in ("router", "experts.w_in", "experts.w_out"):
            assert any(
                grad.abs().sum() > 0 for name, grad in grads.items() if f"{place}.{part}" in name
            ), (layer, part)
    seen = torch.unique(torch.cat([ids[row, :length] for row, length in enumerate(LENGTHS)]))
    assert grads["embedding.weight"].abs().sum(1).nonzero().squeeze(1).tolist() == seen.tolist()
    assert grads["classifier.weight"].abs().sum() > 0


def test_the_output_layer_is_left_out() -> None:
    names = dict(make().named_parameters())
    assert not any(name.startswith("output") for name in names)
    language_model = dict(LanguageModel(recipe(), VOCABULARY).named_parameters())
    assert names.keys() - language_model.keys() == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("pattern", "repeats", "left"),
    [("sg", 3, "sgsg"), ("sgfgfg", 2, "sgfgfg"), ("sgsfss", 1, "sgsfs"), ("gf", 2, "gfg")],
)
def test_the_last_layer_is_the_last_attention_and_what_follows(
    pattern: str, repeats: int, left: str
) -> None:
    model = make(
        f"model.pattern={pattern}", f"model.repeats={repeats}", "finetune.drop_last_layer=true"
    )
    kinds = [layer.kind for layer in model.layers if isinstance(layer, SubLayer)]
    assert "".join(kinds) == left
    ids, length_B = batch(8)
    assert run(model.eval(), ids, length_B).logits.shape == (4, CLASSES)


def test_layers_that_stay_keep_their_place() -> None:
    model = make("model.repeats=3", "finetune.drop_last_layer=true")
    places = [(layer.router.spec.layer, layer.router.spec.layers) for layer in model.moe_layers]
    assert places == [(0, 3), (1, 3)]


def test_the_only_layer_cannot_be_dropped() -> None:
    with pytest.raises(UserError, match="the model has one layer"):
        make("model.repeats=1", "finetune.drop_last_layer=true")
