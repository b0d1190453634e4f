"""What `simsmoe prepare-data` is to prepare: running text, documents or a task; and where."""

from pathlib import Path
from typing import Any, Literal


def kind_of_input(
    corpus: str, columns: dict[str, str | None], *, documents: bool
) -> Literal["task", "documents", "text"]:
    """What is to be prepared; a UserError for a known corpus with columns."""
    from simsmoe_cli.data.documents.hub import is_hub
    from simsmoe_cli.data.documents.inputs import holds_documents
    from simsmoe_cli.errors import UserError
    from simsmoe_cli.registry import CORPORA, TASKS

    given = [f"--{name.replace('_', '-')}" for name, value in columns.items() if value is not None]
    if given and corpus in CORPORA:
        raise UserError(
            f"{corpus} is a corpus, which has no columns",
            where=given[0],
            hint="Tasks: " + ", ".join(TASKS) + ", or a .csv, .tsv or .jsonl file of your own.",
        )
    if corpus in TASKS or columns["label_column"] is not None:
        return "task"
    if corpus in CORPORA:
        return "text"
    if documents or is_hub(corpus) or holds_documents(corpus, json_files=bool(given)):
        return "documents"
    if not given:
        return "text"
    return "task" if _is_table(corpus) else "documents"


def _is_table(given: str) -> bool:
    """Whether a path or URL names a .csv or .tsv file, or a folder that has one."""
    from simsmoe_cli.data.tasks.parsers import table_kind
    from simsmoe_cli.files.names import names_in

    names = names_in(Path(given)) if Path(given).is_dir() else [given]
    return any(table_kind(name) in ("csv", "tsv") for name in names)


def source_of_data_set(corpus: str, source: str | None) -> str | None:
    """The folder of --source; a UserError beside a path."""
    from simsmoe_cli.data.documents.hub import is_hub
    from simsmoe_cli.errors import UserError

    if source is not None and not is_hub(corpus):
        raise UserError(
            "the path of the documents already says what to read",
            where="--source",
            hint="Leave it out.",
        )
    return source


def require_documents(*, documents: bool, given: dict[str, Any], kind: str) -> None:
    """A UserError for an option that only documents have."""
    from simsmoe_cli.errors import UserError

    flags = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if documents:
        flags.insert(0, "--documents")
    if flags:
        what = "a task" if kind == "task" else "one running text"
        raise UserError(
            f"is for documents, and this is {what}",
            where=flags[0],
            hint="Documents are JSON lines, parquet, or with --documents the files of a folder.",
        )


def only_one(option: str, given: list[str] | None) -> str | None:
    """The value of an option that takes one; a UserError for several."""
    from simsmoe_cli.errors import UserError

    if given and len(given) > 1:
        raise UserError(
            "is given twice",
            where=option,
            hint="Name one folder, or several files by one quoted glob.",
        )
    return given[0] if given else None


def require_effect(*, documents: bool, column: str | None, given: dict[str, Any]) -> None:
    """A UserError for an option that would change nothing about documents."""
    from simsmoe_cli.errors import UserError

    if documents and column is not None:
        raise UserError(
            "has no effect with --documents, where each file is a document",
            where="--text-column",
            hint="For JSON lines or parquet leave --documents out.",
        )
    if given["held_out"] is not None and given["validation"] and given["test"]:
        raise UserError(
            "has no effect where --validation and --test are given",
            where="--held-out",
            hint="Leave it out.",
        )


def require_no_tokenizer(tokens: dict[str, Any]) -> None:
    """A UserError for an option that a task would ignore."""
    from simsmoe_cli.errors import UserError

    left_out = {"vocab": "corpus", "sp_model": "unigram"}
    for name, value in tokens.items():
        if value != left_out.get(name):
            raise UserError(
                "a task is tokenized with the tokenizer of the checkpoint that is fine-tuned",
                where=f"--{name.replace('_', '-')}",
                hint="Leave it out.",
            )


def output_folder(
    corpus: str, name: str | None, out: Path | None, data_dir: Path, kind: str
) -> Path:
    """The output folder: --out, or a name below --data-dir."""
    from simsmoe_cli.data.documents.hub import hub_name, is_hub
    from simsmoe_cli.data.io.locate import default_name
    from simsmoe_cli.errors import UserError
    from simsmoe_cli.files.names import check_name, safe_name
    from simsmoe_cli.registry import CORPORA

    if name is not None and out is not None:
        raise UserError(
            "contradicts --out",
            where="--name",
            hint="--name NAME is a folder below --data-dir, --out DIR one anywhere.",
        )
    if name is not None:
        check_name(name, below="--data-dir")
    if out is not None:
        return out
    if name is None and kind == "task":
        name = safe_name(_task_name(corpus))
    if name is None and kind == "documents":
        name = safe_name(hub_name(corpus) if is_hub(corpus) else _stem(corpus))
    if name is None:
        name = corpus if corpus in CORPORA else safe_name(default_name(corpus))
    return data_dir / (name or "text")


def _task_name(task: str) -> str:
    """The name of a task's folder: its own name, or that of its file without suffixes."""
    from simsmoe_cli.registry import TASKS

    return task if task in TASKS else _stem(task)


def _stem(given: str) -> str:
    """The name of a file, folder or URL, without the suffixes of tables and of compression."""
    from simsmoe_cli.data.documents.inputs import kind_of
    from simsmoe_cli.data.io.locate import default_name
    from simsmoe_cli.data.tasks.parsers import table_kind

    name = default_name(given)
    return Path(name).stem if table_kind(name) or kind_of(name) else name
