"""`simsmoe prepare-data`: turns text into a token store, and labelled texts into a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simsmoe_cli.cli.complete import complete_corpora, complete_data
from simsmoe_cli.cli.document_options import (
    DocumentsOption,
    EndTokenOption,
    HeldOutOption,
    JobsOption,
    TestOption,
    ValidationOption,
)
from simsmoe_cli.cli.options import DATA_DIR, DataDirOption, JsonOption, console, print_json
from simsmoe_cli.cli.preparation_choice import (
    kind_of_input,
    only_one,
    output_folder,
    require_documents,
    require_effect,
    require_no_tokenizer,
    source_of_data_set,
)

if TYPE_CHECKING:
    from simsmoe_cli.cli.stage_progress import StageProgress


CorpusArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="A name from `simsmoe list corpora` or `simsmoe list tasks`, or text of your own: "
        "a file (also .gz, .bz2, .xz, .zst), folder, quoted glob, archive (.zip, .tar) or URL. "
        "JSON lines, parquet, and data sets of Hugging Face (hf:OWNER/NAME[:CONFIG]) are read as "
        "documents.",
        autocompletion=complete_data,
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|URL",
        help="Read a named corpus, task or data set from here instead of its official host.",
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
        metavar="STORE",
        help="Use the tokenizer of another prepared corpus, name or folder.",
        autocompletion=complete_corpora,
    ),
]
TextColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of the texts in JSON lines or parquet, or in a task; text if left out.",
    ),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of the labels. Makes a classification task of a .csv, .tsv or .jsonl file, "
        "or of a folder with train, valid and test files; so does --text-column for .csv and "
        ".tsv, with the label in column label.",
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
    documents: DocumentsOption = False,
    validation: ValidationOption = None,
    test: TestOption = None,
    held_out: HeldOutOption = None,
    end_token: EndTokenOption = None,
    jobs: JobsOption = None,
    name: NameOption = None,
    out: OutOption = None,
    data_dir: DataDirOption = DATA_DIR,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Prepare text for training, or a classification task for fine-tuning.

    Text is fetched, checked, split, tokenized and stored; a task's texts are stored as they are,
    since the checkpoint to be fine-tuned says how to tokenize them. Preparing the same again
    changes nothing. Documents are stored in shards; interrupted, the same command goes on after
    the last one.
    """
    columns = {"text_column": text_column, "label_column": label_column}
    tokens = {
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "vocab": vocab,
        "sp_model": sp_model,
        "vocab_from": vocab_from,
    }
    own = {
        "validation": only_one("--validation", validation),
        "test": only_one("--test", test),
        "held_out": held_out,
        "end_token": end_token,
        "jobs": jobs,
    }
    kind = kind_of_input(corpus, columns, documents=documents)
    if kind != "documents":
        require_documents(documents=documents, given=own, kind=kind)
    else:
        require_effect(documents=documents, column=text_column, given=own)
    folder = output_folder(corpus, name, out, data_dir, kind)
    if kind == "documents":
        own["source"] = source_of_data_set(corpus, source)
        own |= {"column": text_column or "text", "plain": documents}
        _prepare_documents(corpus, folder, tokens, own, data_dir, force=force, as_json=json)
        return
    if kind == "task":
        require_no_tokenizer(tokens)
    prepare = _prepare_task if kind == "task" else _prepare_corpus
    common = {"source": source, "force": force, "downloads": data_dir / ".downloads"}
    prepare(corpus, folder, columns if kind == "task" else tokens, common, data_dir, as_json=json)


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
    from simsmoe_cli.cli.preparation_summary import print_task
    from simsmoe_cli.data.tasks.prepare import prepare_task

    with _progress() as show:
        made = prepare_task(task, folder, **columns, **common, on_progress=show)
    if as_json:
        facts = made.manifest.model_dump(mode="json")
        print_json({"path": str(made.path), "built": made.built, **facts})
    else:
        print_task(made, data_dir)


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
    from simsmoe_cli.cli.preparation_summary import print_facts, print_summary
    from simsmoe_cli.data.corpora.prepare import prepare
    from simsmoe_cli.data.store import find_store
    from simsmoe_cli.data.tasks.parsers import table_kind
    from simsmoe_cli.registry import CORPORA

    lender = find_store(tokens["vocab_from"], data_dir) if tokens["vocab_from"] else None
    settings = {**tokens, "vocab_from": lender}
    with _progress() as show:
        made = prepare(corpus, folder, **settings, **common, on_progress=show)
    if as_json:
        print_facts(made)
        return
    print_summary(made, data_dir)
    files = Path(corpus).iterdir() if Path(corpus).is_dir() else [Path(corpus)]
    if corpus not in CORPORA and any(table_kind(file.name) for file in files):
        flags = "--text-column NAME --label-column NAME"
        console().print(f"note: read as text; with {flags} it is a classification task")


def _prepare_documents(
    corpus: str,
    folder: Path,
    tokens: dict[str, Any],
    own: dict[str, Any],
    data_dir: Path,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Prepare documents and print the result."""
    from simsmoe_cli.cli.preparation_summary import print_facts, print_summary
    from simsmoe_cli.data.documents.prepare import HELD_OUT, Documents, prepare_documents
    from simsmoe_cli.data.store import find_store

    documents = Documents(
        corpus,
        own["column"],
        plain=own["plain"],
        validation=own["validation"],
        test=own["test"],
        held_out=HELD_OUT if own["held_out"] is None else own["held_out"],
        end_token=own["end_token"],
        source=own["source"],
    )
    lender = find_store(tokens["vocab_from"], data_dir) if tokens["vocab_from"] else None
    settings = {**tokens, "vocab_from": lender, "jobs": own["jobs"]}
    with _progress() as show:
        made = prepare_documents(documents, folder, **settings, force=force, on_progress=show)
    if as_json:
        print_facts(made)
    else:
        print_summary(made, data_dir)


def _progress() -> "StageProgress":
    from simsmoe_cli.cli.stage_progress import StageProgress

    return StageProgress(console(stderr=True))
