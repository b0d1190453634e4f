"""`simsmoe prepare-data`: text in, a token store out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.common import JsonOption, console, print_json

if TYPE_CHECKING:
    from simsmoe_cli.data.store import TokenStore


def prepare_data(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="A name from `simsmoe list corpora`, or text of your own: a file (also .gz, .bz2, "
            ".xz), folder, quoted glob, archive (.zip, .tar) or URL.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL", help="Read a named corpus from here instead of its official host."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="bytes, chars, words or sentencepiece. Default: words for wikitext, else bytes."
        ),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(help="words: keep the most frequent; sentencepiece: pieces (default 8192)."),
    ] = None,
    vocab: Annotated[
        str, typer.Option(help="bytes: those that occur in the corpus, or bytes256 for all.")
    ] = "corpus",
    sp_model: Annotated[str, typer.Option(help="sentencepiece: unigram or bpe.")] = "unigram",
    vocab_from: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="Use the tokenizer of another prepared corpus, name or folder."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the prepared corpus. Default: that of the text.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its folder, instead of DATA_DIR/NAME.")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora lie.")
    ] = Path("data"),
    force: Annotated[
        bool, typer.Option("--force", help="Prepare again what is prepared already.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Prepare text for training: fetch, check, split, tokenize, store.

    Preparing the same again changes nothing.
    """
    from simsmoe_cli.data.prepare import prepare
    from simsmoe_cli.data.sources import default_name
    from simsmoe_cli.data.store import find_store
    from simsmoe_cli.errors import UserError
    from simsmoe_cli.registry import CORPORA

    if name is not None and (out is not None or name != Path(name).name or name.startswith(".")):
        raise UserError(
            "contradicts --out" if out else f"'{name}' is no plain name",
            where="--name",
            hint="--name NAME is a folder below --data-dir, --out DIR one anywhere.",
        )
    name = name or (corpus if corpus in CORPORA else default_name(corpus))
    with _Progress() as show:
        store = prepare(
            corpus,
            out or data_dir / name,
            source=source,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            vocab=vocab,
            sp_model=sp_model,
            vocab_from=find_store(vocab_from, data_dir) if vocab_from else None,
            force=force,
            downloads=data_dir / ".downloads",
            on_progress=show,
        )
    if json:
        facts = store.manifest.model_dump(mode="json")
        print_json({"path": str(store.path), "built": store.built, **facts})
    else:
        _print_summary(store, data_dir)


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

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self._stage = stage
            self._bars.reset(self._task, description=stage, visible=True)
        self._bars.update(self._task, completed=done, total=total)


def _print_summary(store: TokenStore, data_dir: Path) -> None:
    """What was prepared, what to know of it, and what to do next."""
    from rich.table import Table

    manifest, screen = store.manifest, console()
    done = "Prepared" if store.built else "Already prepared, nothing changed:"
    screen.print(f"{done} {manifest.name} in {store.path}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for heading in (f"tokens ({manifest.unit}s)", "bytes of text", "share"):
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
