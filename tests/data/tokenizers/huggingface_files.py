"""Files tokenizer.json in the style of well-known models, trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STYLES = ("gpt2", "llama3", "qwen", "mistral", "llama2", "unigram")


def trained(style: str, text: str, size: int = 600) -> tokenizers.Tokenizer:
    """A tokenizer of a style, with a special token that would be added to every text."""
    lines = text.splitlines(keepends=True)
    special = ["<s>", "<unk>"]
    if style in ("gpt2", "llama3", "qwen"):
        made = tokenizers.Tokenizer(models.BPE())
        if style == "gpt2":
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            if style == "qwen":
                made.normalizer = normalizers.NFC()
            regex = Regex(LLAMA3 if style == "llama3" else LLAMA3.replace("{1,3}", ""))
            split = pre_tokenizers.Split(regex, "isolated")
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif style == "unigram":
        made = tokenizers.Tokenizer(models.Unigram())
        made.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, show_progress=False, max_token_length=16
        )
    made.train_from_iterator(lines, trainer)
    if style in ("mistral", "llama2"):  # pieces for bytes are not added tokens
        content = json.loads(made.to_str())
        added = [token for token in content["added_tokens"] if "<0x" not in token["content"]]
        made = tokenizers.Tokenizer.from_str(json.dumps(content | {"added_tokens": added}))
    if style == "llama2":  # the whole text is one word, as in its own file
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    made.add_tokens(["<|user|>"])
    made.enable_truncation(8)
    return made


def model_folder(folder: Path, style: str, text: str) -> Path:
    """A folder with nothing but a tokenizer.json."""
    folder.mkdir(parents=True)
    trained(style, text).save(str(folder / "tokenizer.json"))
    return folder
