"""Errors for inputs that are not the folder of a Hugging Face model, with advice.

A LoRA adapter, a GGUF file, a pipeline, a download cache, a folder of models or a single file: each
gets an error that says what it is. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import DataError, UserError, counted, printable
from simsmoe_cli.files.untrusted import Unreadable, read_json

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MOST_JSON = 2**28  # bytes; the index of the largest models is a fiftieth of that


def other_folder(folder: Path) -> UserError | None:
    """The error for a folder without config.json, by its contents; None if they are unknown."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        return bad(f"cannot read this folder: {error.strerror}", folder)
    if ADAPTER in names:
        return adapter(folder)
    if "model_index.json" in names:
        return bad(
            "this is a pipeline of several models (model_index.json), not one language model",
            folder,
            "Give the folder of its language model, such as text_encoder, if that has experts.",
        )
    if any(name.endswith(".gguf") for name in names):
        return gguf(folder)
    if any(name.endswith(".safetensors") for name in names):
        return bad(
            "weights, but no config.json that says which model they belong to",
            folder,
            "Copy config.json and the tokenizer of the model into this folder.",
        )
    inside = sorted(
        name for name in names if (folder / name / CONFIG).is_file() and not name.startswith(".")
    )
    snapshots = sorted(path.parent for path in folder.glob(f"snapshots/*/{CONFIG}"))
    if snapshots:
        return bad(
            "this is the download cache of a model, not the model's folder",
            folder,
            f"Give the folder of a snapshot: {printable(snapshots[0], 300)}.",
        )
    if inside:
        return bad(
            f"this folder holds {counted(len(inside), 'model folder')}, but is not one itself",
            folder,
            f"Give one of them: {printable(folder / inside[0], 300)}.",
        )
    return None


def gguf(path: Path) -> UserError:
    """The error for GGUF weights."""
    return bad(
        "the weights are in GGUF, the format of llama.cpp, which is not supported",
        path,
        "Give the folder of the original model: config.json, safetensors and tokenizer.",
    )


def other_file(path: Path) -> UserError:
    """The error for a file given instead of a folder."""
    if path.suffix == ".gguf":
        return gguf(path)
    what = "one file of a model" if path.suffix in (".safetensors", *PICKLED) else "a file"
    return bad(
        f"this is {what}, and a report needs a folder",
        path,
        "Give a run folder, or a model's: config.json, all its safetensors and its tokenizer.",
    )


def adapter(folder: Path) -> UserError:
    """The error for a LoRA adapter, with the model it changes where the folder names it."""
    base: Any = None
    with contextlib.suppress(UserError):
        base = read_object(folder / ADAPTER).get("base_model_name_or_path")
    of = f" for {printable(base)}" if isinstance(base, str) and base else ""
    return bad(
        f"this is an adapter (LoRA){of}: it holds changes to a model's weights, not a model",
        folder,
        "Merge it with PeftModel.from_pretrained(model, folder).merge_and_unload() of the package "
        "peft, save that with save_pretrained and the tokenizer, and give the new folder.",
    )


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder.

    Raises:
        UserError: the file is missing, cannot be read, or is not a JSON object.
    """
    try:
        content = read_json(path, MOST_JSON)
    except (Unreadable, FileNotFoundError) as error:
        reason = str(error) if isinstance(error, Unreadable) else "is gone"
        raise bad(f"{path.name} {reason}", path.parent) from None
    if not isinstance(content, dict):
        raise bad(f"{path.name} is not a JSON object", path.parent)
    return content


def bad(what: str, where: Path, hint: str = "") -> UserError:
    """An error of the files of a model's folder."""
    return DataError(what, where=str(where), hint=hint)
