"""The schema of state.json: what no checkpoint may say, whatever its checksum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.files.untrusted import Unreadable, validated
from simsmoe_cli.run.checkpoint_state import State

OLD = Path(__file__).parents[1] / "runs_of_schema_1/runs"


def state(run: str = "base", folder: str = "checkpoints/step-0000008") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OLD / run / folder / "state.json").read_text())
    return found


@pytest.mark.parametrize("run", ["base", "tuned"])
def test_states_that_were_written_are_accepted(run: str) -> None:
    newest = max((OLD / run / "checkpoints").iterdir()).name
    for folder in ("best", f"checkpoints/{newest}"):
        assert validated(State, state(run, folder) | {"of": "another version"}).step > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": -1}, "step: "),
        ({"step": "8"}, "step: "),
        ({"vocab_size": 0}, "vocab_size: "),
        ({"best_loss": float("nan")}, "best_loss: "),
        ({"store": "a\0b"}, "it is not a path"),
        ({"sha256": {"../model.safetensors": "00"}}, "it is not a plain file name"),
        ({"sha256": {"training.safetensors": "00"}}, "it names no file of weights"),
        ({"corpus": None}, "it lacks corpus"),
        ({"events_bytes": None, "precision": None}, "it lacks events_bytes, precision"),
        ({"task": {"name": "t", "labels": [], "fingerprint": "0", "path": "t"}}, "task.labels"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        validated(State, state() | change)
