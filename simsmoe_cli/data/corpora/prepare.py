"""Prepare a corpus: find its files, read them once, fit a tokenizer, encode, write the store.

The store is built in a temporary folder next to its destination, under a lock, and renamed when it
is complete (`scratch.py`). Memory is bounded by chunks of a megabyte, except for the `words`
tokenizer's count of distinct words and for SentencePiece's training sample of 10 MB.

Preparing again reads the source again: the same text and settings change nothing; a difference is
an error that names it. (A whole corpus with a name, and a URL, are not fetched again.)
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import cast

from simsmoe_cli.data.corpora.facts import Corpus
from simsmoe_cli.data.corpora.read_source import read_source
from simsmoe_cli.data.corpora.sources import resolve
from simsmoe_cli.data.corpora.text import Text
from simsmoe_cli.data.corpora.write_store import write_store
from simsmoe_cli.data.io.download import Progress, is_url
from simsmoe_cli.data.io.locate import require_exists
from simsmoe_cli.data.io.scratch import clear_os_errors, locked, scratch
from simsmoe_cli.data.prepared import kept
from simsmoe_cli.data.store import CORPUS, Manifest, Settings, SourceInfo, TokenStore
from simsmoe_cli.data.tokenizers.huggingface import HuggingFaceTokenizer, open_given
from simsmoe_cli.data.tokenizers.names import TOKENIZERS
from simsmoe_cli.errors import DataError, UserError, nearest, printable
from simsmoe_cli.files.atomic import whole_folder
from simsmoe_cli.registry import CORPORA, TASKS, load

MOST_VOCAB = 1 << 24
PIECES_VOCAB_SIZE = 8192  # of sentencepiece, where none is asked for
OR_A_FOLDER = {"tokenizer": " Or give the folder of a Hugging Face model."}


def prepare(
    corpus: str,
    out: Path,
    *,
    source: str | None = None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    vocab: str = "corpus",
    sp_model: str = "unigram",
    vocab_from: Path | None = None,
    force: bool = False,
    downloads: Path | None = None,
    on_progress: Progress | None = None,
) -> TokenStore:
    """Prepare a corpus.

    Args:
        corpus: the name of a known corpus, or a file, folder, glob, archive or URL of text.
        out: the folder of the store.
        source: where a known corpus is read from instead of its official URL.
        tokenizer: bytes, chars, words, sentencepiece, or a Hugging Face folder with a
            tokenizer.json; None: the corpus's own, else bytes.
        vocab_size: words: ids in all, the most frequent words kept; sentencepiece: pieces.
        vocab: bytes: those that occur ("corpus") or all ("bytes256").
        sp_model: "unigram" or "bpe".
        vocab_from: another store, whose tokenizer is used, so that a model trained on it can read
            this one; `tokenizer`, `vocab_size`, `vocab` and `sp_model` are then left out.
        force: build an existing store again.
        downloads: where official archives are kept; None: `.downloads` next to the store.
        on_progress: called with a stage, the amount done, and the amount in all or None.

    Returns:
        The store; its `built` says whether it was built now or was there already.

    Raises:
        UserError: EXIT_USAGE for unknown names and contradictory settings, EXIT_DATA for problems
            with the source or the destination, and for an existing store that differs.
    """
    report = on_progress or (lambda stage, done, total: None)
    with clear_os_errors(out):
        out = out if out.name.strip(".") else out.resolve()
        known = _known(corpus, source)
        lender = TokenStore.open(vocab_from) if vocab_from else None
        without_path = {None, *TOKENIZERS} - {HuggingFaceTokenizer.kind}
        given_tokenizer = None if tokenizer in without_path else open_given(str(tokenizer))
        kind = given_tokenizer.kind if given_tokenizer else tokenizer
        settings = tokenizer_settings(known, kind, vocab_size, vocab, sp_model)
        if given_tokenizer:
            sha256 = hashlib.sha256(given_tokenizer.dump()).hexdigest()
            settings = settings.model_copy(update={"vocab_from": sha256})
        if lender:
            _require_running_text(lender)
            settings = lent_settings(
                lender.manifest, asked=settings, unasked=tokenizer_settings(known)
            )
        given = source or ("" if known else corpus)
        named = known.name if known else ""
        require_exists(given)
        downloads = downloads or out.parent / ".downloads"
        with locked(out, report):
            existing = TokenStore.open(out) if CORPUS.is_kept(out, force=force) else None
            if existing:
                require_same_settings(existing, named, settings)
                if _need_not_fetch(existing, known, given):
                    existing.verify()
                    return existing
            with scratch(out) as folder:
                found = resolve(known, given, folder, downloads, report)
                utf8 = settings.tokenizer != "bytes"
                text = read_source(found, known, folder / "text", report, utf8=utf8)
                if existing:
                    _require_same_text(existing, text)
                    existing.verify()
                    return existing
                info = SourceInfo(
                    given=kept(found.given),
                    files=text.files,
                    bytes=text.size,
                    sha256=text.sha256,
                    python=found.python,
                )
                lent = lender.tokenizer if lender else given_tokenizer
                with whole_folder(out, replace=True) as store:
                    name = corpus if known else ""
                    write_store(store, out.name, name, settings, text, info, report, lent)
            prepared = TokenStore.open(out)
            prepared.built = True
            return prepared


def _require_running_text(lender: TokenStore) -> None:
    """Raise a UserError for a tokenizer with a token that ends documents, which running text has
    none of; a Hugging Face tokenizer has it in any case."""
    if lender.tokenizer.end_id is not None and lender.manifest.tokenizer != "huggingface":
        raise DataError(
            f"the tokenizer of {lender.manifest.name} has a token that ends documents, and this is "
            "one running text",
            where="--vocab-from",
            hint="Prepare documents as well (--documents), or name a corpus of running text.",
        )


def _known(corpus: str, source: str | None) -> Corpus | None:
    """The corpus with this name; None for a path, a glob or a URL."""
    if corpus in CORPORA:
        return cast(Corpus, load("corpora", corpus))
    looks_like_path = any(sign in corpus for sign in "/\\.*?[~") or os.path.exists(corpus)
    if source and looks_like_path:
        raise UserError(
            f"'{printable(corpus)}' already says what to read",
            where="--source",
            hint="Name a known corpus with --source, or a path without it.",
        )
    if looks_like_path:
        return None
    raise UserError(
        f"unknown corpus or task '{printable(corpus)}'",
        hint=nearest(printable(corpus), [*CORPORA, *TASKS])
        + " For text of your own: prepare-data PATH --name NAME.",
    )


def tokenizer_settings(
    known: Corpus | None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    vocab: str = "corpus",
    sp_model: str = "unigram",
) -> Settings:
    """The settings, completed; a UserError for one that is unknown or would be ignored."""
    kind = tokenizer or (known.tokenizer if known else "bytes")
    allowed = {"tokenizer": TOKENIZERS, "vocab": ("corpus", "bytes256")}
    allowed["sp_model"] = ("unigram", "bpe")
    asked = {"tokenizer": kind, "vocab": vocab, "sp_model": sp_model}
    for name, value in asked.items():
        if value not in allowed[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"unknown '{printable(value)}'",
                where=flag,
                hint=nearest(printable(value), allowed[name]) + OR_A_FOLDER.get(name, ""),
            )
    if vocab == "bytes256" and kind != "bytes":
        raise UserError("bytes256 is for the bytes tokenizer", where="--vocab")
    if sp_model == "bpe" and kind != "sentencepiece":
        raise UserError(
            "bpe is for the sentencepiece tokenizer",
            where="--sp-model",
            hint="Add --tokenizer sentencepiece.",
        )
    if vocab_size is not None and kind in ("bytes", "chars", "huggingface"):
        whole = "that of its file" if kind == "huggingface" else "what occurs in the corpus"
        raise UserError(
            f"the vocabulary of the {kind} tokenizer is {whole}",
            where="--vocab-size",
            hint="Leave it out, or use --tokenizer words or sentencepiece.",
        )
    if vocab_size is not None and vocab_size < 3:
        raise UserError(f"{vocab_size} is too small", where="--vocab-size", hint="At least 3.")
    if vocab_size is not None and vocab_size > MOST_VOCAB:
        what = f"{printable(vocab_size)} is too large"
        raise UserError(what, where="--vocab-size", hint=f"At most {MOST_VOCAB:,}.")
    if kind == "sentencepiece":
        vocab_size = vocab_size or PIECES_VOCAB_SIZE
    return Settings.model_validate({**asked, "vocab_size": vocab_size})


def lent_settings(lender: Manifest, asked: Settings, unasked: Settings) -> Settings:
    """The settings of another store; a UserError if settings were given as well."""
    if asked != unasked:
        raise UserError(
            "the tokenizer is the other store's, so there is nothing to choose about it",
            where="--vocab-from",
            hint="Leave out --tokenizer, --vocab-size, --vocab and --sp-model.",
        )
    return lender.settings.model_copy(update={"vocab_from": lender.vocabulary})


def require_same_settings(store: TokenStore, corpus: str, asked: Settings) -> None:
    there = {"corpus": store.manifest.corpus} | store.manifest.settings.model_dump()
    wanted = {"corpus": corpus} | asked.model_dump()
    differing = [
        f"{name.replace('_', '-')} is {there[name] or 'none'}, not {wanted[name] or 'none'}"
        for name in wanted
        if there[name] != wanted[name]
    ]
    if differing:
        raise CORPUS.differs(store.path, "; ".join(differing))


def _require_same_text(store: TokenStore, text: Text) -> None:
    made_of = store.manifest.source
    if made_of.sha256 != text.sha256:
        raise CORPUS.differs(
            store.path,
            f"it was made of {made_of.bytes:,} bytes of {made_of.given} "
            f"(sha256 {made_of.sha256[:12]}), the source now has {text.size:,} bytes "
            f"(sha256 {text.sha256[:12]})",
        )


def _need_not_fetch(store: TokenStore, known: Corpus | None, given: str) -> bool:
    """Whether the manifest alone shows that this is the requested text; UserError if it is
    another."""
    made_of = store.manifest.source
    if known and known.urls and not given:
        if not store.manifest.whole:
            raise CORPUS.differs(
                store.path,
                f"it was made of {made_of.bytes:,} bytes of {made_of.given}, not the whole",
            )
        return True
    return is_url(given) and given == made_of.given
