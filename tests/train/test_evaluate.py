"""Evaluation: every token once, whatever the split is cut into."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.streams import Tokens
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.precision import resolve_precision
from simsmoe_cli.train.evaluate import Evaluation, evaluate_split
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import recipe

VOCABULARY = 13
ROPE: dict[str, Any] = {}


def model(seed: int = 0, **settings: Any) -> LanguageModel:
    """A tiny model with weights large enough that context matters."""
    torch.manual_seed(seed)
    made = LanguageModel(recipe(model=settings), VOCABULARY)
    with torch.no_grad():
        for parameter in (made.embedding.weight, made.output.weight):
            parameter.normal_()
    return made


def text(count: int) -> Tokens:
    return np.random.default_rng(count).integers(0, VOCABULARY, count).astype(np.uint8)


@torch.no_grad()
def token_by_token(lm: LanguageModel, tokens: Tokens, context: int | None = None) -> float:
    """Nats of all tokens, each from at most `context` tokens before it, one forward pass each."""
    lm.eval()
    ids = torch.from_numpy(tokens.astype(np.int64))
    total = math.log(VOCABULARY)
    for target in range(1, len(ids)):
        start = 0 if context is None else max(0, target - context)
        logits = lm(ids[None, start:target]).logits[0, -1]
        total += F.cross_entropy(logits, ids[target]).item()
    return total


@torch.no_grad()
def one_token_blocks(lm: LanguageModel, tokens: Tokens) -> float:
    """Nats of all tokens, one read at a time, with the memory of those before."""
    lm.eval()
    ids = torch.from_numpy(tokens.astype(np.int64))
    total, memory = math.log(VOCABULARY), lm.initial_memory(1)
    for here, following in itertools.pairwise(ids):
        output = lm(here.view(1, 1), memory)
        memory = output.memory
        total += F.cross_entropy(output.logits[0, 0], following).item()
    return total


@pytest.mark.parametrize("block", [1, 5, 16, 64])
def test_carried_memory_makes_the_block_irrelevant(block: int) -> None:
    lm, tokens = model(**{**PAPER_MODEL, "span": 12}), text(50)
    result = evaluate_split(lm, tokens, block=block, streams=1)
    assert result.total_nats == pytest.approx(one_token_blocks(lm, tokens), rel=1e-5)
    assert result.tokens == 50


def test_blocks_of_rope_models_start_without_context() -> None:
    """Without overlap a block is scored from its own tokens alone."""
    lm, tokens = model(**ROPE), text(41)
    expected = math.log(VOCABULARY)
    for start in range(0, 40, 8):
        expected += token_by_token(lm, tokens[start : start + 9]) - math.log(VOCABULARY)
    result = evaluate_split(lm, tokens, block=8, streams=1)
    assert result.total_nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("streams", [1, 2, 3, 8])
def test_enough_overlap_gives_every_token_its_whole_context(streams: int) -> None:
    """Two attention layers with a window of 4 see 2 * 3 tokens back, and the token before."""
    lm, tokens = model(span=4), text(50)
    whole = token_by_token(lm, tokens)
    result = evaluate_split(lm, tokens, block=12, streams=streams, overlap=6)
    assert result.total_nats == pytest.approx(whole, rel=1e-5)
    assert result.tokens == 50


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
def test_streams_of_whole_blocks_read_the_same_blocks(streams: int) -> None:
    lm, tokens = model(**ROPE), text(1 + 8 * 16)
    alone = evaluate_split(lm, tokens, block=16, streams=1)
    together = evaluate_split(lm, tokens, block=16, streams=streams)
    assert together.total_nats == pytest.approx(alone.total_nats, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 33, 100])
@pytest.mark.parametrize(("streams", "block", "overlap"), [(1, 7, 0), (3, 8, 3), (200, 64, 0)])
def test_every_token_counts_once(count: int, streams: int, block: int, overlap: int) -> None:
    """A model that knows nothing needs log2 V bits for each, the first one too."""
    lm = model(**ROPE)
    torch.nn.init.zeros_(lm.output.weight)
    result = evaluate_split(lm, text(count), block=block, streams=streams, overlap=overlap)
    assert result.tokens == count
    assert result.bpc == pytest.approx(math.log2(VOCABULARY), rel=1e-6)
    assert result.perplexity == pytest.approx(VOCABULARY, rel=1e-6)


def test_overlap_gives_more_context_to_the_same_tokens() -> None:
    lm, tokens = model(**ROPE), text(200)
    without = evaluate_split(lm, tokens, block=16, streams=2)
    overlapping = evaluate_split(lm, tokens, block=16, streams=2, overlap=8)
    assert overlapping.tokens == without.tokens == 200
    assert overlapping.total_nats != pytest.approx(without.total_nats, rel=1e-6)


def test_a_part_of_a_split_leaves_the_first_token_out() -> None:
    lm, tokens = model(**ROPE), text(1 + 4 * 32)
    part = evaluate_split(lm, tokens, block=8, streams=4, max_blocks=2)
    assert part.tokens == 2 * 4 * 8
    quarter = evaluate_split(lm, tokens, block=8, streams=4, max_blocks=4)
    whole = evaluate_split(lm, tokens, block=8, streams=4)
    assert whole.total_nats == pytest.approx(quarter.total_nats + math.log(VOCABULARY))
    assert whole.tokens == quarter.tokens + 1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_its_mode_and_evaluates_without_dropout(training: bool) -> None:
    lm, tokens = model(dropout=0.5), text(64)
    lm.train(training)
    random_state = torch.get_rng_state()
    results = [evaluate_split(lm, tokens, block=16, streams=2) for _ in range(2)]
    assert results[0].total_nats == results[1].total_nats
    assert {module.training for module in lm.modules()} == {training}
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in lm.parameters())


def test_bf16_is_close_to_fp32_and_not_the_same() -> None:
    lm, tokens = model(**ROPE), text(200)
    exact = evaluate_split(lm, tokens, block=16, streams=2)
    rough = evaluate_split(lm, tokens, block=16, streams=2, precision="bf16")
    assert rough.total_nats == pytest.approx(exact.total_nats, rel=0.02)
    assert rough.total_nats != exact.total_nats


def test_precision_auto_is_fp32_on_a_cpu() -> None:
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"


def test_a_split_with_nothing_to_predict_is_refused() -> None:
    with pytest.raises(UserError, match="1 tokens is too short") as caught:
        evaluate_split(model(), text(1), block=8, streams=2)
    assert caught.value.code == EXIT_DATA


# The same text whatever it is cut into


@pytest.mark.parametrize("streams", [2, 3, 7])
@pytest.mark.parametrize("block", [4, 7, 30])
def test_streams_change_nothing_for_carried_memory(streams: int, block: int) -> None:
    """Two layers that look 5 tokens back: no stream starts with an empty memory."""
    lm, tokens = model(**{**PAPER_MODEL, "span": 5}), text(203)
    alone = evaluate_split(lm, tokens, block=block, streams=1)
    together = evaluate_split(lm, tokens, block=block, streams=streams)
    assert together.tokens == alone.tokens == 203
    assert together.total_nats == pytest.approx(alone.total_nats, rel=1e-6)


@pytest.mark.parametrize(("block", "overlap"), [(16, 0), (16, 5), (7, 6)])
def test_streams_change_nothing_for_blocks(block: int, overlap: int) -> None:
    lm, tokens = model(**ROPE), text(203)
    nats = [
        evaluate_split(lm, tokens, block=block, overlap=overlap, streams=streams).total_nats
        for streams in (1, 2, 3, 8, 50)
    ]
    assert nats == pytest.approx([nats[0]] * 5, rel=1e-6)


@pytest.fixture(scope="module")
def stores(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenStore]:
    """One text as bytes, words and pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    pieces = prepare(
        str(corpus_dir / "sources.txt"), folder / "store", tokenizer="sentencepiece", vocab_size=400
    )
    found = {name: TokenStore.open(corpus_dir / name) for name in ("sources", "words")}
    return {"bytes": found["sources"], "words": found["words"], "pieces": pieces}


