"""Prepares a classification task: reads its files, checks them, makes its splits, writes the
folder.

* A task without a validation split gets one: a share DRAWN of each label of train, at least one
  text and never all. The texts with the smallest SHA-256 are drawn, so they are the same whatever
  the order or layout of the files, and equal texts are drawn together.
* Where no test labels are published, the published validation split is reported, as `dev`, and
  another validation split is drawn from train, so that the reported split is never used to choose
  anything. From a single file a test split is drawn first, in the same way, and then a validation
  split.
* Examples are stored in the order of such a hash. The order is the same for all layouts of a task,
  and the first part of a split is a fair sample of it.
* Texts of a reported split that also occur in train are counted, and kept as published.

Like a corpus, a task is built in a partial folder under a lock and renamed when whole. Preparing it
again reads the source again; the same source changes nothing, a different one is an error.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.io.locate import require_exists
from simsmoe_cli.data.io.scratch import clear_os_errors, locked, scratch
from simsmoe_cli.data.prepared import kept, manifest_text
from simsmoe_cli.data.tasks.facts import TaskFacts
from simsmoe_cli.data.tasks.found import Found
from simsmoe_cli.data.tasks.known_tasks import read_known
from simsmoe_cli.data.tasks.own_tables import read_tables
from simsmoe_cli.data.tasks.parsers import Columns, Row, data_error, known_names, shown
from simsmoe_cli.data.tasks.stdlib_snippets import read_packages
from simsmoe_cli.data.tasks.store import (
    TASK,
    Example,
    Task,
    TaskManifest,
    TaskSplit,
    write_split,
)
from simsmoe_cli.errors import UserError, nearest, printable
from simsmoe_cli.files.atomic import whole_folder
from simsmoe_cli.registry import TASKS, load

DRAWN = 0.10


def prepare_task(
    task: str,
    out: Path,
    *,
    source: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    force: bool = False,
    downloads: Path | None = None,
    on_progress: Progress | None = None,
) -> Task:
    """Prepare a task.

    Args:
        task: the name of a known task, or a file, folder, archive or URL of tables.
        out: the folder of the task.
        source: where a known task is read from instead of its official URL.
        text_column: of the user's own tables; None: "text".
        label_column: of the user's own tables; None: "label".
        force: build an existing task again.
        downloads: where official files are kept; None: `.downloads` next to the folder.
        on_progress: called with a stage, the amount done, and the amount in all or None.

    Returns:
        The task; its `built` says whether it was built now or was there already.

    Raises:
        UserError: EXIT_USAGE for contradictory settings, EXIT_DATA for problems with the source or
            the destination, and for an existing task that differs.
    """
    report = on_progress or (lambda stage, done, total: None)
    with clear_os_errors(out):
        out = out if out.name.strip(".") else out.resolve()
        facts = cast(TaskFacts, load("tasks", task)) if task in TASKS else None
        _require_sense(facts, task, source, text_column, label_column)
        columns = None if facts else Columns(text_column or "text", label_column or "label")
        given = source or ("" if facts else task)
        require_exists(given)
        downloads = downloads or out.parent / ".downloads"
        with locked(out, report):
            existing = Task.open(out) if TASK.is_kept(out, force=force) else None
            if existing and existing.manifest.task != (facts.name if facts else ""):
                was, wanted = existing.manifest.task, facts.name if facts else ""
                own = "data of your own"
                raise TASK.differs(existing.path, f"it is {was or own}, not {wanted or own}")
            if existing and facts and facts.downloads and not given and existing.manifest.whole:
                existing.verify()
                return existing
            with scratch(out) as folder:
                if columns:
                    found = read_tables(given, columns, folder, report)
                elif facts and facts.layouts:
                    found = read_known(facts, given, folder, downloads, report)
                else:
                    found = read_packages(given, folder, downloads, report)
                built = folder / "task"
                built.mkdir()
                manifest = _write(built, out.name, found, facts, columns)
                if existing:
                    _require_same(existing, manifest)
                    existing.verify()
                    return existing
                with whole_folder(out, replace=True) as partial:
                    for file in built.iterdir():
                        shutil.move(file, partial / file.name)  # of a link, on another disk
                    (partial / TASK.manifest).write_text(manifest_text(manifest), encoding="utf-8")
            prepared = Task.open(out)
            prepared.built = True
            return prepared


def _require_sense(
    facts: TaskFacts | None,
    task: str,
    source: str | None,
    text_column: str | None,
    label_column: str | None,
) -> None:
    if facts and (text_column or label_column):
        raise UserError(
            f"the columns of {facts.name} are known",
            where="--text-column" if text_column else "--label-column",
            hint="Leave it out, or name your own file instead of the task.",
        )
    if not facts and source:
        raise UserError(
            f"'{printable(task)}' already says what to read",
            where="--source",
            hint="Name a known task with --source, or a path without it.",
        )
    if not facts and (text_column or "text") == (label_column or "label"):
        raise UserError("text and label cannot be one column", where="--label-column")


def _require_same(existing: Task, now: TaskManifest) -> None:
    """Raise a UserError if the existing task differs from the one that would be built now."""
    there = existing.manifest
    if there.fingerprint == now.fingerprint:
        return
    was, is_now = (
        ", ".join(f"{name} {split.examples:,}" for name, split in manifest.splits.items())
        + f" (sha256 {manifest.fingerprint[:12]})"
        for manifest in (there, now)
    )
    raise TASK.differs(existing.path, f"{there.given} gave {was}, the source now gives {is_now}")


def _write(
    folder: Path, name: str, found: Found, facts: TaskFacts | None, columns: Columns | None
) -> TaskManifest:
    """Write the splits, and return the manifest."""
    labels = _labels(found, facts)
    splits, drawn, reported = _splits(found)
    known = {row.text.strip() for row in found.splits["train"]}
    left = {row.text.strip() for row in splits["train"]}
    written: dict[str, TaskSplit] = {}
    position = {label: index for index, label in enumerate(labels)}
    for split, rows in splits.items():
        texts = left if split in drawn else known
        shared = 0 if split == "train" else sum(row.text.strip() in texts for row in rows)
        rows = sorted(rows, key=lambda row: (_rank(row.text, "order"), row.text, row.label))
        examples = [Example(row.text, position[row.label]) for row in rows]
        written[split] = write_split(
            folder, split, examples, len(labels), drawn=drawn.get(split, ""), shared=shared
        )
    return TaskManifest(
        name=name,
        task=facts.name if facts else "",
        whole=found.whole,
        labels=labels,
        reported=reported,
        given=kept(found.given),
        layout=found.layout,
        text_column=kept(columns.text) if columns else "",
        label_column=kept(columns.label or "") if columns else "",
        sources=found.sources,
        splits=written,
        notes=[*(facts.notes if facts else ()), *map(kept, found.notes)],
        warnings=list(map(kept, found.warnings)),
    )


def _labels(found: Found, facts: TaskFacts | None) -> list[str]:
    """The classes in order; UserError for fewer than two, and for labels that train lacks."""
    train = {row.label for row in found.splits["train"]}
    if len(train) == 1:
        what = f"every example of train has the label '{shown(next(iter(train)))}'"
        raise data_error(found.files["train"], 0, what, "A task needs two classes or more.")
    for split, rows in found.splits.items():
        for row in rows:
            if row.label not in train:
                what = f"label '{shown(row.label)}' of {split} never occurs in train"
                hint = nearest(shown(row.label), known_names(sorted(train)))
                raise data_error(found.files[split], row.line, what, hint)
    if facts and facts.classes and len(train) != facts.classes:
        what = f"{len(train)} classes in train, but {facts.name} has {facts.classes}"
        hint = "A part of a task has all classes; prepare others with --label-column as your own."
        raise data_error(found.files["train"], 0, what, hint)
    if facts and facts.labels:
        return list(facts.labels)
    numbers = all(re.fullmatch(r"-?\d+", label) for label in train)
    return sorted(train, key=lambda label: (int(label), label)) if numbers else sorted(train)


def _splits(found: Found) -> tuple[dict[str, list[Row]], dict[str, str], str]:
    """The splits to store, how splits were drawn from train, and the name of the reported split."""
    given = dict(found.splits)
    drawn: dict[str, str] = {}
    reported = "test"
    if "test" not in given and "valid" in given:
        reported = "dev"
        given["dev"] = given.pop("valid")
    size = len(given["train"])
    for split in ("test", "valid"):
        if split not in given and not (split == "test" and reported == "dev"):
            given["train"], given[split] = draw(given["train"], split)
            if not given[split]:
                what = f"{size:,} examples are too few to draw a {split} split from"
                raise data_error(found.files["train"], 0, what, "No label has two examples.")
            drawn[split] = f"{DRAWN:.0%} of each label of train by SHA-256 of the text"
    return {name: given[name] for name in ("train", "valid", reported)}, drawn, reported


def draw(rows: Sequence[Row], split: str) -> tuple[list[Row], list[Row]]:
    """The rows that stay in train and those drawn for a split, both in the given order."""
    by_label: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_label.setdefault(row.label, []).append(index)
    taken: set[int] = set()
    for indices in by_label.values():
        number = min(max(1, round(DRAWN * len(indices))), len(indices) - 1)
        ranked = sorted(indices, key=lambda index: (_rank(rows[index].text, split), index))
        taken.update(ranked[:number])
    stay = [row for index, row in enumerate(rows) if index not in taken]
    return stay, [row for index, row in enumerate(rows) if index in taken]


def _rank(text: str, split: str) -> bytes:
    return hashlib.sha256(f"{split}:{text.strip()}".encode()).digest()
