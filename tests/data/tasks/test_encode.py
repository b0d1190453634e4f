"""Examples to ids: what is cut, what has no id, and batches that hold every example once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks import encode as task_encode
from simsmoe_cli.data.tasks.encode import EncodedSplit, TaskBatches, encode, evaluation_batches
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.data.tokenizers.chars import CharsTokenizer
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.data.tokenizers.words import WordsTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError


def examples(*texts: str) -> list[Example]:
    return [Example(text, index % 2) for index, text in enumerate(texts)]


def decoded(split: EncodedSplit, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(split.row(index)) for index in range(len(split))]


def test_the_ids_of_every_text_stand_one_after_the_other() -> None:
    split = encode(examples("abc", "ü", "de"), BytesTokenizer(), 10)
    assert split.ids.tolist() == [*b"abc", *"ü".encode(), *b"de"]
    assert split.offsets.tolist() == [0, 3, 5, 7]
    assert split.lengths.tolist() == [3, 2, 2]
    assert split.labels.tolist() == [0, 1, 0]
    assert (split.cut, split.unknown, len(split)) == (0, None, 3)


def test_a_long_text_keeps_its_start_or_its_end() -> None:
    texts = examples("0123456789", "01234", "012345")
    start = encode(texts, BytesTokenizer(), 5)
    assert decoded(start, BytesTokenizer()) == ["01234", "01234", "01234"]
    end = encode(texts, BytesTokenizer(), 5, keep="end")
    assert decoded(end, BytesTokenizer()) == ["56789", "01234", "12345"]
    assert start.cut == end.cut == 2


def test_an_unknown_character_becomes_a_space_as_a_whole_and_is_reported() -> None:
    # Of the two bytes of é, c3 a9, the alphabet has one.
    tokenizer = BytesTokenizer(b"abc \xc3")
    split = encode(examples("aéb", "a\tb\tc", "abc"), tokenizer, 10)
    assert decoded(split, tokenizer) == ["a b", "a b c", "abc"]
    unknown = split.unknown
    assert unknown is not None
    assert unknown.counts == {"\t": 2, "é": 1}
    assert (unknown.unit, unknown.became, unknown.examples) == ("character", "a space", 2)
    assert str(unknown) == (
        "3 of 11 characters in 2 texts are not in the tokenizer's vocabulary "
        "and became a space: '\\t' 'é'"
    )


def test_without_a_space_an_unknown_character_is_left_out() -> None:
    tokenizer = CharsTokenizer("abc")
    split = encode(examples("a b", "cab"), tokenizer, 10)
    assert decoded(split, tokenizer) == ["ab", "cab"]
    assert split.unknown is not None
    assert split.unknown.became == "nothing"
    with pytest.raises(UserError, match="text 2 has no token") as caught:
        encode(examples("a", "xyz"), tokenizer, 10)
    assert caught.value.code == EXIT_DATA


def test_unknown_words_are_reported_and_unk_itself_is_not() -> None:
    tokenizer = WordsTokenizer(["<unk>", "<eos>", "a", "film"])
    split = encode(examples("a good film", "good <unk>\nbad", "a"), tokenizer, 10)
    assert split.ids.tolist() == [2, 0, 3, 0, 0, 1, 0, 2]
    assert split.unknown is not None
    assert split.unknown.counts == {"good": 2, "bad": 1}
    assert (split.unknown.unit, split.unknown.became) == ("word", "<unk>")
    assert (split.unknown.examples, split.unknown.of) == (2, 7)
    assert encode(examples("a film", "a <unk>"), tokenizer, 10).unknown is None


def test_pieces_know_every_text() -> None:
    tokenizer = SentencePieceTokenizer.fit([b"a film of films and of a film\n" * 50], 280, "bpe")
    split = encode(examples("a film", "ü film\t\u4e2d"), tokenizer, 100)
    assert split.unknown is None
    assert decoded(split, tokenizer) == ["a film", "ü film\t\u4e2d"]


def test_a_real_task_under_the_bytes_of_a_real_corpus(
    shared: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    task = prepare_task("banking77", tmp_path / "b", source=str(shared / "data/banking77"))
    tokenizer = TokenStore.open(corpus_dir / "sources").tokenizer
    test = task.split("test")
    split = encode(test, tokenizer, 64)
    assert split.cut == sum(len(example.text) > 64 for example in test) > 0
    assert split.unknown is not None
    known = set(tokenizer.decode(range(tokenizer.vocab_size)))
    missing = {
        c: sum(e.text.count(c) for e in test) for e in test for c in e.text if c not in known
    }
    assert split.unknown.counts == missing
    ranked = list(split.unknown.counts.values())
    assert ranked == sorted(ranked, reverse=True)


def encoded(lengths: list[int]) -> EncodedSplit:
    """Texts of these lengths; every id is 1 + the text it is of."""
    return EncodedSplit(
        np.repeat(np.arange(len(lengths), dtype=np.int32) + 1, lengths),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(lengths), dtype=np.int64) % 3,
        0,
        None,
    )


def require_batch(batch: Any, split: EncodedSplit) -> None:
    lengths = torch.from_numpy(split.lengths)[batch.index]
    assert batch.ids.dtype == batch.labels.dtype == batch.index.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    assert batch.ids.shape == batch.mask.shape == (len(batch.index), int(lengths.max()))
    assert torch.equal(batch.mask, torch.arange(int(lengths.max())) < lengths[:, None])
    assert torch.equal(batch.ids, (batch.index[:, None] + 1) * batch.mask)
    assert torch.equal(batch.labels, batch.index % 3)


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_a_pass_holds_every_example_once(lengths: list[int], size: int, seed: int) -> None:
    split = encoded(lengths)
    batches = TaskBatches(split, size, seed)
    seen = []
    for number in (0, 1):
        read = [batches.read(number * len(batches) + step) for step in range(len(batches))]
        for batch in read:
            require_batch(batch, split)
        seen.append(torch.cat([batch.index for batch in read]))
        assert sorted(seen[-1].tolist()) == list(range(len(lengths)))
        assert sum(len(batch.index) == size for batch in read) >= len(lengths) // size


@given(LENGTHS, st.integers(1, 9))
def test_evaluation_holds_every_example_once(lengths: list[int], size: int) -> None:
    split = encoded(lengths)
    read = list(evaluation_batches(split, size))
    for batch in read:
        require_batch(batch, split)
    order = torch.cat([batch.index for batch in read])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)


def test_any_step_is_read_as_if_all_before_it_had_been() -> None:
    split = encoded([1 + index % 17 for index in range(100)])
    through = TaskBatches(split, 8, seed=5)
    read = [through.read(step) for step in range(3 * len(through))]
    for step in (30, 2, 14, 38):
        again = TaskBatches(split, 8, seed=5).read(step)
        assert torch.equal(again.index, read[step].index)
        assert torch.equal(again.ids, read[step].ids)


def test_passes_and_seeds_differ() -> None:
    split = encoded([5] * 100)
    orders = [
        torch.cat([batches.read(number * len(batches) + step).index for step in range(13)]).tolist()
        for batches in (TaskBatches(split, 8, seed=1), TaskBatches(split, 8, seed=2))
        for number in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_texts_of_a_batch_are_of_like_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_encode, "POOL", 10)
    generator = np.random.default_rng(0)
    split = encoded(generator.integers(1, 500, 400).tolist())
    batches = TaskBatches(split, 8, seed=0)
    read = [batches.read(step) for step in range(len(batches))]
    padded = sum(batch.ids.numel() for batch in read)
    assert padded < 1.15 * len(split.ids)
    shuffled = generator.permutation(400).reshape(-1, 8)
    assert sum(8 * int(split.lengths[row].max()) for row in shuffled) > 1.5 * len(split.ids)
    # Short ones do not all come first.
    widths = [batch.ids.shape[1] for batch in read]
    assert widths != sorted(widths)