def fields(store: TokenStore, probability_V: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What is reported of a model that predicts the same distribution everywhere."""
    vocabulary = store.manifest.vocab_size
    lm = LanguageModel(recipe(model={"bias": True, "pattern": "f", "repeats": 1}), vocabulary)
    torch.nn.init.zeros_(lm.output.weight)
    lm.output.bias.data = torch.from_numpy(probability_V).log().float()
    result = evaluate_split(lm, store.split("test"), block=64, streams=8)
    return result.on_split("test", store.manifest)


@pytest.mark.parametrize("settings", [PAPER_MODEL, ROPE], ids=["relative", "rope"])
@pytest.mark.parametrize("kind", ["bytes", "words", "pieces"])
def test_what_a_word_costs_does_not_depend_on_how_its_text_is_batched(
    kind: str, settings: dict[str, Any], stores: dict[str, TokenStore]
) -> None:
    store = stores[kind]
    lm = LanguageModel(recipe(model=settings), store.manifest.vocab_size)
    found = [
        evaluate_split(lm, store.split("test"), block=32, streams=streams).on_split(
            "test", store.manifest
        )
        for streams in (1, 3, 8)
    ]
    first = found[0]
    assert first["word_perplexity"] > 1  # of whole words, whatever they are cut into
    for name in ("word_perplexity", "perplexity", "bits_per_byte"):
        assert [each[name] for each in found] == pytest.approx([first[name]] * 3, rel=1e-3)


def test_a_uniform_model_needs_log2_of_the_vocabulary(stores: dict[str, TokenStore]) -> None:
    texts = {name: store.manifest.splits["test"] for name, store in stores.items()}
    assert len({(text.bytes, text.words) for text in texts.values()}) == 1
    for name, store in stores.items():
        vocabulary, text = store.manifest.vocab_size, texts[name]
        found = fields(store, np.full(vocabulary, 1 / vocabulary))
        bits = text.tokens * math.log2(vocabulary)
        assert found["loss_nats"] == pytest.approx(math.log(vocabulary), rel=1e-6)
        assert found["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
        assert found["bits_per_byte"] == pytest.approx(bits / text.bytes, rel=1e-6)
        assert math.log2(found["word_perplexity"]) == pytest.approx(bits / text.words, rel=1e-6)
        if name == "bytes":
            assert found["bits_per_byte"] == pytest.approx(math.log2(vocabulary), rel=1e-6)
            assert found["bpc"] == found["bits_per_byte"]
        else:
            assert found["bpc"] is None
        if name == "words":
            assert found["word_perplexity"] == found["perplexity"]


def test_bits_per_byte_of_known_distributions(stores: dict[str, TokenStore]) -> None:
    """Models that know how often each token occurs, and nothing else: the entropy of the tokens.
    Longer tokens say more, and bits per byte show it."""
    found = {}
    for name, store in stores.items():
        ids, text = store.split("test"), store.manifest.splits["test"]
        count_V = np.bincount(ids, minlength=store.manifest.vocab_size) + 1e-3
        share_V = count_V / count_V.sum()
        bits = -np.log2(share_V[ids[1:]]).sum() + math.log2(store.manifest.vocab_size)
        found[name] = fields(store, share_V)
        assert found[name]["bits_per_byte"] == pytest.approx(bits / text.bytes, rel=1e-5)
        per_word = math.log2(found[name]["word_perplexity"]) * text.words
        assert per_word == pytest.approx(bits, rel=1e-5)
    ordered = [found[name]["bits_per_byte"] for name in ("words", "pieces", "bytes")]
    assert ordered == sorted(ordered)


def test_fields_by_their_definitions(store: TokenStore) -> None:
    text = store.manifest.splits["valid"]
    result = Evaluation(total_nats=2.0 * text.tokens, tokens=text.tokens, seconds=4.0)
    assert result.on_split("valid", store.manifest) == {
        "split": "valid",
        "loss_nats": 2.0,
        "bpc": pytest.approx(2 / math.log(2)),
        "bits_per_byte": pytest.approx(2 / math.log(2)),
        "perplexity": pytest.approx(math.exp(2)),
        "word_perplexity": pytest.approx(math.exp(2 * text.tokens / text.words)),
        "tokens": text.tokens,
        "tokens_per_s": text.tokens / 4,
    }
    half = Evaluation(result.total_nats / 2, text.tokens // 2, 4.0)
    assert half.on_split("valid", store.manifest)["bits_per_byte"] == pytest.approx(
        2 / math.log(2), rel=1e-3
    )
