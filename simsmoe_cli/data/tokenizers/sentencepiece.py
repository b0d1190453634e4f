"""SentencePiece: pieces of words, unigram (Kudo 1804.10959) or BPE, with byte fallback.

The settings preserve the text: no normalisation, no dummy prefix, all white space kept, and byte
pieces for characters without a piece (such as line ends and tabs). One character is not preserved:
U+2581, which SentencePiece uses for the space itself, is decoded to a space.

Training is deterministic: the sample is fixed and the number of threads is a constant, since the
order of floating-point sums depends on it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import sentencepiece

from simsmoe_cli.data.tokenizers.base import END, Ids, Tokenizer, character_cut, damaged, utf8
from simsmoe_cli.errors import DataError, UserError, printable

THREADS = 2
# A sentence to train on: a line, or a part of a long one that ends between word and space.
SENTENCE = re.compile(r"[^\n]{0,1000} *[^\n ]*")
# What is encoded at once: a word with the spaces before it. No piece reaches beyond, so a text
# has the same ids whole and in blocks, and what was encoded before is looked up.
SEGMENT = re.compile(r" *[^ \n]+|\n| +")
BYTE = re.compile("<0x[0-9A-F]{2}>")
MOST_REMEMBERED = 1 << 17


class SentencePieceTokenizer(Tokenizer):
    """One id per piece of a trained SentencePiece model."""

    kind = "sentencepiece"
    unit = "piece"
    file_name = "sentencepiece.model"

    def __init__(self, model: bytes):
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = int(self._processor.vocab_size())
        end = int(self._processor.eos_id())
        self.end_id = end if end >= 0 else None
        self._ids: dict[str, list[int]] = {}

    @classmethod
    def fit(
        cls, sample: Iterable[bytes], vocab_size: int, model: str, *, ends: bool = False
    ) -> SentencePieceTokenizer:
        """Train on a sample of text.

        Args:
            sample: pieces of text; a character torn at either end of one is dropped.
            vocab_size: pieces in all, the 256 byte pieces with them.
            model: "unigram" or "bpe".
            ends: whether one of the pieces ends documents.
        """
        trained = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_sentences(sample),
                model_writer=trained,
                model_type=model,
                vocab_size=vocab_size,
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                unk_id=0,
                bos_id=-1,
                **({"eos_id": 1, "eos_piece": END} if ends else {"eos_id": -1}),
                pad_id=-1,
                num_threads=THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise _training_error(str(error)) from None
        return cls(trained.getvalue())

    def encode(self, text: str | bytes) -> Ids:
        segments = SEGMENT.findall(utf8(text))
        if new := list(set(segments).difference(self._ids)):
            if len(self._ids) + len(new) > MOST_REMEMBERED:
                self._ids.clear()
                new = list(set(segments))
            self._ids.update(zip(new, self._processor.encode(new), strict=True))
        return np.fromiter(chain.from_iterable(map(self._ids.__getitem__, segments)), self.dtype)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        parts = self._documents(self._checked(ids))
        return END.join(str(self._processor.decode(part.tolist())) for part in parts)

    def token_bytes(self, token: int) -> bytes:
        if self._processor.is_byte(token):
            return bytes([int(self._processor.id_to_piece(token)[3:-1], 16)])
        return self.decode([token]).encode()

    def scored_pieces(self) -> list[tuple[str, float, bool]]:
        """Each piece as text, its score, and whether it is matched in a text (the unknown piece and
        byte pieces are not, nor the end token)."""
        model = self._processor
        return [
            (
                str(model.id_to_piece(token)),
                float(model.get_score(token)),
                not (model.is_byte(token) or model.is_unknown(token) or model.is_control(token)),
            )
            for token in range(self.vocab_size)
        ]

    @property
    def is_unigram(self) -> bool:
        """Scores of a unigram model are log-probabilities, those of BPE ranks: 0, -1, -2, ..."""
        return any(score % 1 for _, score, found in self.scored_pieces() if found)

    @staticmethod
    def safe_cut(block: bytes) -> int:
        if line_end := block.rfind(b"\n") + 1:
            return line_end
        text = block.rstrip(b" ")
        word_end = len(text[: max(0, text.rfind(b" "))].rstrip(b" "))
        return word_end or character_cut(block)

    def dump(self) -> bytes:
        return self._model

    @classmethod
    def load(cls, content: bytes) -> SentencePieceTokenizer:
        if not content:
            raise damaged("the file is empty")
        try:
            tokenizer = cls(content)
            tokens = list(range(tokenizer.vocab_size))
            pieces = tokenizer._processor.id_to_piece(tokens)
            stands_for_byte = tokenizer._processor.is_byte(tokens)
        except (RuntimeError, ValueError, TypeError) as error:
            raise damaged(printable(str(error).strip(" .")) or "it cannot be read") from None
        for piece, is_byte in zip(pieces, stands_for_byte, strict=True):
            if is_byte and not BYTE.fullmatch(piece):
                raise damaged(f"the piece '{printable(piece)}' stands for a byte and names none")
        return tokenizer


def _sentences(sample: Iterable[bytes]) -> Iterator[str]:
    """Training sentences, cut at tabs as well, because the trainer skips sentences with a tab."""
    for block in sample:
        for line in re.split(r"[\n\t\0]", block.decode("utf-8", errors="ignore")):
            yield from (sentence for sentence in SENTENCE.findall(line) if sentence)


def _training_error(message: str) -> UserError:
    """The error for a vocabulary that does not fit the text, with SentencePiece's message on one
    line."""
    if most := re.search(r"set it to a value <= (\d+)", message):
        hint = f"Use --vocab-size {most[1]} or less, or more text."
    elif least := re.search(r"required_chars. \d+ vs (\d+)", message):
        hint = f"Use --vocab-size {least[1]} or more."
    else:
        hint = "Use another --vocab-size, or more text."
    said = message.rpartition("]")[2].partition(". ")[0].strip(" .") or "too little text"
    return DataError(f"sentencepiece cannot be trained: {said.lower()}", hint=hint)
