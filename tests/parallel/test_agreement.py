"""Ranks agree on their attempt, whatever earlier ones have left in torchrun's store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from simsmoe_cli.errors import EXIT_RANK_LOST, UserError
from simsmoe_cli.parallel import roll_call
from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.parallel.roll_call import RollCall
from tests.gloo_ranks import place_of

Start = Callable[..., "Future[RollCall]"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts one of three ranks that share a store; gives its place there once it has agreed."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in place_of(0, 3, store.port).items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(8) as threads:

        def begin(rank: int, restarts: int = 0, patience_s: float = 60) -> Future[RollCall]:
            def agree() -> RollCall:
                roll = RollCall(Launch(rank, 3, rank, 3, restarts, "job"))
                roll.agree(patience_s)
                return roll

            return threads.submit(agree)

        yield begin


def together(ranks: list[Future[RollCall]]) -> None:
    """Assert that the ranks write where the others read."""
    rolls = [rank.result() for rank in ranks]
    for number, roll in enumerate(rolls):
        roll.register(f"device {number}")
    for roll in rolls:
        assert [member["device"] for member in roll.members()] == [
            f"device {number}" for number in range(3)
        ]


def test_machines_that_count_differently_meet_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [start(0), start(1), start(2)]
    together(first)
    first[0].result().leave_note(5)
    again = [start(rank, restarts=rank) for rank in (2, 1, 0)]
    together(again[::-1])
    monkeypatch.setattr(roll_call, "PATIENCE_S", 0.1)
    assert again[1].result().explain(RuntimeError("x")).code == EXIT_RANK_LOST  # not the old note


@pytest.mark.parametrize("absent", [0, 2])
def test_a_rank_that_does_not_come_is_named_and_the_next_attempt_goes_well(
    start: Start, absent: int
) -> None:
    came = [start(rank, patience_s=1.0) for rank in range(3) if rank != absent]
    for rank in came:
        with pytest.raises(UserError, match=f"lost contact with rank {absent}") as caught:
            rank.result()
        assert caught.value.code == EXIT_RANK_LOST
    together([start(0), start(1), start(2)])


def test_a_run_is_gone_on_with_until_its_command_ends_well(start: Start) -> None:
    rolls = [rank.result() for rank in (start(0), start(1), start(2))]
    assert rolls[1].remembered_run() is None
    rolls[0].remember_run("/runs/one")
    assert rolls[1].remembered_run() == "/runs/one"
    rolls[0].forget_run()
    assert rolls[2].remembered_run() is None


def test_what_all_ranks_say_is_said_once_before_they_have_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in place_of(0, 3, store.port).items():
        monkeypatch.setenv(name, value)
    ranks = [RollCall(Launch(rank, 3, rank, 3, 0, "job")) for rank in range(3)]
    assert [rank.said_first("wrong") for rank in ranks] == [True, False, False]
