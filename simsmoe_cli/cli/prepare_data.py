"""`simsmoe prepare-data`: turns text into a token store, and labelled texts into a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simsmoe_cli.cli.options import DATA_DIR, DataDirOption, JsonOption, console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from simsmoe_cli.data.store import TokenStore
    from simsmoe_cli.data.tasks.store import Task, TaskManifest

MOST_LABELS_SHOWN = 12


CorpusArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="A name from `simsmoe list corpora` or `simsmoe list tasks`, or text of your own: "
        "a file (also .gz, .bz2, .xz), folder, quoted glob, archive (.zip, .tar) or URL.",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|URL",
        help="Read a named corpus or task from here instead of its official host.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND|FOLDER",
        help="bytes, chars, words, sentencepiece, or a Hugging Face model's folder, whose "
        "tokenizer.json is used. Default: words for wikitext, else bytes.",
    ),
]
VocabSizeOption = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=10_000_000,
        help="words: keep the most frequent; sentencepiece: pieces (default 8192).",
    ),
]
VocabOption = Annotated[
    str, typer.Option(help="bytes: those that occur in the corpus, or bytes256 for all.")
]
SpModelOption = Annotated[str, typer.Option(help="sentencepiece: unigram or bpe.")]
VocabFromOption = Annotated[
    str | None,
    typer.Option(
        metavar="STORE", help="Use the tokenizer of another prepared corpus, name or folder."
    ),
]
TextColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of the texts in a task of your own; text if left out."
    ),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of the labels; label if left out. Either option makes a classification "
        "task of a .csv, .tsv or .jsonl file, or of a folder with train, valid and test "
        "files.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(help="Name of the prepared corpus or task. Default: that of the text."),
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder to write to, instead of DATA_DIR/NAME.")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Prepare again what is prepared already.")
]


def prepare_data(
    corpus: CorpusArgument,
    source: SourceOption = None,
    tokenizer: TokenizerOption = None,
    vocab_size: VocabSizeOption = None,
    vocab: VocabOption = "corpus",
    sp_model: SpModelOption = "unigram",
    vocab_from: VocabFromOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    name: NameOption = None,
    out: OutOption = None,
    data_dir: DataDirOption = DATA_DIR,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Prepare text for training, or a classification task for fine-tuning.

    Text is fetched, checked, split, tokenized and stored; a task's texts are stored as they are,
    since the checkpoint to be fine-tuned says how to tokenize them. Preparing the same again
    changes nothing.
    """
    columns = {"text_column": text_column, "label_column": label_column}
    tokens = {
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "vocab": vocab,
        "sp_model": sp_model,
        "vocab_from": vocab_from,
    }
    of_task = _is_task(corpus, columns)
    folder = _folder(corpus, name, out, data_dir, of_task=of_task)
    if of_task:
        _require_no_tokenizer(tokens)
    prepare = _prepare_task if of_task else _prepare_corpus
    common = {"source": source, "force": force, "downloads": data_dir / ".downloads"}
    prepare(corpus, folder, columns if of_task else tokens, common, data_dir, as_json=json)


def _is_task(corpus: str, columns: dict[str, str | None]) -> bool:
    """Whether labelled texts are to be prepared; a UserError for a corpus with columns."""
    from simsmoe_cli.errors import UserError
    from simsmoe_cli.registry import CORPORA, TASKS

    given = [f"--{name.replace('_', '-')}" for name, value in columns.items() if value is not None]
    if given and corpus in CORPORA:
        raise UserError(
            f"{corpus} is a corpus, which has no columns",
            where=given[0],
            hint="Tasks: " + ", ".join(TASKS) + ", or a .csv, .tsv or .jsonl file of your own.",
        )
    return bool(given) or corpus in TASKS


def _folder(
    corpus: str, name: str | None, out: Path | None, data_dir: Path, *, of_task: bool
) -> Path:
    """The output folder: --out, or a name below --data-dir."""
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
    if name is None and of_task:
        name = safe_name(_task_name(corpus))
    if name is None:
        name = corpus if corpus in CORPORA else safe_name(default_name(corpus))
    return data_dir / name


def _prepare_task(
    task: str,
    folder: Path,
    columns: dict[str, Any],
    common: dict[str, Any],
    data_dir: Path,
    *,
    as_json: bool,
) -> None:
    """Prepare labelled texts and print the result."""
    from simsmoe_cli.data.tasks.prepare import prepare_task

    with _Progress() as show:
        made = prepare_task(task, folder, **columns, **common, on_progress=show)
    if as_json:
        facts = made.manifest.model_dump(mode="json")
        print_json({"path": str(made.path), "built": made.built, **facts})
    else:
        _print_task(made, data_dir)


