"""Runs the dashboard without a terminal, by a clock that stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from textual.binding import Binding
from textual.dom import DOMNode
from textual.pilot import Pilot
from textual.widget import Widget

from simsmoe_cli.monitor.app import Monitor
from simsmoe_cli.monitor.panels import PANELS
from simsmoe_cli.monitor.screens.dashboard import Dashboard
from simsmoe_cli.monitor.state.alerts import Thresholds
from tests.monitor.made_run import BEGAN, STEP_S

NOW = BEGAN + 2000 * STEP_S + 5

LAST_PANEL = str(len(PANELS))  # the key of the events

Scenario = Callable[[Pilot[None]], Awaitable[None]]


def monitor(
    paths: Sequence[Path], runs_dir: Path, *, now: Callable[[], float] = lambda: NOW
) -> Monitor:
    """A monitor that looks at the files twenty times a second."""
    return Monitor(paths, runs_dir, Thresholds(), interval=0.05, clock=now)


def drive(app: Monitor, scenario: Scenario, size: tuple[int, int] = (80, 24)) -> None:
    """Run a scenario once everything has been read."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await ready(pilot)
            await scenario(pilot)

    asyncio.run(run())


async def ready(pilot: Pilot[None]) -> None:
    """Wait until everything that lies there has been read and drawn."""
    screen = pilot.app.screen
    if isinstance(screen, Dashboard):
        await until(pilot, lambda: all(run.caught_up for run in screen.followers) and screen.drawn)
    await pilot.pause()
    await pilot.pause()


async def until(pilot: Pilot[None], condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something to become true, and to be drawn."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            await pilot.pause()
            screen = pilot.app.screen
            while isinstance(screen, Dashboard) and not screen.drawn:
                await pilot.pause(0.02)
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not become true")


def dashboard(pilot: Pilot[None]) -> Dashboard:
    return cast(Dashboard, pilot.app.screen)


def text_of(widget: Widget) -> str:
    """What a widget shows, without its frame."""
    return "\n".join(widget.render_line(y).text.rstrip() for y in range(widget.content_size.height))


def seen(pilot: Pilot[None]) -> str:
    """Everything on the screen."""
    width, height = pilot.app.size
    lines = pilot.app.screen._compositor.render_strips()
    assert len(lines) == height
    return "\n".join("".join(segment.text for segment in line)[:width] for line in lines)


def keys_of(node: type[DOMNode]) -> set[str]:
    """Keys a class and its parents bind, but for what Textual binds itself."""
    found: set[str] = set()
    for parent in node.__mro__:
        ours = parent.__module__.startswith("simsmoe_cli")
        bindings = parent.__dict__.get("BINDINGS", []) if ours else []
        for binding in Binding.make_bindings(bindings):
            assert binding.id, f"{parent.__name__}: {binding.key} has no id"
            assert binding.tooltip, f"{binding.id} says nothing about itself"
            found.add(binding.key)
    return found
