"""The tokenizer of pre-training, as a file that is copied into a fine-tuned run.

So the folder of a fine-tuned run contains everything for its evaluation on other texts. The state
of its checkpoints names the tokenizer's file and hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.names import tokenizer_class
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_bytes
from simsmoe_cli.run.folder import RunDir

LARGEST = 1 << 30  # bytes of a tokenizer's file


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the file it is loaded from.

    Attributes:
        kind: its name on the command line.
        file: name of the file.
        content: of the file.
    """

    kind: str
    file: str
    content: bytes

    @classmethod
    def of_store(cls, store: TokenStore) -> Vocabulary:
        """The vocabulary that a corpus was prepared with."""
        file = store.manifest.tokenizer_file.file
        return cls(store.manifest.tokenizer, file, read_bytes(store.path / file, LARGEST))

    @classmethod
    def of_run(cls, run: RunDir, state: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary in the folder of a fine-tuned run.

        Raises:
            UserError: missing, or not the one the checkpoint names.
        """
        path = run.path / state["tokenizer"]["file"]
        try:
            content = read_bytes(path, LARGEST)
        except FileNotFoundError:
            raise _damaged(path, "the file is missing") from None
        except Unreadable as error:
            raise _damaged(path, f"it {error}") from None
        found = cls(state["tokenizer"]["kind"], path.name, content)
        if found.sha256 != state["vocabulary"]:
            raise _damaged(path, "its checksum does not match")
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return tokenizer_class(self.kind).load(self.content)

    @property
    def size(self) -> int:
        """V."""
        return self.tokenizer.vocab_size

    @cached_property
    def sha256(self) -> str:
        """A hash that is equal for two vocabularies with the same ids."""
        return hashlib.sha256(self.content).hexdigest()

    def save(self, run: RunDir) -> None:
        """Write the file into a run folder, whole or not at all."""
        atomic.write(run.path / self.file, self.content)


def _damaged(path: Path, why: str) -> UserError:
    return DataError(
        f"damaged tokenizer: {why}",
        where=str(path),
        hint="Copy it from the corpus the model was pre-trained on.",
    )
