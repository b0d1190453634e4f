"""Every known task has facts that agree with each other."""

from __future__ import annotations

import pytest

from simsmoe_cli.data.tasks.facts import TaskFacts
from simsmoe_cli.registry import TASKS, load


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_the_registry_has_facts_that_agree(name: str) -> None:
    facts: TaskFacts = load("tasks", name)
    assert facts.name == name
    assert len(facts.labels) in (0, facts.classes)
    for layout in facts.layouts:
        assert "train" in layout.files
        assert set(layout.labels.values()) - {""} <= set(facts.labels)
        assert all(file.rows > 0 for file in layout.files.values())
        # Of a file that is not the official one, only the number of rows is known.
        assert layout.official or not any(file.sha256 for file in layout.files.values())
    assert all(download.urls and ":" in download.known_hash for download in facts.downloads)
    assert bool(facts.downloads) == bool(facts.layouts)
