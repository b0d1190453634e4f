"""A signal that arrives while it is held back is handled afterwards, once."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from simsmoe_cli.files.held_signals import held_signals

SAYS_IT_IS_BLOCKED = (
    "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set()))"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_handled_after_the_block(number: signal.Signals) -> None:
    handled: list[int] = []
    before = signal.signal(number, lambda *signalled: handled.append(signalled[0]))
    try:
        with held_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert handled == []
        assert handled
        assert set(handled) == {number}
        signal.raise_signal(number)
        assert handled[-1] == number
    finally:
        signal.signal(number, before)


def test_a_process_that_is_started_does_not_get_ctrl_c() -> None:
    with held_signals():
        command = [sys.executable, "-c", SAYS_IT_IS_BLOCKED]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"
