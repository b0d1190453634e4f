"""The log window: speed by a clock of the test's own."""

from __future__ import annotations

import time

import pytest
import torch

from simsmoe_cli.run.events import Train
from simsmoe_cli.train.log_window import LogWindow


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def closed(window: LogWindow, tokens: int) -> Train:
    return window.close(
        3, tokens=1000, timed_tokens=tokens, lr=0.5, similarity={"weight": 0.25}, in_bits=False
    )


def step(window: LogWindow, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    window.add({"task": torch.tensor(2.0)})
    window.end_step(torch.tensor(1.0))


def test_speed_is_that_of_steps_alone(clock: Clock) -> None:
    window = LogWindow()
    step(window, clock, 0.25)
    with window.clock_paused():
        clock.now += 1000.0
    step(window, clock, 0.75)
    fields = closed(window, 128)
    assert fields["step_ms"] == pytest.approx(500)
    assert fields["tokens_per_s"] == pytest.approx(128)
    step(window, clock, 0.125)
    assert closed(window, 64)["step_ms"] == pytest.approx(125)


def test_steps_of_before_a_restart_count_for_means_and_not_for_speed(clock: Clock) -> None:
    window = LogWindow()
    window.sums = {
        "task": torch.tensor(9.0),
        "grad_norm": torch.tensor(3.0),
        "steps": torch.tensor(3.0),
    }
    clock.now += 50.0
    window.restart_clock()
    step(window, clock, 0.5)
    fields = closed(window, 64)
    assert fields["loss_nats"] == pytest.approx((9 + 2) / 4)
    assert fields["grad_norm"] == pytest.approx(1)
    assert fields["step_ms"] == pytest.approx(500)


def test_slots_of_experts_are_counted_over_windows_until_they_are_forgotten(clock: Clock) -> None:
    window = LogWindow()
    for _ in range(2):
        window.add({"slots.0": torch.tensor([3.0, 0.0]), "slots.1": torch.tensor([1.0, 2.0])})
        step(window, clock, 0.25)
        assert "slots" not in str(closed(window, 64))
    assert window.slots(3) == [[6, 0], [2, 4], []]
    other = LogWindow()  # as of a checkpoint between two events
    saved = {f"window.{name}": value for name, value in window.sums.items()}
    other.restore(saved, torch.device("cpu"))
    assert other.slots(2) == [[6, 0], [2, 4]]
    with pytest.raises(ValueError, match="finite"):
        other.restore({"window.slots.0": torch.tensor(3.0)}, torch.device("cpu"))
    other.forget_slots()
    assert other.slots(2) == [[], []]
