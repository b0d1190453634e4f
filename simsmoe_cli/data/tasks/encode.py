"""Encodes the texts of a task to token ids.

* A text longer than the limit keeps its beginning, or its end if asked for; such texts are counted.
* A character that the tokenizer's vocabulary lacks becomes one space, even if only one of its bytes
  is unknown, or nothing if the vocabulary has no space; text8's own filter does the same. The words
  tokenizer has `<unk>` for unknown words. Both are counted.
* Texts are encoded as they stand; the words tokenizer adds no `<eos>` that is not in the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.words import UNK
from simsmoe_cli.errors import DataError

MOST_SHOWN = 10  # unknown characters or words named in a message


@dataclass(frozen=True)
class Unknown:
    """The characters or words that a tokenizer could not encode.

    Attributes:
        unit: "character" or "word".
        became: the replacement: "a space", "nothing" or "<unk>".
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
        """One line for a user: how many, which ones, and their replacement."""
        shown = " ".join(repr(what) for what in list(self.counts)[:MOST_SHOWN])
        more = " ..." if len(self.counts) > MOST_SHOWN else ""
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
        unknown: the parts that could not be encoded; None if there were none.
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
        The ids; DataError when a text has no token at all.
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
            raise DataError(
                f"text {number + 1} has no token in the checkpoint's vocabulary: "
                f"{examples[number].text[:60]!r}",
                hint="Leave it out, or use a checkpoint of another tokenizer.",
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
    """The words that are encoded as `<unk>` although they are not written `<unk>`."""
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
