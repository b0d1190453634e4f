"""Work done beside the work that feeds it: in order, none lost, no error swallowed."""

from __future__ import annotations

import threading

import pytest

from simsmoe_cli.data.io.background import Beside


def test_calls_are_made_in_order_in_one_other_thread() -> None:
    made: list[tuple[int, threading.Thread]] = []
    with Beside() as beside:
        for number in range(50):
            beside(lambda n: made.append((n, threading.current_thread())), number)
        beside.wait()
        assert [number for number, _ in made] == list(range(50))
    (thread,) = {thread for _, thread in made}
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_at_most_one_call_is_behind() -> None:
    go_on, begun = threading.Event(), []
    with Beside() as beside:
        beside(go_on.wait, 10)
        feeder = threading.Thread(target=lambda: beside(begun.append, 1))
        feeder.start()
        feeder.join(0.05)
        assert feeder.is_alive()
        go_on.set()
        feeder.join(10)
        beside.wait()
    assert begun == [1]


def test_what_a_call_raises_is_raised_where_it_is_awaited() -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    with Beside() as beside:
        beside(fail)
        with pytest.raises(OSError, match="the disk is gone"):
            beside(print)
        with pytest.raises(OSError, match="the disk is gone"):
            beside.wait()
