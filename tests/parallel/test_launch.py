"""How a process was started, by the variables that torchrun sets."""

from __future__ import annotations

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.parallel.launch import Launch, launch, require_alone

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def started(patch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in (*TORCHRUN, "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "", "RANK": "7"}])
def test_alone(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    started(monkeypatch, **variables)
    assert launch() == Launch()
    assert launch().alone
    assert launch().first
    require_alone("simsmoe export")


def test_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, **TORCHRUN, TORCHELASTIC_RESTART_COUNT="2", TORCHELASTIC_RUN_ID="job")
    found = launch()
    assert found == Launch(3, 4, 1, 2, restarts=2, run_id="job")
    assert not found.first


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "two"), ("RANK", "4"), ("RANK", "-1"), ("LOCAL_RANK", ""), ("RANK", "1" * 50)],
)
def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    started(monkeypatch, **TORCHRUN | {name: value})
    with pytest.raises(UserError) as caught:
        launch()
    assert caught.value.where == name
