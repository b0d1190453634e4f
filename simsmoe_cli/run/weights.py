"""Loads the tensors of a checkpoint into a model, after comparing their names and shapes.

Shapes are compared before memory is allocated for a model, so a damaged checkpoint cannot ask for a
huge one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from simsmoe_cli.errors import DataError, UserError, listed, printable
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.parallel.sharded import divided_as, local, sharded
from simsmoe_cli.run.checkpoint import damaged, weights_name
from simsmoe_cli.run.checkpoint_state import STATE, TRAINING

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
    require_model(folder / weights_name(state), make)
    model = make().to(device)
    load_weights(folder, state, model)
    return model


def require_model(path: Path, make: Callable[[], nn.Module]) -> None:
    """Raise a UserError unless a model can be built and has the tensors of a weights file.

    No memory is allocated for the model.
    """
    try:
        with torch.device("meta"):
            shapes = make()
    except UserError:
        raise
    except Exception as error:  # a recipe can contradict itself in many ways
        raise damaged(
            path.with_name(STATE), f"no model can be built from its recipe ({error})"
        ) from None
    require_fit(path, shapes)


def require_fit(path: Path, model: nn.Module) -> None:
    """Raise a UserError unless a file of weights has a model's tensors; the model may be on the
    meta device."""
    own = {
        name: (tuple(tensor.shape), _TYPES.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in model.state_dict().items()
    }
    try:
        found = tensors_in(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None
    for names in _tied(model):  # the file has one name of each group
        if any(name in found for name in names):
            own = {name: what for name, what in own.items() if name in found or name not in names}
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
            where=str(path),
            hint="Use the recipe (router, experts, widths) it was trained with.",
        )


def tensors_in(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types (as safetensors calls them) of the tensors of a file, by name.

    Raises:
        SafetensorError, OSError: it cannot be read.
    """
    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in parts.items()
        }


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
    path = folder / weights_name(state)
    require_fit(path, model)
    try:
        if any(sharded(parameter) is not None for parameter in model.parameters()):
            _load_parts(model, path)
        else:
            load_model(model, path, strict=True, device=_device(model))
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None
    for name, parameter in model.named_parameters():
        if not local(parameter).isfinite().all():
            raise damaged(path, f"{name} holds values that are not finite")


def _router(recipe: Mapping[str, Any]) -> str | None:
    """The router that a dumped recipe names; None where the model is one of transformers."""
    router: str | None = recipe["moe"].get("router")
    return router


def _load_parts(model: nn.Module, path: Path) -> None:
    """Fill a model that ranks share: each takes its parts of a file of whole tensors."""
    found = load_file(path)
    for names in _tied(model):
        given = next(found[name] for name in names if name in found)
        found |= dict.fromkeys(names, given)
    own = model.state_dict()
    model.load_state_dict({name: divided_as(tensor, own[name]) for name, tensor in found.items()})


def load_training(folder: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a resumed run needs, on the CPU.

    Raises:
        UserError: they cannot be read, or some are missing.
    """
    path = folder / TRAINING
    if TRAINING not in state["sha256"]:
        raise damaged(folder / STATE, f"it does not name {TRAINING}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise damaged(path, str(error)) from None
    expected = state.get("training_tensors")
    if expected is not None and len(tensors) != expected:
        raise damaged(path, f"it holds {len(tensors)} tensors, not {expected}")
    return tensors


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name."""
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put Adam's state back.

    Raises:
        ValueError: it is not the state of this model's optimizer.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition(".")
        if kind == "optimizer":
            key, _, owner = rest.partition(".")
            by_name.setdefault(owner, {})[key] = tensor
    parameters = dict(model.named_parameters())
    for name, state in by_name.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise ValueError(f"optimizer state of {printable(name)}, which the model does not have")
        shapes = dict.fromkeys(MOMENTS, tuple(parameter.shape)) | {"step": ()}
        found = {key: tuple(tensor.shape) for key, tensor in state.items()}
        kinds = {tensor.dtype for tensor in state.values()}
        if found != shapes or kinds != {torch.float32}:
            raise ValueError(f"the optimizer state of {name} does not have its shape in fp32")
        optimizer.state[parameter] = {
            key: divided_as(value, parameter) if key in MOMENTS else value.to(parameter.device)
            for key, value in state.items()
        }


def _tied(model: nn.Module) -> list[list[str]]:
    """The names of each parameter with several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _words(tensor: tuple[tuple[int, ...], str] | None) -> str:
    if tensor is None:
        return "missing"
    shape, kind = tensor
    return f"{' x '.join(map(str, shape)) or 'a number'} ({kind})"


def _device(model: nn.Module) -> str:
    return str(next(model.parameters()).device)
