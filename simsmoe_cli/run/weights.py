"""Loads the tensors of a checkpoint into a model, after comparing their names and shapes.

Shapes are compared before memory is allocated for a model, so a damaged checkpoint cannot ask for a
huge one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from simsmoe_cli.errors import DataError, UserError, listed, printable
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.parallel.sharded import bounds, divided_as, local
from simsmoe_cli.run.checkpoint import damaged, training_files, weights_files
from simsmoe_cli.run.checkpoint_state import STATE, TRAINING
from simsmoe_cli.run.tensor_files import TensorFiles

OPTIMIZER = "optimizer."  # what names of its tensors begin with
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, beside its step
_TENSORS_NAMED = 3  # that do not fit, in a message
_TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


M = TypeVar("M", bound=MoEModel)


def open_model(
    folder: Path, state: dict[str, Any], make: Callable[[], M], device: torch.device
) -> M:
    """A model filled from a checkpoint folder or best/.

    Args:
        folder, state: of the checkpoint.
        make: builds the model; called twice, first on the meta device, which allocates no memory.
        device: where to put it.

    Raises:
        UserError: see `load_weights`.
    """
    require_model(weights_files(folder, state), make)
    model = make().to(device)
    load_weights(folder, state, model)
    return model


def require_model(paths: Sequence[Path], make: Callable[[], nn.Module]) -> None:
    """Raise a UserError unless a model can be built and has the tensors of its files of weights.

    No memory is allocated for the model.
    """
    try:
        with torch.device("meta"):
            shapes = make()
    except UserError:
        raise
    except Exception as error:  # a recipe can contradict itself in many ways
        raise damaged(
            paths[0].with_name(STATE), f"no model can be built from its recipe ({error})"
        ) from None
    require_fit(opened(paths), shapes)


def opened(paths: Sequence[Path]) -> TensorFiles:
    """Files of tensors.

    Raises:
        UserError: they cannot be read, or do not belong together.
    """
    try:
        return TensorFiles(paths)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(paths[0], error) from None


def require_fit(files: TensorFiles, model: nn.Module) -> None:
    """Raise a UserError unless files of weights have a model's tensors; the model may be on the
    meta device."""
    own = {
        name: (tuple(tensor.shape), _TYPES.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in model.state_dict().items()
    }
    found = files.found
    own = {name: own[name] for name in own.keys() - other_names(model, found)}
    differ = [
        f"{printable(name, 120)} is {_words(found.get(name))} in the file and "
        f"{_words(own.get(name))} in the model"
        for name in sorted(own | found)
        if found.get(name) != own.get(name)
    ]
    if differ:
        tensors = listed(differ, _TENSORS_NAMED, longest=160, between="; ")
        raise DataError(
            f"the checkpoint's weights do not fit this model: {tensors}",
            where=str(files.paths[0]),
            hint="Use the recipe (router, experts, widths) it was trained with.",
        )


def load_weights(folder: Path, state: dict[str, Any], model: MoEModel) -> None:
    """Fill the model from a checkpoint folder or best/.

    Raises:
        UserError: the weights belong to another model (the message names its router or tensors), or
            they are not finite.
    """
    given = _router(model.recipe.model_dump(include={"moe"}))
    trained = _router(state["recipe"])
    if trained != given:  # tensors of different routers may have equal shapes
        raise DataError(
            f"the checkpoint was trained with router {printable(trained)}, and this model has "
            f"{given}",
            where=str(folder),
            hint=f"Set moe.router to {printable(trained)}.",
        )
    files = opened(weights_files(folder, state))
    require_fit(files, model)
    try:
        fill(model, files, files.found)  # a name that is missing is of a tensor with two names
    except (SafetensorError, OSError) as error:
        raise damaged(files.paths[0], error) from None
    for name, parameter in model.named_parameters():
        if not local(parameter.detach()).isfinite().all():
            raise damaged(files.paths[0], f"{name} holds values that are not finite")


def fill(model: nn.Module, files: TensorFiles, names: Container[str]) -> None:
    """Copy tensors of files into a model, of several ranks each its part.

    Args:
        names: of the tensors; the files have them.

    Raises:
        SafetensorError, OSError: they cannot be read.
    """
    parts = {
        name: divided_as(files.read(name, bounds(tensor)), tensor)
        for name, tensor in model.state_dict().items()
        if name in names
    }
    model.load_state_dict(parts, strict=False)


def _router(recipe: Mapping[str, Any]) -> str | None:
    """The router that a dumped recipe names; None where the model is one of transformers."""
    router: str | None = recipe["moe"].get("router")
    return router


def training_state(folder: Path, state: Mapping[str, Any]) -> TensorFiles:
    """The tensors that a resumed run needs.

    Raises:
        UserError: they cannot be read, or some are missing.
    """
    paths = training_files(folder, state)
    if not paths:
        raise damaged(folder / STATE, f"it does not name {TRAINING}")
    files = opened(paths)
    found, expected = len(files.found), state.get("training_tensors")
    if expected is not None and found != expected:
        raise damaged(paths[0], f"it holds {found} tensors, not {expected}")
    return files


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name."""
    return {
        f"{OPTIMIZER}{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, files: TensorFiles
) -> None:
    """Put Adam's state back.

    Raises:
        ValueError: it is not the state of this model's optimizer.
        SafetensorError, OSError: it cannot be read.
    """
    by_name: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {}
    for full_name, found in files.found.items():
        if full_name.startswith(OPTIMIZER):
            key, _, owner = full_name.removeprefix(OPTIMIZER).partition(".")
            by_name.setdefault(owner, {})[key] = found
    parameters = dict(model.named_parameters())
    for name, state in by_name.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise ValueError(f"optimizer state of {printable(name)}, which the model does not have")
        shapes = dict.fromkeys(MOMENTS, tuple(parameter.shape)) | {"step": ()}
        if state != {key: (shape, "F32") for key, shape in shapes.items()}:
            raise ValueError(f"the optimizer state of {name} does not have its shape in fp32")
        kept = bounds(parameter)
        moments = {key: files.read(f"{OPTIMIZER}{key}.{name}", kept) for key in MOMENTS}
        optimizer.state[parameter] = {
            "step": files.read(f"{OPTIMIZER}step.{name}").to(parameter.device),
            **{key: divided_as(value, parameter) for key, value in moments.items()},
        }


def other_names(model: nn.Module, found: Container[str]) -> set[str]:
    """Names of parameters that files have under another name: each is written once."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name
        for same in names.values()
        if any(name in found for name in same)
        for name in same
        if name not in found
    }


def _words(tensor: tuple[tuple[int, ...], str] | None) -> str:
    if tensor is None:
        return "missing"
    shape, kind = tensor
    return f"{' x '.join(map(str, shape)) or 'a number'} ({kind})"
