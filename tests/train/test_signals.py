"""SIGTERM and Ctrl-C as a question between steps."""

from __future__ import annotations

import os
import signal

import pytest

from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM
from simsmoe_cli.train.signals import Stopped, StopSignals


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, EXIT_SIGTERM), (signal.SIGINT, EXIT_SIGINT)]
)
def test_a_signal_is_recorded_until_it_is_asked_for(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        signals.leave_if_asked(3)
        assert not signals.asked
        os.kill(os.getpid(), number)
        assert signals.asked
        with pytest.raises(Stopped) as stop:
            signals.leave_if_asked(4)
    assert (stop.value.signal, stop.value.code, stop.value.step) == (number.name, code, 4)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_leaves_at_once_and_a_second_sigterm_does_not() -> None:
    with StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_with_nothing_left_to_save_a_signal_leaves_at_once() -> None:
    with StopSignals() as signals:
        signals.leave_when_asked(8)
        with pytest.raises(Stopped, match="stopped at step 8"):
            os.kill(os.getpid(), signal.SIGTERM)
