"""Writes a tokenizer as the `tokenizer.json` that Hugging Face's tokenizers and transformers read.

A text gets the same ids as here, with exceptions that do not occur in our known corpora: * bytes,
chars: characters that are not in the vocabulary are left out there, and are an error here.
* <|endoftext|>, where it ends documents: its name in a text is read as the end token there.
* words: ids decode to words with one space between them, and `<eos>` does not become a line end.
* pieces of a BPE model: where pieces overlap and can be merged in two ways, the order of merges may
  differ.
"""

from __future__ import annotations

import json
from typing import Any, cast

from simsmoe_cli.data.tokenizers.base import END, Tokenizer
from simsmoe_cli.data.tokenizers.huggingface import HuggingFaceTokenizer, byte_names
from simsmoe_cli.data.tokenizers.sentencepiece import SentencePieceTokenizer
from simsmoe_cli.data.tokenizers.words import EOS, UNK

Json = dict[str, Any]
SPACE = "\u2581"
# A word with the spaces before it, a line end, spaces: what SentencePieceTokenizer encodes at once.
SEGMENT = rf"{SPACE}*[^{SPACE}\n]+|\n|{SPACE}+"
# Where a text spells a piece that SentencePiece never finds in one, it is taken apart.
SPELLED = r"<(?=unk>|0x[0-9A-F]{2}>)"


def fast_tokenizer(tokenizer: Tokenizer) -> Json:
    """The content of tokenizer.json; that of a Hugging Face folder is unchanged."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return cast(Json, json.loads(tokenizer.dump()))
    parts: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [] if tokenizer.end_id is None else [_end(tokenizer.end_id)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
    }
    if isinstance(tokenizer, SentencePieceTokenizer):
        return parts | _pieces(tokenizer)
    size = tokenizer.vocab_size - (tokenizer.end_id is not None)
    content = [tokenizer.token_bytes(token) for token in range(size)]
    if tokenizer.kind == "words":
        return parts | _words([word.decode() for word in content])
    if tokenizer.kind == "chars":
        return parts | {
            "model": _bpe({char.decode(): token for token, char in enumerate(content)}, []),
            "decoder": {"type": "Fuse"},
        }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    names = byte_names()
    return parts | {
        "model": _bpe({names[byte[0]]: token for token, byte in enumerate(content)}, []),
        "pre_tokenizer": byte_level | {"trim_offsets": True},
        "decoder": byte_level | {"trim_offsets": True},
    }


def _end(token: int) -> Json:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": END, **plain, "special": True}


def _bpe(vocab: dict[str, int], merges: list[tuple[str, str]], **more: Any) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [list(pair) for pair in merges],
        **more,
    }


def _words(words: list[str]) -> Json:
    vocab = {EOS if word == "\n" else word: token for token, word in enumerate(words)}
    return {
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": UNK},
        "normalizer": {"type": "Replace", "pattern": {"String": "\n"}, "content": f" {EOS} "},
        "pre_tokenizer": _split(r"[ \t\r\x0b\x0c]+", "Removed"),
    }


def _pieces(tokenizer: SentencePieceTokenizer) -> Json:
    """Spaces become U+2581; words, with the spaces before them, are taken one at a time."""
    pieces = tokenizer.scored_pieces()
    vocab = {piece: token for token, (piece, _, _) in enumerate(pieces)}
    if tokenizer.is_unigram:
        scores = [[piece, score] for piece, score, _ in pieces]
        model = {"type": "Unigram", "unk_id": 0, "vocab": scores, "byte_fallback": True}
    else:
        written = [(piece, score) for piece, score, found in pieces if found]
        merges = _merges(written, vocab)
        model = _bpe(vocab, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True)
    return {
        "model": model,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [_split(SEGMENT, "Isolated"), _split(SPELLED, "Isolated")],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
    }


def _merges(pieces: list[tuple[str, float]], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the best piece first."""
    ranked = sorted(pieces, key=lambda item: -item[1])
    return [
        (piece[:cut], piece[cut:])
        for piece, _ in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]


def _split(regex: str, behavior: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
