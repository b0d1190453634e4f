"""Folders of tiny Hugging Face mixtures of experts with a tokenizer, and a corpus for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from simsmoe_cli.data.corpora.prepare import prepare
from tests.data.tokenizers.huggingface_files import trained
from tests.huggingface.models import made

WORDS = "the cat sat on a mat and the dog ran to an old barn where it lay down all day "
TEXT = "".join(f"{word} {WORDS[place % 40 :]}\n" for place, word in enumerate(WORDS.split() * 30))
IDS = 300
SETTINGS = (
    "data.corpus=corpus",
    "train.steps=4",
    "train.batch=4",
    "train.micro_batches=2",
    "train.block=16",
    "train.lr=0.01",
    "train.schedule=constant",
    "train.final_lr_ratio=0",
    "train.warmup_steps=0",
    "train.precision=fp32",
    "train.log_every=2",
    "train.validate_every=2",
    "train.validate_blocks=2",
    "train.checkpoint_every=2",
    "train.probe_every=2",
    "train.probe_tokens=64",
    "eval.streams=2",
    "eval.final_blocks=2",
)
SIMILARITY = ("similarity.weight=0.003", "similarity.min_tokens=4", "similarity.tokens=16")


def model_folder(
    kind: str, folder: Path, change: Callable[[nn.Module], object] = lambda model: None
) -> Path:
    """A tiny random model of a kind, changed by a function, with a tokenizer of about 300 ids."""
    from transformers import PreTrainedTokenizerFast

    made(kind, folder, change, vocab_size=IDS + 8)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained("gpt2", TEXT, IDS), unk_token="<unk>", eos_token="<s>"
    )
    tokenizer.save_pretrained(folder)
    return folder


def corpus(folder: Path, data_dir: Path, name: str = "corpus") -> Path:
    """TEXT, encoded with the folder's tokenizer."""
    text = data_dir / "text.txt"
    data_dir.mkdir(parents=True, exist_ok=True)
    text.write_text(TEXT)
    prepare(str(text), data_dir / name, tokenizer=str(folder))
    return data_dir / name


def options(runs: Path, data: Path, *settings: str) -> list[str]:
    """Options of the command line: folders, and the settings of a short training with similarity
    learning."""
    chosen = chosen_by(*SETTINGS, *SIMILARITY, *settings)
    return ["--runs-dir", str(runs), "--data-dir", str(data), *chosen]


def chosen_by(*settings: str) -> list[str]:
    """Options of the command line that choose settings."""
    return [part for setting in settings for part in ("--set", setting)]
