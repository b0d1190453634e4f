"""A training step never waits on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simsmoe_cli.train.loop import Trainer
from tests.train.test_resume import PAPER_MODEL

# Operators whose result the host reads, or whose shape depends on values.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::item",
    "aten::equal",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
    "aten::allclose",
}


class NoWaiting(TorchDispatchMode):
    """Fails on any operator that would wait on the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        if name in WAITING or name.removesuffix(".default") in WAITING:
            raise AssertionError(f"{name} waits on the device")
        if name.startswith("aten::index.") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            raise AssertionError("indexing by a mask waits on the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("preset", ["none", "published", "paper", "calibrated"])
@pytest.mark.parametrize("model", [PAPER_MODEL, {}], ids=["paper", "modern"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_does_not_wait(
    trainer: Callable[..., Trainer], preset: str, model: dict[str, Any], clip_norm: float
) -> None:
    # f* of 0 makes pairs due in every step, whatever the preset says.
    run = trainer(
        model=model,
        similarity={"preset": preset, "check_every": 0.0, "tokens": 16, "min_tokens": 4},
        train={"clip_norm": clip_norm, "micro_batches": 2},
    )
    run._train_step()
    with NoWaiting():
        run._train_step()
    if preset != "none":
        assert run.window.sums["pairs_due"].item() > 0


def test_the_mode_catches_waiting() -> None:
    x = torch.arange(4.0)
    for wait in (
        lambda: x.sum().item(),
        lambda: x.nonzero(),
        lambda: x[x > 1],
        lambda: bool(x.any()),
    ):
        with pytest.raises(AssertionError, match="waits on the device"), NoWaiting():
            wait()
