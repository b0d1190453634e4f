"""Prepare documents: JSON lines, parquet, plain text files, or a data set of Hugging Face.

An end token follows each document. Documents are encoded by several processes in bounded memory and
written shard by shard: about 256 MiB of text each, and twice as much after every 64 shards, so that
a store has hundreds of files and not tens of thousands. An interrupted preparation goes on after
its last shard (`unfinished.py`). The result depends neither on interruptions nor on the number of
processes.

Preparing again compares names, sizes and times of the files, and reads none of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simsmoe_cli.data.corpora.facts import SPLITS
from simsmoe_cli.data.corpora.prepare import (
    lent_settings,
    require_same_settings,
    tokenizer_settings,
)
from simsmoe_cli.data.corpora.write_store import losses, write_whole
from simsmoe_cli.data.documents.encode import Rules
from simsmoe_cli.data.documents.fit import fit, opened_end, some_text
from simsmoe_cli.data.documents.hub import hub_inputs, is_hub
from simsmoe_cli.data.documents.inputs import Input, Inputs, files_of, find_inputs
from simsmoe_cli.data.documents.shards import write_shards
from simsmoe_cli.data.documents.unfinished import Plan, ShardNote, Unfinished, identities
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.io.scratch import clear_os_errors, locked, scratch
from simsmoe_cli.data.prepared import FileInfo, kept, manifest_text
from simsmoe_cli.data.store import (
    CORPUS,
    SHARDED,
    Manifest,
    Settings,
    Shard,
    SourceInfo,
    SplitInfo,
    TokenStore,
)
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.huggingface import HuggingFaceTokenizer, open_given
from simsmoe_cli.data.tokenizers.names import TOKENIZERS, tokenizer_class
from simsmoe_cli.errors import DataError, UserError, counted

HELD_OUT = 0.05
BYTES_PER_JOB = 1 << 24  # of files, below which another process is not worth its start


@dataclass(frozen=True)
class Documents:
    """What is prepared, besides the choice of a tokenizer.

    Attributes:
        given: a file, folder, glob, archive or URL, or a data set as `hub.py` names it.
        column: the column of the texts.
        plain: read plain text, each file a document.
        validation, test: sources of these splits; None: drawn from the documents.
        held_out: share of the documents in each split that is drawn.
        end_token: of a Hugging Face tokenizer; None: the one its folder names.
        source: a data set: a folder of its files that is read instead.
    """

    given: str
    column: str = "text"
    plain: bool = False
    validation: str | None = None
    test: str | None = None
    held_out: float = HELD_OUT
    end_token: str | None = None
    source: str | None = None

    def rules(self, inputs: Inputs) -> Rules:
        """How documents are assigned to splits: those without files of their own are drawn."""
        given = {file.split for file in inputs.files}
        drawn = tuple(split for split in ("valid", "test") if split not in given)
        return Rules(self.column, drawn, round(1 / self.held_out))


def prepare_documents(
    documents: Documents,
    out: Path,
    *,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    vocab: str = "corpus",
    sp_model: str = "unigram",
    vocab_from: Path | None = None,
    jobs: int | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
) -> TokenStore:
    """Prepare a corpus of documents.

    Args:
        documents: what is read, and how it is split.
        out: the folder of the store.
        tokenizer, vocab_size, vocab, sp_model, vocab_from: as for `corpora.prepare.prepare`.
        jobs: processes that encode; None: one per core, fewer for little text.
        force: build an existing store again.
        on_progress: called with a stage, bytes of files done, and bytes in all or None.

    Returns:
        The store; its `built` says whether it was built now or was there already.

    Raises:
        UserError: EXIT_USAGE for contradictory settings, EXIT_DATA for problems with the files or
            the destination, and for an existing store that differs. Finished shards are kept.
    """
    report = on_progress or (lambda stage, done, total: None)
    kept_hint = "what was prepared is kept: run the same command again to go on."
    with clear_os_errors(out, kept_hint):
        out = out if out.name.strip(".") else out.resolve()
        lent, settings = _tokenizer(documents, tokenizer, vocab_size, vocab, sp_model, vocab_from)
        with locked(out, report):
            existing = TokenStore.open(out) if CORPUS.is_kept(out, force=force) else None
            with scratch(out) as folder:
                inputs = _inputs(documents, folder, report)
                if not documents.rules(inputs).drawn:
                    settings = settings.model_copy(update={"held_out": 0.0})
                if existing:
                    require_same_settings(existing, "", settings)
                    _require_same_files(existing, inputs)
                    return existing
                _write(documents, settings, lent, inputs, out, jobs, report, force=force)
        prepared = TokenStore.open(out)
        prepared.built = True
        return prepared


def _tokenizer(
    documents: Documents,
    tokenizer: str | None,
    vocab_size: int | None,
    vocab: str,
    sp_model: str,
    vocab_from: Path | None,
) -> tuple[Tokenizer | None, Settings]:
    """The tokenizer of a store or a Hugging Face folder, if one is given; and the settings."""
    lender = TokenStore.open(vocab_from) if vocab_from else None
    without_path = {None, *TOKENIZERS} - {HuggingFaceTokenizer.kind}
    given = None if tokenizer in without_path else open_given(str(tokenizer))
    settings = tokenizer_settings(
        None, given.kind if given else tokenizer, vocab_size, vocab, sp_model
    )
    lent: Tokenizer | None = given
    if given:
        given.end_id = opened_end(given, str(tokenizer), documents.end_token)
        sha256 = hashlib.sha256(given.dump()).hexdigest()
        settings = settings.model_copy(update={"vocab_from": sha256})
    elif documents.end_token is not None:
        raise UserError(
            "names a token of a Hugging Face tokenizer; other tokenizers get an end token of their "
            "own",
            where="--end-token",
            hint="Leave it out.",
        )
    if lender:
        settings = lent_settings(lender.manifest, settings, tokenizer_settings(None))
        lent = lender.tokenizer
        if lent.end_id is None:
            raise DataError(
                f"the tokenizer of {lender.manifest.name} has no token that ends documents",
                where="--vocab-from",
                hint="Name a corpus that was prepared from documents, or leave it out.",
            )
    return lent, settings.model_copy(
        update={
            "text_column": "" if documents.plain else kept(documents.column),
            "held_out": documents.held_out,
            "end_token": kept(documents.end_token or ""),
        }
    )


def _inputs(documents: Documents, folder: Path, report: Progress) -> Inputs:
    """The files of all splits."""
    held_out = {"valid": documents.validation, "test": documents.test}
    given = {split: source for split, source in held_out.items() if source is not None}
    if is_hub(documents.given):
        report("look up the data set", 0, None)
        found = hub_inputs(documents.given, documents.column, documents.source, set(given))
    else:
        left_out = [path for source in given.values() for path in files_of(source)]
        found = _located(documents, documents.given, "", folder, report, left_out)
    for split, source in given.items():
        more = _located(documents, source, split, folder, report, [])
        found.files += more.files
        found.warnings += more.warnings
    return found


def _located(
    documents: Documents,
    given: str,
    split: str,
    folder: Path,
    report: Progress,
    left_out: list[Path],
) -> Inputs:
    """The files of one source."""
    unpacked = folder / (split or "all")
    unpacked.mkdir()
    return find_inputs(given, split, unpacked, report, plain=documents.plain, left_out=left_out)


def _require_same_files(store: TokenStore, inputs: Inputs) -> None:
    made_of = store.manifest.source
    if made_of.sha256 != inputs.sha256:
        raise CORPUS.differs(
            store.path,
            f"it was made of {made_of.files:,} files of {made_of.given}; the source now has "
            f"{len(inputs.files):,}, or some were changed or moved since",
        )


def _write(
    documents: Documents,
    settings: Settings,
    lent: Tokenizer | None,
    inputs: Inputs,
    out: Path,
    jobs: int | None,
    report: Progress,
    *,
    force: bool,
) -> None:
    """Write all shards that are missing, and put the store in place."""
    rules = documents.rules(inputs)
    unfinished = Unfinished(out)
    sha256 = "" if lent is None else hashlib.sha256(lent.dump()).hexdigest()
    plan = Plan(
        settings=settings,
        tokenizer=sha256,
        drawn=list(rules.drawn),
        files=identities(inputs.files),
    )
    notes = unfinished.begin(plan, force=force)
    with unfinished.kept():
        tokenizer = lent or _fitted(settings, unfinished, inputs.files, rules, report)
        content = tokenizer.dump()
        if notes and unfinished.tokenizer(tokenizer.file_name) != content:
            notes = unfinished.begin_anew(plan)  # its shards have other ids
        write_whole(unfinished.store / tokenizer.file_name, content)
        if jobs is None:
            usable = getattr(os, "sched_getaffinity", None)
            cores = len(usable(0)) if usable else os.cpu_count() or 1
            streamed = not inputs.size
            jobs = cores if streamed else max(1, min(cores, inputs.size // BYTES_PER_JOB))
        notes += write_shards(unfinished, notes, inputs.files, rules, tokenizer, jobs, report)
    try:
        splits = {split: _split_info(split, notes, inputs.given, rules) for split in SPLITS}
    except UserError:
        unfinished.drop()  # it needs other settings or other files
        raise
    manifest = Manifest(
        schema_version=SHARDED,
        name=out.name,
        whole=True,
        unit=tokenizer.unit,
        tokenizer=tokenizer.kind,
        tokenizer_file=FileInfo.of(tokenizer.file_name, content),
        vocab_size=tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        dtype=tokenizer.dtype.str,
        settings=settings,
        source=SourceInfo(
            given=kept(inputs.given),
            files=len(inputs.files),
            bytes=sum(info.bytes for info in splits.values()),
            sha256=inputs.sha256,
        ),
        splits=splits,
        warnings=[kept(warning) for warning in _warnings(inputs, notes, tokenizer, rules)],
    )
    write_whole(unfinished.store / CORPUS.manifest, manifest_text(manifest).encode())
    files = [info.file for split in splits.values() for info in split.shards]
    unfinished.finish([CORPUS.manifest, tokenizer.file_name, *files])


def _fitted(
    settings: Settings,
    unfinished: Unfinished,
    files: list[Input],
    rules: Rules,
    report: Progress,
) -> Tokenizer:
    """The tokenizer of the documents; that of an interrupted preparation of the same files, if
    there is one."""
    kind = tokenizer_class(settings.tokenizer)
    content = None if unfinished.other_files else unfinished.tokenizer(kind.file_name)
    return fit(settings, files, rules, report) if content is None else kind.load(content)


def _split_info(split: str, notes: list[ShardNote], given: str, rules: Rules) -> SplitInfo:
    """The entry of a split in the manifest; a UserError if it has too little text."""
    parts = [note.parts[split] for note in notes if split in note.parts]
    tokens = sum(part.tokens for part in parts)
    if tokens < 2:
        total = sum(part.documents for note in notes for part in note.parts.values())
        hint = "Give more documents."
        if split in rules.drawn:
            flag = "--validation" if split == "valid" else "--test"
            hint = f"Give more, draw more with --held-out 0.2, or give {flag} PATH."
        raise DataError(
            f"none of {total:,} documents came to the {split} split",
            where=given,
            hint=hint,
        )
    hashes = " ".join(part.sha256 for part in parts)
    return SplitInfo(
        file="",
        size=sum(part.size for part in parts),
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        tokens=tokens,
        bytes=sum(part.bytes for part in parts),
        characters=sum(part.characters for part in parts),
        lines=sum(part.lines for part in parts),
        words=sum(part.words for part in parts),
        documents=sum(part.documents for part in parts),
        shards=[
            Shard.model_validate(part.model_dump(include=set(Shard.model_fields))) for part in parts
        ],
    )


def _warnings(
    inputs: Inputs, notes: list[ShardNote], tokenizer: Tokenizer, rules: Rules
) -> Iterator[str]:
    """What the user should know about the store."""
    yield from inputs.warnings
    if empty := sum(note.empty for note in notes):
        yield f"{counted(empty, 'document')} without text left out"
    yield from losses(some_text(inputs.files, rules), tokenizer)
