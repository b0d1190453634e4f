"""Writes a dense model as a mixture of experts, one file of weights after the other.

Memory holds the tensors of one file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from simsmoe_cli.errors import DataError, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.huggingface.folder import (
    INDEX,
    SINGLE,
    ModelFolder,
    accompanying,
    read_model_folder,
)
from simsmoe_cli.huggingface.foreign_code import foreign_code, transformers_module
from simsmoe_cli.huggingface.unsupported import CONFIG, read_object
from simsmoe_cli.upcycle.config import (
    layout_of,
    moe_config,
    read_dense_config,
    require_plain_config,
)
from simsmoe_cli.upcycle.experts import DenseMatrix, Settings
from simsmoe_cli.upcycle.plan import Output, outputs, require_dense_weights, shards

SHARD_BYTES = 5 * 10**9
STAGE = "writing experts"
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Upcycled:
    """What was written.

    Attributes:
        architecture: its class in transformers, or "simsmoe".
        parameters: of the whole model.
        active: parameters that a token passes through.
        bytes: of its weights.
    """

    architecture: str
    parameters: int
    active: int
    bytes: int


def silent(stage: str, done: int, total: int | None) -> None:
    """Shows no progress."""


def upcycle(
    dense: Path,
    out: Path,
    settings: Settings,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> Upcycled:
    """Write a dense model as a mixture of experts.

    Args:
        dense: the folder of a Hugging Face model of type llama, mistral, qwen2 or qwen3.
        out: a folder that does not exist yet, or is empty.
        settings: how the experts are made.
        shard_bytes: most bytes of weights in a file.
        progress: called with a stage, the bytes done and the bytes in all.

    Raises:
        UserError: a setting is wrong, the folder cannot be used, `out` is not empty, or the disk
            is too small.
    """
    settings.check()
    _require_places(dense, out)
    transformers = transformers_module()
    if (dense / CONFIG).is_file():
        require_plain_config(read_object(dense / CONFIG), dense)
    folder = read_model_folder(dense)
    layout = layout_of(folder)
    config = read_dense_config(folder, transformers)
    names = require_dense_weights(folder, config, transformers)
    if config.dtype is None:
        stored = folder.tensors[names[0]].dtype
        config.dtype = {"F64": "float64", "F32": "float32", "F16": "float16"}.get(
            stored, "bfloat16"
        )
    tensors = list(outputs(folder, names, layout, settings.experts))
    size = sum(tensor.bytes for tensor in tensors)
    _require_disk(out, size)
    try:
        with atomic.whole_folder(out) as partial:
            with foreign_code("transformers cannot write config.json", str(out)):
                new = moe_config(config, layout, settings.experts, settings.top_k, transformers)
                new.save_pretrained(partial)
            for file in accompanying(dense):
                shutil.copyfile(file, partial / file.name)
            _Writer(folder, settings, config.initializer_range).write(
                partial, shards(tensors, shard_bytes), progress
            )
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else printable(error)
        raise DataError(f"cannot write the model: {reason}", where=str(out)) from None
    experts = sum(tensor.count for tensor in tensors if tensor.role in ("gate", "up", "down"))
    parameters = sum(tensor.count for tensor in tensors)
    idle = experts // settings.experts * (settings.experts - settings.top_k)
    return Upcycled(layout.architecture, parameters, parameters - idle, size)


class _Writer:
    """Makes the tensors and writes them.

    Args:
        folder: of the dense model.
        settings: how experts are made.
        router_std: standard deviation of a new router.
    """

    def __init__(self, folder: ModelFolder, settings: Settings, router_std: float):
        self.folder = folder
        self.settings = settings
        self.router_std = router_std
        self.name, self.dense = "", DenseMatrix(torch.empty(0))

    def write(self, out: Path, files: list[list[Output]], progress: Progress) -> None:
        """Write the files of weights and, if there are several, their index.

        A tensor counts half when it is made, and half when it is written.
        """
        file_of: dict[str, str] = {}
        total = sum(tensor.bytes for tensors in files for tensor in tensors)
        done = 0
        for number, tensors in enumerate(files, start=1):
            name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            name = name if len(files) > 1 else SINGLE
            content = {}
            for tensor in tensors:
                content[tensor.name] = self.made(tensor)
                done += tensor.bytes
                progress(STAGE, done // 2, total)
            save_file(content, out / name, metadata={"format": "pt"})
            done += sum(tensor.bytes for tensor in tensors)
            progress(STAGE, done // 2, total)
            file_of |= dict.fromkeys(content, name)
            del content
        if len(files) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": file_of}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (out / INDEX).write_text(text, encoding="utf-8")

    def made(self, output: Output) -> Tensor:
        """A tensor, in memory of its own."""
        self._read(output.source)
        dtype = self.dense.weight.dtype
        if output.role == "zeros":
            return torch.zeros(output.shape, dtype=dtype)
        if output.role == "router":
            new = torch.randn(output.shape, generator=self.settings.random(output.name))
            return (new * self.router_std).to(dtype)
        if output.role == "copy":
            return self.dense.weight.clone()
        expert = self.dense.expert(
            self.settings, output.name, output.layer, output.expert, out=output.role == "down"
        )
        return expert.mul_(output.scale)

    def _read(self, name: str) -> None:
        """Read a dense tensor, unless it was the last one read."""
        if name != self.name:
            with safe_open(self.folder.tensors[name].file, framework="pt") as file:
                self.dense = DenseMatrix.of(file.get_tensor(name), self.settings)
            self.name = name


def _require_places(dense: Path, out: Path) -> None:
    if not dense.is_dir():
        repository = str(dense)
        download = ""
        if (
            not dense.exists()
            and repository.count("/") == 1
            and not repository.startswith((".", "/"))
        ):
            name = dense.name
            download = (
                "For a repository of the Hugging Face Hub: "
                f"hf download {repository} --local-dir {name}, then simsmoe upcycle {name} OUT"
            )
        raise DataError(
            "is not a folder" if dense.exists() else "no such folder",
            where=str(dense),
            hint=download or "Give a run, or the folder of a dense Hugging Face model.",
        )
    atomic.require_new(out)


def _require_disk(out: Path, size: int) -> None:
    there = Path(out).absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < size:
        raise DataError(
            f"the disk has {free / 1e9:.1f} GB free, and the model needs {size / 1e9:.1f} GB",
            where=str(out),
            hint="Make room, choose another disk, or use fewer --experts.",
        )
