"""Examples to token ids, and token ids to padded batches.

* A text longer than the limit keeps its beginning, or its end if asked; what is cut is counted.
* A character that the tokenizer's vocabulary lacks (all of it, also when only one of its bytes
  is unknown) becomes one space, or nothing where the vocabulary has no space, as text8's own
  filter would have it. The words tokenizer has `<unk>` for unknown words. Both are counted.
* Texts are encoded as they stand; the words tokenizer adds no `<eos>` that is not in the text.
* A batch holds texts of like length: a pass over the data is shuffled, cut into pools of POOL
  batches, each pool sorted by length and cut into batches, and the batches are shuffled. Which
  texts are in a batch follows from seed and position alone.

Shapes: E examples, B batch, M longest text of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.words import UNK
from simsmoe_cli.errors import EXIT_DATA, UserError

POOL = 64
SHOWN = 10


@dataclass(frozen=True)
class Unknown:
    """What a tokenizer could not encode.

    Attributes:
        unit: "character" or "word".
        became: what stands in its place: "a space", "nothing" or "<unk>".
        counts: how often each occurs in the texts, the most frequent first.
        examples: texts with any.
        of: characters or words in all texts.
    """

    unit: str
    became: str
    counts: dict[str, int]
    examples: int
    of: int

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        """One line for a user: how much, what, and what became of it."""
        shown = " ".join(repr(what) for what in list(self.counts)[:SHOWN])
        more = " ..." if len(self.counts) > SHOWN else ""
        return (
            f"{self.total:,} of {self.of:,} {self.unit}s in {self.examples:,} texts are not in "
            f"the tokenizer's vocabulary and became {self.became}: {shown}{more}"
        )


@dataclass(frozen=True)
class EncodedSplit:
    """The ids of a split's texts.

    Attributes:
        ids: of all texts, one after the other [tokens], int32.
        offsets: where each begins and the last one ends [E + 1], int64.
        labels: [E], int64.
        cut: texts that were longer than the limit.
        unknown: what could not be encoded; None if all could.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    cut: int
    unknown: Unknown | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text [E]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        """The ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def encode(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_tokens: int,
    keep: Literal["start", "end"] = "start",
) -> EncodedSplit:
    """Encode the texts of a split.

    Args:
        examples: of a task's split, at least one.
        tokenizer: that of the checkpoint.
        max_tokens: a longer text is cut to so many tokens, at least 1.
        keep: the end of a longer text that is kept.

    Returns:
        The ids; UserError (EXIT_DATA) when a text has no token at all.
    """
    texts = [example.text for example in examples]
    if tokenizer.unit == "word":
        unknown = _unknown_words(texts, tokenizer)
    else:
        texts, unknown = _encodable(texts, tokenizer)
    rows: list[NDArray[Any]] = []
    cut = 0
    for number, text in enumerate(texts):
        ids = tokenizer.encode(text)
        if not len(ids):
            raise UserError(
                f"text {number + 1} has no token in the checkpoint's vocabulary: "
                f"{examples[number].text[:60]!r}",
                hint="Leave it out, or use a checkpoint of another tokenizer.",
                code=EXIT_DATA,
            )
        if len(ids) > max_tokens:
            cut += 1
            ids = ids[:max_tokens] if keep == "start" else ids[-max_tokens:]
        rows.append(ids)
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in rows], out=offsets[1:])
    labels = np.array([example.label for example in examples], dtype=np.int64)
    return EncodedSplit(np.concatenate(rows).astype(np.int32), offsets, labels, cut, unknown)


def _encodable(texts: list[str], tokenizer: Tokenizer) -> tuple[list[str], Unknown | None]:
    """The texts without characters that the tokenizer has no ids for, and a count of these."""
    missing = tokenizer.missing("".join(sorted(set().union(*texts))))
    if not missing:
        return texts, None
    instead = "" if tokenizer.missing(" ") else " "
    table = str.maketrans(dict.fromkeys(missing, instead))
    affected = [text for text in texts if not set(missing).isdisjoint(text)]
    counts = {character: sum(text.count(character) for text in affected) for character in missing}
    report = Unknown(
        unit="character",
        became="a space" if instead else "nothing",
        counts=dict(sorted(counts.items(), key=lambda item: -item[1])),
        examples=len(affected),
        of=sum(map(len, texts)),
    )
    return [text.translate(table) for text in texts], report


def _unknown_words(texts: Iterable[str], tokenizer: Tokenizer) -> Unknown | None:
    """The words that will be `<unk>` and are not so written."""
    words = [text.encode().split() for text in texts]
    distinct = b" ".join(set().union(*words)).decode()
    missing = {word.encode() for word in tokenizer.missing(distinct)}
    if not missing:
        return None
    counts = Counter(word for text in words for word in text if word in missing)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Unknown(
        unit="word",
        became=UNK,
        counts={word.decode(): count for word, count in ranked},
        examples=sum(not missing.isdisjoint(text) for text in words),
        of=sum(map(len, words)),
    )


@dataclass(frozen=True)
class Batch:
    """Some texts, padded at the end to the length of the longest.

    Attributes:
        ids: [B, M] int64; 0 where there is padding.
        mask: [B, M] bool; False where there is padding.
        labels: [B] int64.
        index: which examples of the split these are [B] int64.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    index: Tensor


class TaskBatches:
    """A split in shuffled batches of like length, pass after pass.

    Args:
        split: E examples.
        batch: B; the last batch of a pass, wherever the shuffle puts it, may hold fewer.
        seed: of the order.
    """

    def __init__(self, split: EncodedSplit, batch: int, seed: int):
        self.split = split
        self.batch = batch
        self.seed = seed
        self._order: tuple[int, list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        """Batches of a pass."""
        return -(-len(self.split) // self.batch)

    def read(self, step: int) -> Batch:
        """The batch of a step, counted from 0 through all passes; any step may be read at once."""
        return collate(self.split, self._pass(step // len(self))[step % len(self)])

    def tokens_read(self, steps: int) -> int:
        """Tokens of the first steps, padding left out."""
        passes, batches = divmod(steps, len(self))
        tokens = passes * len(self.split.ids)
        if batches:
            lengths = self.split.lengths
            tokens += sum(int(lengths[index].sum()) for index in self._pass(passes)[:batches])
        return tokens

    def _pass(self, number: int) -> list[NDArray[np.int64]]:
        known = self._order  # taken once: another thread may be a pass ahead
        if known is None or known[0] != number:
            generator = np.random.default_rng([self.seed, number])
            shuffled = generator.permutation(len(self.split))
            lengths = self.split.lengths
            for pool in _cut(shuffled, POOL * self.batch):
                pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
            batches = _cut(shuffled, self.batch)
            known = number, [batches[i] for i in generator.permutation(len(batches))]
            self._order = known
        return known[1]


def evaluation_batches(split: EncodedSplit, batch: int) -> Iterator[Batch]:
    """Every example of a split once, the shortest first; `index` says which is which."""
    for index in _cut(np.argsort(split.lengths, kind="stable"), batch):
        yield collate(split, index)


def collate(split: EncodedSplit, index: NDArray[np.int64]) -> Batch:
    """The batch of these examples [B]."""
    lengths = split.lengths[index]
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate([split.row(i) for i in index])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(split.labels[index]),
        torch.from_numpy(index.copy()),
    )


def _cut(index: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Views of `size` elements, the last with what is left."""
    return [index[start : start + size] for start in range(0, len(index), size)]
