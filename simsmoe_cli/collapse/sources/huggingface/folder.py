"""A folder that should hold a Hugging Face model, before any code of transformers sees it.

What is checked: config.json is an object; the weights are safetensors, all there and whole; nothing
in the folder leads out of it; and the kind of weights can be read on this machine. Only headers are
read. If a user gives something else than a model folder, the error says what it is and what to do.

Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open

from simsmoe_cli.errors import EXIT_DATA, UserError, listed, printable
from simsmoe_cli.files.untrusted import Unreadable, read_json

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MOST_JSON = 2**28  # bytes; the index of the largest models is a fiftieth of that
LFS_POINTER = b"version https://git-lfs"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER_FILES = ("tokenizer.", "vocab", "merges", "spiece", "sentencepiece", "tekken")
# Formats that transformers turns back into plain numbers without further packages or a GPU, and
# the packages without which it refuses to.
DEQUANTISED: dict[str, tuple[str, ...]] = {
    "mxfp4": (),
    "fp8": ("accelerate",),
    "mxfp8": ("accelerate",),
}
REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class ModelFolder:
    """What the files of a model's folder say.

    Attributes:
        path: of the folder.
        config: config.json.
        files: the safetensors files, in order.
        quantised: the format its weights are stored in; empty for plain numbers.
        tensors: how many tensors the files hold.
        numbers: how many numbers those are.
    """

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    quantised: str
    tensors: int
    numbers: int

    @property
    def has_tokenizer(self) -> bool:
        """Whether a file of the folder can hold a tokenizer's vocabulary."""
        return any(
            entry.name.startswith(TOKENIZER_FILES) or entry.suffix in (".tiktoken", ".model")
            for entry in self.path.iterdir()
        )


