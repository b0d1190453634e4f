"""The device to compute on: its choice, its memory, and the error when memory runs out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch

from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError, counted, is_out_of_memory
from simsmoe_cli.model.precision import resolve_precision
from simsmoe_cli.model.rank_cost import rank_cost
from simsmoe_cli.model.size import measure
from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.recipe.schema import Recipe

# Share of a device's memory to plan with; temporary tensors need the rest.
ROOM_TO_PLAN_WITH = 0.7


def choose_device(name: str, launched: Launch | None = None) -> torch.device:
    """The device of a --device value; "auto" takes CUDA if it is available.

    Args:
        name: auto, cpu or cuda.
        launched: of several processes on a machine, each takes a GPU of its own.
    """
    if launched is not None and not launched.alone:
        return _device_of_rank(name, launched)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device '{name}'", where="--device", hint="Use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"no device '{name}' here", where="--device", hint="Use --device auto, or cpu."
        )
    return device


def _device_of_rank(name: str, launched: Launch) -> torch.device:
    """The device of one of several processes."""
    kind = choose_device(name)
    if kind.type == "cpu":
        return kind
    if kind.index is not None:
        raise UserError(
            f"'{name}' is one GPU, and {launched.size} processes train",
            where="--device",
            hint="Use --device cuda; CUDA_VISIBLE_DEVICES says which GPUs a machine gives.",
        )
    gpus = torch.cuda.device_count()
    if launched.local_size > gpus:
        raise UserError(
            f"{launched.local_size} processes on a machine with {counted(gpus, 'GPU')}",
            where="torchrun --nproc-per-node",
            hint=f"Start {gpus} on each machine, or use --device cpu.",
        )
    return torch.device("cuda", launched.local_rank)


def be_deterministic() -> None:
    """Use only algorithms that repeat bit for bit; an operation without one raises an error."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def clear_memory_errors(device: torch.device, hint: str | Callable[[], str]) -> Iterator[None]:
    """Turn every kind of out-of-memory error into one UserError.

    Args:
        hint: advice; a function is called only when memory has run out.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        advice = hint if isinstance(hint, str) else hint()
        raise UserError(
            f"out of memory on {device}", hint=advice, code=EXIT_OUT_OF_MEMORY
        ) from error


def micro_batches_that_fit(
    recipe: Recipe, vocab_size: int, device: torch.device, ranks: int = 1
) -> str:
    """The smallest number of micro-batches that fits into the memory of a device, in words; empty
    if no number fits, or if the memory is not known, as for a model of transformers.

    Args:
        ranks: that train together, each on a device of its own.
    """
    room = device_memory(device)
    if room is None or recipe.huggingface.used:
        return ""
    train = recipe.train
    precision = resolve_precision(train.precision, device)
    for micro_batches in range(train.micro_batches + 1, train.batch + 1):
        problems = recipe.parallel.problems_of(ranks, train.batch, micro_batches)
        if train.batch % micro_batches or any(problems):
            continue
        changed = train.model_copy(update={"micro_batches": micro_batches, "precision": precision})
        smaller = recipe.model_copy(update={"train": changed})
        if ranks > 1:
            needed = rank_cost(smaller, vocab_size, ranks).memory_bytes
        else:
            needed = measure(smaller, vocab_size).training_bytes
        if needed < ROOM_TO_PLAN_WITH * room:
            return (
                f"Use --set train.micro_batches={micro_batches}, which takes about "
                f"{needed / 2**30:.1f} of {room / 2**30:.1f} GiB. "
            )
    return ""


def device_memory(device: torch.device) -> int | None:
    """Bytes that this process may use on a GPU, including those already in use; None on other
    devices."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(index))
    return min(allowed, free + torch.cuda.memory_reserved(index))
