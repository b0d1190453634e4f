"""Prints what `simsmoe prepare-data` made, what to know about it, and what to do next."""

import shlex
from pathlib import Path
from typing import Any

from rich.table import Table

from simsmoe_cli.cli.options import console, print_json
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.parsers import shown
from simsmoe_cli.data.tasks.store import Task, TaskManifest
from simsmoe_cli.errors import counted

MOST_LABELS_SHOWN = 12


def print_facts(made: TokenStore) -> None:
    """Print the manifest as JSON, without checksums of chunks."""
    without: Any = {"splits": {"__all__": {"chunks": True, "shards": {"__all__": {"chunks"}}}}}
    facts = made.manifest.model_dump(mode="json", exclude=without)
    print_json({"path": str(made.path), "built": made.built, **facts})


def print_summary(store: TokenStore, data_dir: Path) -> None:
    """Print what was prepared, what to know about it, and what to do next."""
    manifest, screen = store.manifest, console()
    done = "Prepared" if store.built else "Already prepared, nothing changed:"
    screen.print(f"{done} {manifest.name} in {store.path}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    documents = manifest.end_id is not None
    plain = documents or manifest.unit == "token"
    tokens = "tokens" if plain else f"tokens ({manifest.unit}s)"
    for heading in (*["documents"] * documents, tokens, "bytes of text", "share"):
        table.add_column(heading, justify="right")
    for split, info in manifest.splits.items():
        share = info.bytes / sum(each.bytes for each in manifest.splits.values())
        counts = [f"{info.documents:,}"] * documents + [f"{info.tokens:,}", f"{info.bytes:,}"]
        table.add_row(split, *counts, f"{share:.1%}")
    screen.print(table)
    own_end = documents and manifest.tokenizer != "huggingface"
    size = f"{manifest.vocab_size - own_end:,} {manifest.unit}s" + " and the end token" * own_end
    screen.print(f"vocabulary: {size} ({manifest.tokenizer})")
    if documents:
        screen.print(_split_note(store), soft_wrap=True)
    for warning in manifest.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    by_name = store.path == data_dir / manifest.name
    corpus = shlex.quote(f"data.corpus={manifest.name if by_name else store.path}")
    command = f"simsmoe pretrain --set {corpus}"
    if manifest.tokenizer != "bytes":
        command += f" --set data.tokenizer={manifest.tokenizer}"
    if by_name and data_dir != Path("data"):
        command += f" --data-dir {shlex.quote(str(data_dir))}"
    screen.print(f"Next: {command}", soft_wrap=True)


def _split_note(store: TokenStore) -> str:
    """How the splits of documents came about, and what counts as a token."""
    manifest = store.manifest
    one_of = round(1 / manifest.settings.held_out) if manifest.settings.held_out else 0
    drawn = (
        f"of every {one_of} consecutive documents of a file one went to each split not given"
        if one_of
        else "splits as given"
    )
    return f"{drawn}; a token ends each document (id {manifest.end_id}), bytes are counted without"


def print_task(task: Task, data_dir: Path) -> None:
    """Print which task was prepared, what to know about it, and what to do next."""
    manifest, screen = task.manifest, console()
    done = "Prepared" if task.built else "Already prepared, nothing changed:"
    screen.print(f"{done} {manifest.name} in {task.path}", soft_wrap=True)
    screen.print(_split_table(manifest))
    many = len(manifest.labels) > MOST_LABELS_SHOWN
    labels = manifest.labels[: MOST_LABELS_SHOWN // 2] if many else manifest.labels
    some = ", ".join(map(shown, labels)) + (", ..." if many else "")
    screen.print(f"{len(manifest.labels)} labels: {some}", soft_wrap=True)
    for name, split in manifest.splits.items():
        if split.also_in_train:
            screen.print(f"note: also in train: {counted(split.also_in_train, 'text')} of {name}")
    for note in manifest.notes:
        screen.print(f"note: {note}", soft_wrap=True)
    for warning in manifest.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    by_name = task.path == data_dir / manifest.name
    named = shlex.quote(str(manifest.name if by_name else task.path))
    command = f"simsmoe finetune --from RUN --task {named}"
    if by_name and data_dir != Path("data"):
        command += f" --data-dir {shlex.quote(str(data_dir))}"
    screen.print(f"Next: {command}", soft_wrap=True)


def _split_table(manifest: TaskManifest) -> Table:
    """The splits with their sizes, and notes on each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for heading in ("examples", "bytes of text", "largest label"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, split in manifest.splits.items():
        about = "reported" if name == manifest.reported else ""
        if split.drawn:
            about = ", ".join(filter(None, (about, f"drawn: {split.drawn}")))
        share = max(split.per_label) / split.examples
        table.add_row(name, f"{split.examples:,}", f"{split.bytes:,}", f"{share:.1%}", about)
    return table
