"""The common part of prepared corpora and prepared tasks: a folder with a manifest.

The manifest is JSON with a checksum of itself. It names every other file of the folder with its
size, and is written last: a folder without one is not prepared. Schema 1 has no checksum and stays
readable.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.files.names import names_in
from simsmoe_cli.files.untrusted import (
    Unreadable,
    read_json,
    require_permitted,
    sealed,
    unsealed,
    validated,
)

SCHEMA = 2
LONGEST = 1 << 12  # characters of a foreign text that is kept
MOST_MANIFEST_BYTES = 1 << 28  # that of a hundred terabytes


def _shown(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that no terminal can show")
    return text


Shown = Annotated[str, Field(max_length=2 * LONGEST), AfterValidator(_shown)]
Count = Annotated[int, Field(ge=0, lt=1 << 60)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def kept(text: str) -> str:
    """A foreign text in the form kept in a manifest: one line, shortened if it is very long."""
    return printable(text, LONGEST)


class Facts(BaseModel):
    """Base of manifests and of their parts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileInfo(Facts):
    """A file of the folder."""

    file: Shown
    size: Count = Field(description="bytes")
    sha256: Sha256

    @classmethod
    def of(cls, file: str, content: bytes) -> FileInfo:
        """A file with this content."""
        return cls(file=file, size=len(content), sha256=hashlib.sha256(content).hexdigest())


M = TypeVar("M", bound=Facts)
S = TypeVar("S")


@dataclass(frozen=True)
class Prepared:
    """A kind of prepared folder.

    Attributes:
        noun: "corpus" or "task".
        manifest: name of the manifest's file.
        known: names that `prepare-data` knows of this kind.
        own: the call of `prepare-data` for a user's own data.
        schemas: those of manifests that are read.
    """

    noun: str
    manifest: str
    known: Iterable[str]
    own: str
    schemas: tuple[int, ...] = (1, SCHEMA)

    def is_in(self, folder: Path) -> bool:
        """Whether a folder is prepared, or was prepared and is damaged now."""
        return os.path.isfile(folder / self.manifest)

    def read_manifest(self, folder: Path, schema: type[M]) -> M:
        """The manifest of a folder.

        DataError when there is none, or it was changed or does not fit its schema.
        """
        try:
            content = read_json(folder / self.manifest, MOST_MANIFEST_BYTES)
            version = content.get("schema_version") if isinstance(content, dict) else None
            if version not in self.schemas or isinstance(version, bool):
                raise Unreadable(f"has schema {printable(version)}, not {self.schemas[-1]}")
            return validated(schema, content if version == 1 else unsealed(content))
        except FileNotFoundError:
            raise DataError(
                f"no prepared {self.noun}" + (" (no manifest)" if folder.is_dir() else ""),
                where=str(folder),
                hint="See: simsmoe prepare-data --help",
            ) from None
        except Unreadable as error:
            raise self.damaged(folder, f"{self.manifest} {error}") from None

    def require_sizes(self, folder: Path, files: Iterable[FileInfo]) -> None:
        """Raise a DataError for a file that is missing or has another size."""
        for info in files:
            file = folder / info.file
            size = os.path.getsize(file) if os.path.isfile(file) else None
            if size != info.size:
                found = "is missing" if size is None else f"has {size:,} bytes"
                reason = f"{info.file} {found}, the manifest says {info.size:,}"
                raise self.damaged(folder, reason)

    def damaged(self, folder: Path, reason: str) -> UserError:
        """The error for a folder whose files are not as they were written."""
        return DataError(
            f"the prepared {self.noun} is damaged: {reason}",
            where=str(folder),
            hint="Prepare it again with --force.",
        )

    def differs(self, folder: Path, how: str) -> UserError:
        """The error for a folder that was prepared from something else."""
        return DataError(
            f"already prepared otherwise: {how}",
            where=str(folder),
            hint=f"Use --name or --out for another {self.noun}, or --force to replace this one.",
        )

    def is_kept(self, out: Path, *, force: bool) -> bool:
        """Whether a prepared folder is there that must be kept; a UserError for anything else
        there.

        Args:
            out: the folder that will be prepared.
            force: whether an earlier prepared folder is replaced.
        """
        if self.is_in(out):
            return not force
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise DataError(
                f"is there already and is not a prepared {self.noun}, so it is left alone",
                where=str(out),
                hint="Choose another folder with --out or --name.",
            )
        return False

    def find(self, name: str | Path, data_dir: Path) -> Path:
        """The folder of something prepared.

        Args:
            name: its name below `data_dir`, or a folder anywhere.
            data_dir: where prepared corpora and tasks are.

        Returns:
            Its path; DataError with what to run, or the nearest prepared name.
        """
        for path in (data_dir / name, Path(os.path.expanduser(name))):
            if self.is_in(path):
                return path
            require_permitted(path / self.manifest)
        prepared = [found for found in names_in(data_dir) if self.is_in(data_dir / found)]
        asked = printable(name)
        close = difflib.get_close_matches(asked, prepared, n=1, cutoff=0.6)
        known = difflib.get_close_matches(asked, list(self.known), n=1, cutoff=0.6)
        hint = f"Did you mean '{close[0]}'? " if close and asked not in self.known else ""
        hint += f"To prepare it: simsmoe prepare-data {known[0] if known else self.own}. "
        hint += f"Prepared: {', '.join(prepared) or 'none'}."
        raise DataError(f"{self.noun} '{asked}' is not prepared", where=str(data_dir), hint=hint)


def manifest_text(manifest: Facts) -> str:
    """The content of a manifest's file, with its checksum."""
    facts = sealed(manifest.model_dump(mode="json"))
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def split_info(splits: Mapping[str, S], name: str, folder: Path) -> S:
    """The entry of a split in a manifest; a UserError names the existing splits."""
    if name not in splits:
        hint = f"Splits: {', '.join(splits)}."
        raise UserError(f"no split '{printable(name)}'", where=str(folder), hint=hint)
    return splits[name]
