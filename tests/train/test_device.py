"""The device to compute on."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, EXIT_USAGE, UserError
from simsmoe_cli.model.rank_cost import rank_cost
from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.train import device
from simsmoe_cli.train.device import choose_device, clear_memory_errors, micro_batches_that_fit
from tests.train.tiny import recipe

CPU = torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=available: there)
        assert choose_device("auto").type == kind


@pytest.mark.parametrize("name", ["gpu", "cpuu", "meta", "", "cuda:99"])
def test_a_device_there_is_none_of_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device '{name}'") as caught:
        choose_device(name)
    assert (caught.value.code, caught.value.where) == (EXIT_USAGE, "--device")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda", Launch(3, 4, 1, 2)) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="4 processes on a machine with 2 GPUs") as caught:
        choose_device("cuda", Launch(3, 4, 3, 4))
    assert caught.value.code == EXIT_USAGE


def test_running_out_of_memory_is_one_error_with_advice() -> None:
    with pytest.raises(UserError, match=r"out of memory on cpu\. Use less\.") as caught:  # noqa: SIM117
        with clear_memory_errors(CPU, lambda: "Use less."):
            torch.empty(1 << 60, dtype=torch.uint8)
    assert caught.value.code == EXIT_OUT_OF_MEMORY


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"), clear_memory_errors(CPU, ""):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_micro_batches_are_as_few_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = recipe()
    for room, advice in ((None, ""), (1, ""), (1 << 40, "--set train.micro_batches=2, ")):
        monkeypatch.setattr(device, "device_memory", lambda device, room=room: room)
        assert advice in micro_batches_that_fit(tiny, 256, CPU)


def test_several_ranks_are_advised_by_what_each_of_them_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = recipe(train={"batch": 16})
    for parts in (2, 4, 8):
        smaller = made.model_copy(
            update={"train": made.train.model_copy(update={"micro_batches": parts})}
        )
        room = rank_cost(smaller, 256, 2).memory_bytes / device.ROOM_TO_PLAN_WITH + 1
        monkeypatch.setattr(device, "device_memory", lambda device, room=room: room)
        assert f"--set train.micro_batches={parts}, " in micro_batches_that_fit(made, 256, CPU, 2)
    # 16 micro-batches of one sequence leave none for one of two ranks.
    monkeypatch.setattr(device, "device_memory", lambda device: 1 << 40)
    assert (
        micro_batches_that_fit(recipe(train={"batch": 16, "micro_batches": 8}), 256, CPU, 2) == ""
    )


def test_a_model_of_transformers_has_no_known_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "device_memory", lambda device: 1 << 40)
    assert micro_batches_that_fit(recipe(huggingface={"folder": "x"}), 256, CPU) == ""
