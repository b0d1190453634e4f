"""The tokens of a text, encoded with the tokenizer in a Hugging Face model's folder."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.collapse.sources.texts import read_text
from simsmoe_cli.errors import EXIT_USAGE, DataError, UserError
from simsmoe_cli.files.foreign_calls import silent_stderr
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import (
    foreign_code,
    transformers_module,
)
from simsmoe_cli.huggingface.unsupported import read_object

JSON_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
)
AGAIN = "Copy the tokenizer's files from the original model into this folder again."
MANY_UNKNOWN = 0.1  # share of a text's tokens


def read_tokens(
    text: Path | None, files: ModelFolder, notes: list[str]
) -> tuple[Any, NDArray[np.int64]]:
    """The folder's tokenizer, and the ids of a text.

    Args:
        text: a file in UTF-8, of which the first 8 MiB are read; None is refused.
        files: the folder.
        notes: gets notes for the reader of the report.

    Raises:
        UserError: the text or the tokenizer cannot be read, or the text has fewer than two tokens.
    """
    content = _read_text(text, notes)
    tokenizer, ids = _encode(content, files, notes)
    if len(ids) < 2:
        what = "the text is empty"
        if content.strip():
            what = "the text is too short: it is a single token, or none"
        raise DataError(what, where=str(text), hint="Give a longer text.")
    return tokenizer, ids


def require_known_ids(ids: NDArray[Any], model: Any, folder: Path) -> None:
    """Refuse ids that the model has no embedding for."""
    with foreign_code("the model has no embeddings of tokens", str(folder)):
        rows = len(model.get_input_embeddings().weight)
    highest, lowest = int(np.max(ids)), int(np.min(ids))
    if highest >= rows or lowest < 0:
        raise DataError(
            f"the tokenizer gives the id {highest if highest >= rows else lowest}, but the model "
            f"knows only 0 to {rows - 1:,}",
            where=str(folder),
            hint="The tokenizer is not this model's: download the folder again.",
        )


def _read_text(text: Path | None, notes: list[str]) -> str:
    """The start of a text file; adds notes about it."""
    if text is None:
        raise UserError(
            "a Hugging Face model comes without text to measure on",
            where="--text",
            hint="Give a text file the model was not trained on.",
            code=EXIT_USAGE,
        )
    return read_text(text, notes)


def _encode(content: str, files: ModelFolder, notes: list[str]) -> tuple[Any, NDArray[np.int64]]:
    """The folder's tokenizer, and the ids of a text."""
    where = str(files.path)
    if not files.has_tokenizer:
        raise DataError(
            "no tokenizer in this folder",
            where=where,
            hint="Copy the model's tokenizer.json, or its other tokenizer files, into it.",
        )
    try:
        with silent_stderr(), foreign_code("transformers cannot open the tokenizer", where, AGAIN):
            tokenizer = _open(files.path)
    except UserError as error:
        raise _damaged_file(files.path) or error from None
    with silent_stderr(), foreign_code("the tokenizer cannot encode the text", where, AGAIN):
        ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
        found = np.asarray(ids, dtype=np.int64)
        unknown = getattr(tokenizer, "unk_token_id", None)
    share = float((found == unknown).mean()) if unknown is not None and len(found) else 0.0
    if share > MANY_UNKNOWN:
        notes.append(f"{share:.0%} of the text's tokens are unknown to the tokenizer")
    return tokenizer, found


def _open(folder: Path) -> Any:
    return transformers_module().AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def _damaged_file(folder: Path) -> UserError | None:
    """An error that names the damaged file of a tokenizer: one without which it can be opened.

    None if no such file is found.
    """
    there = [name for name in JSON_FILES if (folder / name).is_file()]
    for name in there:
        try:
            read_object(folder / name)
        except UserError as error:
            return DataError(error.what, where=error.where, hint=AGAIN)
    for name in there:
        with tempfile.TemporaryDirectory() as scratch:
            for entry in folder.iterdir():
                if entry.name != name and entry.suffix != ".safetensors":
                    (Path(scratch) / entry.name).symlink_to(entry.resolve())
            with (
                contextlib.suppress(UserError),
                silent_stderr(),
                foreign_code("it is not at fault", name),
            ):
                _open(Path(scratch))
                return DataError(
                    f"transformers cannot open the tokenizer because of {name}",
                    where=str(folder),
                    hint=AGAIN,
                )
    return None
