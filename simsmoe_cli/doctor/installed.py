"""Checks of packages besides torch, and of the folders for corpora and runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from simsmoe_cli.doctor.finding import Finding, first_line

LITTLE_DISK = 2e9  # bytes

# Packages besides torch: whether training needs them, and what does not work without them.
PACKAGES = {
    "numpy": (True, "nothing can be prepared or trained"),
    "safetensors": (True, "no checkpoint can be written or read"),
    "sentencepiece": (False, "no sentencepiece tokenizer; bytes, chars and words work"),
    "pooch": (False, "corpora cannot be downloaded; prepare-data --source reads files"),
    "textual": (False, "no live dashboard; training still prints its progress"),
    "transformers": (False, "no collapse-report of Hugging Face models (extra hf)"),
    "accelerate": (False, "no collapse-report of Hugging Face models in fp8 (extra hf)"),
    "datasets": (False, "no data sets of Hugging Face in prepare-data (extra hf)"),
    "pyarrow": (False, "no parquet in prepare-data (extra hf)"),
    "zstandard": (False, "no .zst files in prepare-data (extra hf)"),
    "textual-serve": (False, "no dashboard in a browser, monitor --serve (extra serve)"),
}

# Only looked for: importing takes seconds, and they remember a torch that was missing then.
NOT_IMPORTED = {"transformers", "accelerate", "datasets", "pyarrow"}


def package(name: str) -> Finding:
    """Whether a package of `PACKAGES` can be imported."""
    required, cost = PACKAGES[name]
    module = name.replace("-", "_")
    try:
        if name in NOT_IMPORTED:
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named '{module}'")
        else:
            importlib.import_module(module)
        return Finding(name, "ok", importlib.metadata.version(name))
    except (ImportError, OSError) as error:
        status: Literal["broken", "missing"] = "broken" if required else "missing"
        found = f"cannot be imported: {first_line(error)}"
        return Finding(name, status, found, cost, f"python3 -m pip install --upgrade {name}")


def folder(name: str, path: Path, change: str) -> Finding:
    """Whether a folder can be written, and has room; `change` says how to choose another."""
    path = path.absolute()
    at = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=at):
            pass
    except OSError as error:
        return Finding(
            name,
            "broken",
            f"{path}: cannot be written: {error.strerror}",
            "nothing can be prepared or trained",
            f"Correct its permissions, or choose another by {change}.",
        )
    free = shutil.disk_usage(at).free
    found = f"{path}, {free / 1e9:.1f} GB free"
    if free < LITTLE_DISK:
        return Finding(
            name,
            "missing",
            found,
            "a full disk ends a run, with exit code 3",
            f"Free some space, or choose another folder by {change}.",
        )
    return Finding(name, "ok", found)
