"""The tags of a run: words that a user gives it to find it again, in its file tags.json.

They are not part of what the run computes, so they may change at any time, also while it trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json
from simsmoe_cli.run.folder import RunDir

LONGEST = 60  # characters of a tag
MOST = 100  # tags of a run


def read_tags(run: RunDir) -> list[str]:
    """The tags of a run, sorted; empty where it has none, or none that can be read."""
    try:
        found = read_json(run.tags)
    except (OSError, Unreadable):
        return []
    if not isinstance(found, list):
        return []
    return sorted({tag for tag in found if isinstance(tag, str) and not _fault(tag)})[:MOST]


def change_tags(run: RunDir, add: Iterable[str] = (), remove: Iterable[str] = ()) -> list[str]:
    """Give tags to a run or take them away; returns those that it has then.

    Raises:
        UserError: a tag cannot be one, or the run has too many.
    """
    add = list(add)
    for tag in add:
        if fault := _fault(tag):
            raise UserError(f"'{printable(tag)}' cannot be a tag: {fault}", where="TAG")
    tags = sorted(set(read_tags(run)) - set(remove) | set(add))
    if len(tags) > MOST:
        raise UserError(f"a run has at most {MOST} tags", where=str(run.path))
    if tags:
        atomic.write(run.tags, json.dumps(tags))
    else:
        run.tags.unlink(missing_ok=True)
    return tags


def _fault(tag: str) -> str:
    """The problem of a tag; empty if there is none."""
    if not tag or tag != tag.strip():
        return "it is empty, or begins or ends with a space"
    if not tag.isprintable() or "," in tag:
        return "it holds a comma or a character that cannot be printed"
    if len(tag) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    return ""
