"""Generation: a cache changes nothing, its size is bounded, draws follow the distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from simsmoe_cli.errors import UserError
from simsmoe_cli.generation.sampling import Reader, Sampling, draw, generate, generating
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from tests.routers import CASES

VOCABULARY, SPAN = 11, 6
TINY = [
    "model.width=16",
    "model.heads=2",
    f"model.span={SPAN}",
    "model.repeats=2",
    "moe.experts=4",
    "moe.hidden=16",
]
RELATIVE = [
    "model.attention=relative",
    "model.norm_position=post",
    "model.moe_norm=double",
    "model.norm=layernorm",
    "model.activation=relu",
    "model.bias=true",
]
ATTENTIONS = {"rope": [], "relative": RELATIVE}
CAUSAL = {name: changes for name, changes in CASES.items() if name != "expert-choice"}
PROMPT = [1, 4, 2, 8, 5, 7, 1, 4, 2]
GREEDY = Sampling(temperature=0)


def recipe(*changes: str) -> Recipe:
    return load_recipe("quickstart", ["similarity.preset=none", *TINY, *changes])


def model(*changes: str) -> LanguageModel:
    """Weights large enough that context decides."""
    torch.manual_seed(0)
    made = LanguageModel(generating(recipe(*changes)), VOCABULARY).eval()
    with torch.no_grad():
        for parameter in (made.embedding.weight, made.output.weight):
            parameter.normal_()
    return made


@torch.no_grad()
def greedy_without_cache(lm: LanguageModel, prompt: Sequence[int], count: int) -> list[int]:
    """The whole text read anew for every token."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(lm(torch.tensor([text])).logits[0, -1].argmax()))
    return text


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("case", CAUSAL)
def test_the_text_is_the_same_without_a_cache(case: str, attention: str) -> None:
    """Far beyond the window, of every router that can generate."""
    lm = model(*ATTENTIONS[attention], *CAUSAL[case])
    text = [step.token for step in generate(Reader(lm), PROMPT, 2 * SPAN, GREEDY)]
    assert text == greedy_without_cache(lm, PROMPT, 2 * SPAN)
    # Greedy text may repeat itself; another may not.
    other = torch.randint(VOCABULARY, (4 * SPAN,)).tolist()
    logits, _ = Reader(lm, at_once=1).read(other)
    torch.testing.assert_close(
        logits, lm(torch.tensor([other])).logits[0, -1], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("at_once", [1, 3, 5, 6, 7, 40])
def test_reading_in_parts_is_reading_whole(at_once: int, attention: str) -> None:
    lm = model(*ATTENTIONS[attention])
    ids = torch.randint(VOCABULARY, (29,)).tolist()
    whole = lm(torch.tensor([ids]))
    reader = Reader(lm, at_once=at_once)
    first, some = reader.read(ids[:17])
    last, rest = reader.read(ids[17:])
    torch.testing.assert_close(first, whole.logits[0, 16], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last, whole.logits[0, -1], atol=1e-5, rtol=1e-4)
    assert [step.token for step in some + rest] == ids
    for layer, output in enumerate(whole.moe):
        best = output.routing.weight_TK.argmax(1, keepdim=True)
        chosen = output.routing.index_TK.gather(1, best).flatten().tolist()
        assert [step.experts[layer] for step in some + rest] == chosen


@pytest.mark.parametrize(("attention", "longest"), [("rope", SPAN - 1), ("relative", SPAN)])
def test_what_is_carried_does_not_grow(attention: str, longest: int) -> None:
    reader = Reader(model(*ATTENTIONS[attention]))
    for _ in generate(reader, PROMPT, 3 * SPAN, GREEDY):
        pass
    assert [tensor.shape[1] for tensor in reader.memory] == [longest] * 2


def test_a_window_of_one_remembers_nothing() -> None:
    lm = model("model.span=1")
    text = [step.token for step in generate(Reader(lm), PROMPT, 8, GREEDY)]
    assert text == greedy_without_cache(lm, PROMPT, 8)


def test_distances_never_seen_in_training_are_not_attended_to() -> None:
    assert generating(recipe("train.block=4")).model.span == 4
    assert generating(recipe("train.block=64")).model.span == SPAN
    assert generating(recipe(*RELATIVE, "train.block=4")).model.span == SPAN


def test_a_router_that_looks_ahead_is_refused() -> None:
    with pytest.raises(UserError, match="router expert-choice looks at the tokens that follow"):
        generating(recipe(*CASES["expert-choice"]))
    assert generating(recipe(*CASES["expert-choice"], "model.pattern=sf")).model.pattern == "sf"


def test_no_experts_no_colours() -> None:
    steps = list(generate(Reader(model("model.pattern=sf")), PROMPT, 3, GREEDY))
    assert [step.experts for step in steps] == [[]] * (len(PROMPT) + 3)


def test_a_token_no_expert_wants() -> None:
    """ReMoE may send a token nowhere."""
    lm = model(*CAUSAL["remoe"])
    for layer in lm.moe_layers:
        torch.nn.init.zeros_(layer.router.get_parameter("gate.weight"))
    assert Reader(lm).read([3])[1][0].experts == [None, None]


def test_a_router_is_told_the_step_of_its_weights() -> None:
    """SMoE-Dropout's k grows from 1 to 4 in training."""
    lm = model("moe.router=smoe-dropout", "smoe_dropout.k_start=1", "smoe_dropout.k_end=4")
    for step in (0, 99):
        context = StepContext(step=step, total_steps=100)
        logits, _ = Reader(lm, context).read(PROMPT)
        expected = lm(torch.tensor([PROMPT]), context=context).logits[0, -1]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
        other = StepContext(step=99 - step, total_steps=100)
        assert not torch.allclose(Reader(lm, other).read(PROMPT)[0], expected, atol=1e-2)


# Draws


def frequencies(logits_V: Tensor, sampling: Sampling, draws: int = 4000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(logits_V, sampling, generator) for _ in range(draws)]
    return torch.bincount(torch.tensor(drawn), minlength=len(logits_V)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log() + 7
    expected = (logits / temperature).softmax(0)
    found = frequencies(logits, Sampling(temperature))
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-6, [1]), (0.5, [1]), (0.6, [1, 3]), (0.85, [0, 1, 3]), (1.0, range(4))]
)
def test_the_nucleus_is_as_small_as_it_can_be(top_p: float, kept: Sequence[int]) -> None:
    share = torch.tensor([0.2, 0.5, 0.05, 0.25])
    found = frequencies(share.log(), Sampling(top_p=top_p), 2000)
    expected = torch.zeros(4)
    expected[list(kept)] = share[list(kept)]
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.04, rtol=0)


def test_a_small_temperature_is_greedy_and_finite() -> None:
    logits = torch.tensor([100.0, 250.0, 249.0])
    assert frequencies(logits, Sampling(1e-30), 10).tolist() == [0, 1, 0]
    assert draw(logits, GREEDY, torch.Generator()) == 1


def test_a_seed_draws_the_same_again() -> None:
    def text(seed: int | None) -> list[int]:
        steps = generate(Reader(model()), PROMPT, 30, Sampling(seed=seed))
        return [step.token for step in steps]

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(None) != text(None)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"temperature": -1.0}, "--temperature"),
        ({"temperature": math.inf}, "--temperature"),
        ({"temperature": math.nan}, "--temperature"),
        ({"top_p": 0.0}, "--top-p"),
        ({"top_p": 1.1}, "--top-p"),
        ({"temperature": 0.0, "top_p": 0.5}, "--top-p"),
        ({"temperature": 0.0, "seed": 1}, "--seed"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], where: str) -> None:
    with pytest.raises(UserError) as caught:
        Sampling(**settings)  # type: ignore[arg-type]
    assert caught.value.where == where
