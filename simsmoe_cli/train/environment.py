"""environment.json of a run: versions, machine and command of every session that trained it.

The file is only for information: if it cannot be read, it is renamed and training continues.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli import __version__
from simsmoe_cli.errors import NotPermitted
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json
from simsmoe_cli.run.checkpoint import set_aside
from simsmoe_cli.run.folder import RunDir


def unreadable_sessions(run: RunDir) -> list[str]:
    """The warning about an environment.json that cannot be read."""
    try:
        _sessions(run)
    except NotPermitted as error:
        return [
            f"{run.environment.name}: {error.what}; it is renamed and kept, and training continues"
        ]
    except Unreadable as error:
        return [f"{run.environment.name} {error}; it is renamed and kept, and training continues"]
    return []


def record_session(
    run: RunDir,
    device: torch.device,
    resume_from: Path | None,
    ranks: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Add this process to environment.json.

    Args:
        run: that it trains.
        device: of this process.
        resume_from: the checkpoint it goes on from.
        ranks: number, host and device of every process, if several train.
    """
    sessions = []
    if resume_from is not None:
        try:
            sessions = _sessions(run)
        except (NotPermitted, Unreadable):
            with contextlib.suppress(OSError):
                set_aside(run.environment)
    sessions.append(
        {
            "time": time.time(),
            "command": sys.argv,
            "resumed_from": resume_from.name if resume_from else None,
            "simsmoe": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "pid": os.getpid(),
        }
        | ({"ranks": list(ranks)} if ranks else {})
    )
    atomic.write(run.environment, json.dumps({"sessions": sessions}, indent=1))


def _sessions(run: RunDir) -> list[Any]:
    """The earlier sessions in environment.json; raises Unreadable."""
    try:
        content = read_json(run.environment)
    except FileNotFoundError:
        return []
    sessions = content.get("sessions", []) if isinstance(content, dict) else None
    if not isinstance(sessions, list):
        raise Unreadable("holds no sessions")
    return sessions
