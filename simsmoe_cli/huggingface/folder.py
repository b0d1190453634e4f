"""Checks a Hugging Face model's folder before any code of transformers sees it.

config.json must be an object; the weights must be complete safetensors in a format that this
machine can read; and no path in the folder may lead out of it. Only headers of weight files are
read. Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from simsmoe_cli.errors import UserError, counted, listed, printable
from simsmoe_cli.huggingface.stored_tensors import StoredTensor, read_header
from simsmoe_cli.huggingface.unsupported import (
    ADAPTER,
    CONFIG,
    PICKLED,
    adapter,
    bad,
    gguf,
    other_folder,
    read_object,
)

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.", "vocab", "merges", "spiece", "sentencepiece", "tekken")
BESIDE_WEIGHTS = (
    *TOKENIZER_FILES,
    "tokenizer_config",
    "special_tokens_map",
    "added_tokens",
    "chat_template",
    "generation_config",
    "LICENSE",
)
# Quantised formats that transformers converts back to plain numbers without a GPU, and the packages
# it needs to do so.
DEQUANTISED: dict[str, tuple[str, ...]] = {
    "mxfp4": (),
    "fp8": ("accelerate",),
    "mxfp8": ("accelerate",),
}


@dataclass(frozen=True)
class ModelFolder:
    """The contents of a model's folder.

    Attributes:
        path: the folder.
        config: config.json.
        tensors: the tensors of its safetensors files by name.
        quantised: the quantisation format of its weights; empty for plain numbers.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    quantised: str

    @property
    def numbers(self) -> int:
        """The number of parameters stored."""
        return sum(tensor.count for tensor in self.tensors.values())

    @property
    def has_tokenizer(self) -> bool:
        """Whether a file of the folder can hold a tokenizer's vocabulary."""
        return any(
            entry.name.startswith(TOKENIZER_FILES) or entry.suffix in (".tiktoken", ".model")
            for entry in self.path.iterdir()
        )


def accompanying(folder: Path) -> list[Path]:
    """The files beside the weights that a changed model keeps: tokenizer, generation settings and
    licence."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and (file.name.startswith(BESIDE_WEIGHTS) or file.suffix in (".tiktoken", ".model"))
    ]


def read_model_folder(folder: Path) -> ModelFolder:
    """Check a model's folder.

    Raises:
        UserError: it does not hold a model, or its files are damaged, incomplete or in a format
            that is not supported.
    """
    if not (folder / CONFIG).is_file():
        raise other_folder(folder) or bad("no config.json of a Hugging Face model here", folder)
    if (folder / ADAPTER).is_file():  # transformers would open the model that the adapter changes
        raise adapter(folder)
    for entry in folder.iterdir():
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            raise bad(f"{printable(entry.name)} is not a regular file", folder)
    config = read_object(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise bad(
            "config.json has no model_type, which says what kind of model this is",
            folder,
            "Give the config.json that these weights were published with.",
        )
    return ModelFolder(folder, config, _tensors(folder), _quantised(config, folder))


def _quantised(config: dict[str, Any], folder: Path) -> str:
    """The format of quantised weights; empty for plain ones."""
    text = config.get("text_config")
    parts = [config, text if isinstance(text, dict) else {}]
    names = ("quantization_config", "compression_config")
    settings = next((part[name] for part in parts for name in names if part.get(name)), None)
    if not settings:
        return ""
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if not isinstance(method, str) or method not in DEQUANTISED:
        how = f" ({printable(method)})" if method else ""
        raise bad(
            f"the weights are quantised{how}, in a format that is not supported",
            folder / CONFIG,
            "Give a folder of the same model in bf16, fp16 or fp32. Supported quantised formats: "
            f"{', '.join(DEQUANTISED)}.",
        )
    return method


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the folder's weights, by name."""
    names = sorted(entry.name for entry in folder.iterdir())
    expected: dict[str, list[str]] = {}
    if INDEX in names and SINGLE not in names:
        for tensor, name in _index(folder / INDEX).items():
            expected.setdefault(name, []).append(tensor)
    elif SINGLE in names:
        expected[SINGLE] = []
    else:
        raise _no_weights(folder, names)
    absent = [name for name in expected if not (folder / name).is_file()]
    if absent:
        raise bad(
            f"{counted(len(absent), 'file')} of the weights missing: {listed(sorted(absent))}",
            folder,
            "Download the folder again; files that are there are kept.",
        )
    stored: dict[str, StoredTensor] = {}
    for name, tensors in sorted(expected.items()):
        found = read_header(folder / name)
        stored |= found
        lost = [tensor for tensor in tensors if tensor not in found]
        if lost:
            raise bad(
                f"{INDEX} names tensors that {printable(name)} does not hold: "
                f"{listed(sorted(lost))}",
                folder,
                "Download the folder again.",
            )
    return stored


def _index(path: Path) -> dict[str, str]:
    """Tensor names and the file that holds each."""
    content = read_object(path)
    file_of = content.get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise bad(f"{INDEX} has no weight_map that says which file holds which tensor", path.parent)
    for name in file_of.values():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise bad(f"{printable(name)} is not a safetensors file", path)
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\x00" in name:
            raise bad(f"{printable(name)} lies outside the folder", path)
    if not isinstance(content.get("metadata"), dict):
        raise bad(
            "no metadata, which transformers needs to read it",
            path,
            'Add "metadata": {} to it, or download it again.',
        )
    return file_of


def _no_weights(folder: Path, names: list[str]) -> UserError:
    """The error for a folder without the safetensors that transformers would open."""
    pickled = [name for name in names if name.endswith(PICKLED)]
    others = [name for name in names if name.endswith(".safetensors")]
    if pickled:
        return bad(
            f"the weights are pickled ({listed(pickled)}), and a pickle can run any code",
            folder,
            "Give a folder with safetensors; on the Hub most models have a version with them.",
        )
    if any(name.endswith(".gguf") for name in names):
        return gguf(folder)
    if others:
        return bad(
            f"the weights ({listed(others)}) are not named {SINGLE} and {INDEX} is missing",
            folder,
            "Download the folder again.",
        )
    return bad(
        f"no weights here: neither {SINGLE} nor {INDEX}", folder, "Download the folder again."
    )