def read_model_folder(folder: Path) -> ModelFolder:
    """Check a model's folder.

    Raises:
        UserError: it is no model, or one whose files are damaged, incomplete or of a kind that is
            not read.
    """
    if not (folder / CONFIG).is_file():
        raise other_folder(folder) or _bad("no config.json of a Hugging Face model here", folder)
    if (folder / ADAPTER).is_file():  # transformers would open the model that it changes
        raise _adapter(folder)
    for entry in folder.iterdir():
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            raise _bad(f"{printable(entry.name)} is not a regular file", folder)
    config = _json(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise _bad("config.json has no model_type, which says what kind of model this is", folder)
    quantised = _quantised(config, folder)
    files, sizes = _weights(folder)
    return ModelFolder(folder, config, files, quantised, len(sizes), sum(sizes.values()))


def other_folder(folder: Path) -> UserError | None:
    """What a folder without config.json is, where that can be told."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        return _bad(f"cannot read this folder: {error.strerror}", folder)
    if ADAPTER in names:
        return _adapter(folder)
    if "model_index.json" in names:
        return _bad(
            "this is a pipeline of several models (model_index.json), not one language model",
            folder,
            "Give the folder of its language model, such as text_encoder, if that has experts.",
        )
    if any(name.endswith(".gguf") for name in names):
        return gguf(folder)
    if any(name.endswith(".safetensors") for name in names):
        return _bad(
            "weights, but no config.json that says which model they are of",
            folder,
            "Copy config.json and the tokenizer of the model into this folder.",
        )
    inside = sorted(
        name for name in names if (folder / name / CONFIG).is_file() and not name.startswith(".")
    )
    snapshots = sorted(path.parent for path in folder.glob(f"snapshots/*/{CONFIG}"))
    if snapshots:
        return _bad(
            "this is the download cache of a model, not its folder",
            folder,
            f"Give the folder of a snapshot: {printable(snapshots[0], 300)}.",
        )
    if inside:
        return _bad(
            f"this folder holds {_few(inside, 'model folder')}, and is none itself",
            folder,
            f"Give one of them: {printable(folder / inside[0], 300)}.",
        )
    return None


def gguf(path: Path) -> UserError:
    """The error for GGUF weights."""
    return _bad(
        "weights in GGUF, the format of llama.cpp, which is not read",
        path,
        "Give the folder of the original model: config.json, safetensors and tokenizer.",
    )


def other_file(path: Path) -> UserError:
    """The error for a file given instead of a folder."""
    if path.suffix == ".gguf":
        return gguf(path)
    what = "one file of a model" if path.suffix in (".safetensors", *PICKLED) else "a file"
    return _bad(
        f"this is {what}, and a report needs a folder",
        path,
        "Give a run folder, or a model's: config.json, all its safetensors and its tokenizer.",
    )


def repository(name: str) -> UserError | None:
    """The error for the name of a repository on the Hub, which is not downloaded."""
    if not REPOSITORY.fullmatch(name):
        return None
    short = name.split("/")[1]
    return UserError(
        "no such folder, and nothing is downloaded",
        where=name,
        hint=f"If this is a model on the Hugging Face Hub, download it: "
        f"hf download {name} --local-dir {short}, and give {short}.",
        code=EXIT_DATA,
    )


def _adapter(folder: Path) -> UserError:
    base: Any = None
    with contextlib.suppress(UserError):
        base = _json(folder / ADAPTER).get("base_model_name_or_path")
    of = f" of {printable(base)}" if isinstance(base, str) and base else ""
    return _bad(
        f"this is an adapter (LoRA){of}, which holds changes to a model and no model",
        folder,
        "Merge it with PeftModel.from_pretrained(model, folder).merge_and_unload() of the package "
        "peft, save that with save_pretrained and the tokenizer, and give the new folder.",
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = read_json(path, MOST_JSON)
    except (Unreadable, FileNotFoundError) as error:
        reason = str(error) if isinstance(error, Unreadable) else "is gone"
        raise _bad(f"{path.name} {reason}", path.parent) from None
    if not isinstance(content, dict):
        raise _bad(f"{path.name} is not a JSON object", path.parent)
    return content


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
        raise _bad(
            f"the weights are quantised{how}, and cannot be read as numbers",
            folder / CONFIG,
            "Give a folder of the same model in bf16, fp16 or fp32. Of quantised ones "
            f"{', '.join(DEQUANTISED)} are read.",
        )
    return method


def _weights(folder: Path) -> tuple[tuple[Path, ...], dict[str, int]]:
    """The weights' files, each with a whole header, and how many numbers each tensor holds."""
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
        raise _bad(
            f"{_few(absent, 'file')} of the weights missing: {_listed(absent)}",
            folder,
            "Download the folder again; files that are there are kept.",
        )
    sizes: dict[str, int] = {}
    for name, tensors in expected.items():
        found = _tensors(folder / name)
        sizes |= found
        lost = [tensor for tensor in tensors if tensor not in found]
        if lost:
            raise _bad(
                f"{INDEX} names tensors that {printable(name)} does not hold: {_listed(lost)}",
                folder,
                "Download the folder again.",
            )
    return tuple(folder / name for name in sorted(expected)), sizes


def _index(path: Path) -> dict[str, str]:
    """Tensor names and the file that holds each."""
    content = _json(path)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise _bad(
            f"{INDEX} has no weight_map that says which file holds which tensor", path.parent
        )
    for name in places.values():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise _bad(f"{printable(name)} is not a safetensors file", path)
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\x00" in name:
            raise _bad(f"{printable(name)} lies outside the folder", path)
    if not isinstance(content.get("metadata"), dict):
        raise _bad("no metadata, without which transformers does not read it", path)
    return places


def _tensors(path: Path) -> dict[str, int]:
    """The sizes of the tensors in a file of safetensors, whose header fits its length."""
    try:
        with open(path, "rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise _bad(
                    "a pointer of Git LFS, not weights", path, "Fetch the file: git lfs pull."
                )
        with safe_open(path, framework="numpy") as opened:
            names = list(opened.keys())
            return {name: math.prod(opened.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise _bad(f"cannot be read: {error.strerror or printable(error)}", path) from None
    except UserError:
        raise
    except Exception as error:
        raise _bad(
            f"damaged or cut short: {printable(error)}", path, "Download the file again."
        ) from None


def _no_weights(folder: Path, names: list[str]) -> UserError:
    """The error for a folder without the safetensors that transformers would open."""
    pickled = [name for name in names if name.endswith(PICKLED)]
    others = [name for name in names if name.endswith(".safetensors")]
    if pickled:
        return _bad(
            f"the weights are pickled ({_listed(pickled)}), and pickles can run any code",
            folder,
            "Give a folder with safetensors; on the Hub most models have a version with them.",
        )
    if any(name.endswith(".gguf") for name in names):
        return gguf(folder)
    if others:
        return _bad(
            f"the weights ({_listed(others)}) are not named {SINGLE} and {INDEX} is missing", folder
        )
    return _bad(f"no weights here: neither {SINGLE} nor {INDEX}", folder)


def _bad(what: str, where: Path, hint: str = "") -> UserError:
    return UserError(what, where=str(where), hint=hint, code=EXIT_DATA)


def _few(names: list[str], what: str) -> str:
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    return listed(sorted(names))
