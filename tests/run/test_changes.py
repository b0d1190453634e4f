"""Settings that differ between two recipes."""

from __future__ import annotations

import pytest

from simsmoe_cli.run.changes import changes_in_words, changes_results, setting_changes
from tests.train.tiny import recipe


def test_each_change_in_words() -> None:
    old = recipe().model_dump(mode="json")
    new = recipe(train={"lr": 0.01, "milestones": [3]}, model={"bias": True}).model_dump(
        mode="json"
    )
    changes = setting_changes(old, new | {"name": "other", "description": "x"})
    assert changes_in_words(changes) == [
        "model.bias false -> true",
        "train.lr 0.001 -> 0.01",
        "train.milestones [] -> [3]",
    ]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.lr", True),
        ("train.seed", True),
        ("train.validate_every", True),
        ("train.log_every", False),
        ("parallel.shard", False),
        ("name", False),
    ],
)
def test_which_settings_results_depend_on(setting: str, expected: bool) -> None:
    assert changes_results(setting) == expected
