"""Reading a step ahead changes when things are read and nothing else."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.io.read_ahead import ReadAhead
from simsmoe_cli.data.streams import TrainStreams

TOKENS = np.random.default_rng(0).integers(0, 255, 500, dtype=np.uint8)


@given(st.lists(st.integers(0, 40), max_size=12), st.sampled_from([None, 3]))
def test_any_order_of_steps_gives_what_reading_gives(
    steps: list[int], shuffle_seed: int | None
) -> None:
    plain, ahead = (TrainStreams(TOKENS, 4, 8, shuffle_seed=shuffle_seed) for _ in range(2))
    read = ReadAhead(ahead.read)
    for step in steps:
        for expected, got in zip(plain.read(step), read(step), strict=True):
            assert torch.equal(torch.as_tensor(expected), torch.as_tensor(got))


def test_the_next_step_is_read_while_this_one_is_used() -> None:
    asked, reached = [], threading.Event()

    def read(step: int) -> str:
        asked.append((step, threading.current_thread() is threading.main_thread()))
        if step == 6:
            reached.set()
        return str(step)

    ahead = ReadAhead(read)
    assert ahead(5) == "5"
    assert reached.wait(10)
    assert ahead(6) == "6"
    assert ahead(7) == "7"
    steps = [step for step, _ in asked]
    assert steps == sorted(set(steps))
    assert not any(in_main for _, in_main in asked)


def test_what_reading_raises_is_raised_for_its_step_alone() -> None:
    def read(step: int) -> int:
        if step == 3:
            raise OSError("the disk is gone")
        return step

    ahead = ReadAhead(read)
    assert ahead(2) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        ahead(3)
    assert ahead(4) == 4


def test_the_thread_ends_with_its_owner() -> None:
    before = set(threading.enumerate())
    ahead = ReadAhead(lambda step: step)
    ahead(0)
    (thread,) = set(threading.enumerate()) - before
    gone = weakref.ref(ahead)
    del ahead
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()
