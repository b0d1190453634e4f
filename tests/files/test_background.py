"""Work in another thread: calls in order, no error swallowed; reading ahead changes no value."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.data.streams import TrainStreams
from simsmoe_cli.files.background import Background, ReadAhead

TOKENS = np.random.default_rng(0).integers(0, 255, 500, dtype=np.uint8)


def submit_all(background: Background, calls: list[Callable[[int], None]]) -> None:
    for number, call in enumerate(calls):
        background.submit(call, number)


def test_calls_are_made_in_order_in_one_other_thread() -> None:
    made: list[tuple[int, threading.Thread]] = []
    with Background() as background:
        for number in range(50):
            background.submit(lambda n: made.append((n, threading.current_thread())), number)
        background.wait()
        assert [number for number, _ in made] == list(range(50))
    (thread,) = {thread for _, thread in made}
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


@pytest.mark.parametrize("ahead", [1, 2])
def test_calls_never_pile_up(ahead: int) -> None:
    """As many as are allowed may be open; the next one is submitted when the first is done."""
    gate, begun = threading.Event(), []
    with Background(ahead) as background:
        background.submit(gate.wait, 60)
        for number in range(1, ahead):
            background.submit(begun.append, number)
        last = threading.Thread(target=lambda: background.submit(begun.append, ahead))
        last.start()
        last.join(0.1)
        assert last.is_alive()
        gate.set()
        last.join(60)
        background.wait()
    assert begun == list(range(1, ahead + 1))


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_failure_is_raised_once_where_calls_are_submitted_and_ends_them(ahead: int) -> None:
    made: list[int] = []

    def fail() -> None:
        raise OSError("the disk is gone")

    with Background(ahead) as background:
        background.submit(fail)
        with pytest.raises(OSError, match="the disk is gone"):
            submit_all(background, [made.append] * 3)
        background.submit(made.append, 4)
        background.wait()
    assert made == []


def test_waiting_raises_what_failed() -> None:
    background = Background()
    background.submit(int, "three")
    with pytest.raises(ValueError, match="three"):
        background.wait()
    background.wait()
    background.close()


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