def _prepare_corpus(
    corpus: str,
    folder: Path,
    tokens: dict[str, Any],
    common: dict[str, Any],
    data_dir: Path,
    *,
    as_json: bool,
) -> None:
    """Prepare text and print the result."""
    from simsmoe_cli.data.corpora.prepare import prepare
    from simsmoe_cli.data.store import find_store
    from simsmoe_cli.data.tasks.parsers import table_kind
    from simsmoe_cli.registry import CORPORA

    lender = find_store(tokens["vocab_from"], data_dir) if tokens["vocab_from"] else None
    settings = {**tokens, "vocab_from": lender}
    with _Progress() as show:
        made = prepare(corpus, folder, **settings, **common, on_progress=show)
    if as_json:
        without = {"splits": {"__all__": {"chunks"}}}
        facts = made.manifest.model_dump(mode="json", exclude=without)
        print_json({"path": str(made.path), "built": made.built, **facts})
        return
    _print_summary(made, data_dir)
    files = Path(corpus).iterdir() if Path(corpus).is_dir() else [Path(corpus)]
    if corpus not in CORPORA and any(table_kind(file.name) for file in files):
        flags = "--text-column NAME --label-column NAME"
        console().print(f"note: read as text; with {flags} it is a classification task")


def _require_no_tokenizer(tokens: dict[str, Any]) -> None:
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


def _task_name(task: str) -> str:
    """The name of a task's folder: its own name, or that of its file without suffixes."""
    from simsmoe_cli.data.io.locate import default_name
    from simsmoe_cli.data.tasks.parsers import table_kind
    from simsmoe_cli.registry import TASKS

    name = task if task in TASKS else default_name(task)
    return Path(name).stem if table_kind(name) else name


class _Progress:
    """A bar on stderr while it is a terminal; a new stage replaces the one before."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        stderr = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._bars = Progress(
            *columns, console=stderr, transient=True, disable=not stderr.is_terminal
        )
        self._task = self._bars.add_task("", visible=False)
        self._stage = ""

    def __enter__(self) -> "_Progress":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self._stage = stage
            self._bars.reset(self._task, description=stage, visible=True)
        self._bars.update(self._task, completed=done, total=total)


def _print_summary(store: "TokenStore", data_dir: Path) -> None:
    """Print what was prepared, what to know about it, and what to do next."""
    from rich.table import Table

    manifest, screen = store.manifest, console()
    done = "Prepared" if store.built else "Already prepared, nothing changed:"
    screen.print(f"{done} {manifest.name} in {store.path}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    tokens = "tokens" if manifest.unit == "token" else f"tokens ({manifest.unit}s)"
    for heading in (tokens, "bytes of text", "share"):
        table.add_column(heading, justify="right")
    for split, info in manifest.splits.items():
        share = info.bytes / sum(each.bytes for each in manifest.splits.values())
        table.add_row(split, f"{info.tokens:,}", f"{info.bytes:,}", f"{share:.1%}")
    screen.print(table)
    screen.print(f"vocabulary: {manifest.vocab_size:,} {manifest.unit}s ({manifest.tokenizer})")
    for warning in manifest.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    by_name = store.path == data_dir / manifest.name
    command = f"simsmoe pretrain --set data.corpus={manifest.name if by_name else store.path}"
    if manifest.tokenizer != "bytes":
        command += f" --set data.tokenizer={manifest.tokenizer}"
    if by_name and data_dir != Path("data"):
        command += f" --data-dir {data_dir}"
    screen.print(f"Next: {command}", soft_wrap=True)


def _print_task(task: "Task", data_dir: Path) -> None:
    """Print which task was prepared, what to know about it, and what to do next."""
    from simsmoe_cli.data.tasks.parsers import shown

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
            screen.print(f"note: {split.also_in_train:,} texts of {name} also occur in train")
    for note in manifest.notes:
        screen.print(f"note: {note}", soft_wrap=True)
    for warning in manifest.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    by_name = task.path == data_dir / manifest.name
    command = f"simsmoe finetune --from RUN --task {manifest.name if by_name else task.path}"
    if by_name and data_dir != Path("data"):
        command += f" --data-dir {data_dir}"
    screen.print(f"Next: {command}", soft_wrap=True)


def _split_table(manifest: "TaskManifest") -> "Table":
    """The splits with their sizes, and notes on each."""
    from rich.table import Table

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
