"""A collapse report: findings, the verdict on them, and the JSON file that holds both.

Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.subject import Facts
from simsmoe_cli.errors import DataError, NotPermitted, printable
from simsmoe_cli.files.untrusted import Unreadable, parse_json

SCHEMA = 1


class Sentence(Facts):
    """One statement of the verdict and the numbers behind it."""

    text: str
    tone: Literal["good", "note", "warning", "bad"]
    evidence: dict[str, float | int | str | list[int | str] | None] = Field(
        {}, description="numbers the sentence rests on, by name"
    )

    @classmethod
    def of(cls, tone: str, text: str, **evidence: object) -> Sentence:
        """A sentence and its evidence: the numbers it rests on, by name."""
        return cls.model_validate({"text": text, "tone": tone, "evidence": evidence})


class Verdict(Facts):
    """The report in words; `verdict/judge.py` says from which thresholds.

    The first three fields of text are three sentences, to be read first.
    """

    level: Literal["healthy", "partly alike", "collapsed", "undefined"]
    headline: str = Field(description="a word, a colon, and whether the experts are similar")
    cost: str = Field("", description="what leaving one out would cost; empty: not measured")
    advice: str = Field("", description="what to do next; empty in reports of earlier versions")
    sentences: list[Sentence] = Field(description="everything found, in detail")


class Report(Facts):
    """The JSON file."""

    schema_version: int = SCHEMA
    findings: list[Findings] = Field(
        min_length=1, description="one per checkpoint, oldest first; the verdict is on the last"
    )
    against: Findings | None = Field(None, description="the run compared with")
    verdict: Verdict

    @property
    def main(self) -> Findings:
        """The findings that the report is about: those of the last checkpoint measured."""
        return self.findings[-1]

    def to_json(self) -> str:
        """The file's text: every number, undefined ones as null."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "") -> Report:
        """The report of a file's text.

        Raises:
            UserError: it is not a report, or one of another version of the schema.
        """
        try:
            found = parse_json(text.encode() if isinstance(text, str) else text)
            if not isinstance(found, dict) or "schema_version" not in found:
                raise Unreadable("has no schema_version")
            version = found["schema_version"]
            if version != SCHEMA:
                raise DataError(
                    f"a report of schema {printable(version)}, and this simsmoe reads {SCHEMA}",
                    where=where,
                    hint="Write it again with `simsmoe collapse-report`.",
                )
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            why = f"{printable(field)}: {printable(first['msg'], 160)}"
        except Unreadable as error:
            why = f"the file {error}"
        except (ValueError, KeyError, TypeError, RecursionError):
            why = "its values contradict each other"
        raise DataError(
            f"this is not a collapse report ({why})",
            where=where,
            hint="Write one with `simsmoe collapse-report`.",
        )

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report in a file."""
        try:
            content = path.read_bytes()
        except PermissionError:
            raise NotPermitted(path) from None
        except OSError as error:
            raise DataError(f"cannot read the report: {error.strerror}", where=str(path)) from None
        return cls.from_json(content, str(path))
