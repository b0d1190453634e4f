"""Writes a trained model as a folder that transformers loads, beside its tokenizer.

The tensors have the names that transformers gives them, and the dtype of the folder that training
started from. `RUN/huggingface` gets the tokenizer when a training begins, and the best weights when
it ends.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.files import atomic
from simsmoe_cli.huggingface.folder import accompanying
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.parallel.sharded import whole
from simsmoe_cli.run.folder import RunDir

FOLDER = "huggingface"  # of a run


def keep_tokenizer(source: Path, run: RunDir) -> None:
    """Copy the tokenizer and what else lies beside weights from a model's folder into a run."""
    out = run.path / FOLDER
    if out.is_dir():
        return
    with atomic.whole_folder(out) as partial:
        for file in accompanying(source):
            shutil.copyfile(file, partial / file.name)


def whole_tensors(body: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a model by name; if ranks share it, all of them must call this."""
    return {name: whole(tensor.detach()) for name, tensor in body.state_dict().items()}


def save_model(
    body: nn.Module, tensors: dict[str, Tensor], dtype: str, beside: Path, out: Path
) -> None:
    """Fill a folder that transformers loads.

    Args:
        body: the model.
        tensors: its `whole_tensors`.
        dtype: of its parameters in the files, such as "bfloat16"; empty: as they are.
        beside: a folder with the tokenizer.
        out: an empty folder.

    Raises:
        UserError: transformers cannot write the model.
        OSError: the disk is full, or the folder cannot be written.
    """
    model: Any = body
    wanted, kept = getattr(torch, dtype, None), model.config.dtype
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for file in accompanying(beside) if beside.is_dir() else []:
        shutil.copyfile(file, out / file.name)
    try:
        if isinstance(wanted, torch.dtype):
            model.config.dtype = wanted
            tensors = {n: t.to(wanted) if n in parameters else t for n, t in tensors.items()}
        with foreign_code("transformers cannot write the model", str(out)):
            model.save_pretrained(out, state_dict=tensors)
    finally:
        model.config.dtype = kept
