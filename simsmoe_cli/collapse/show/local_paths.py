"""Shortens absolute paths to their last names in reports.

A recipe, a model's configuration or a note may contain an absolute path, which does not help a
reader and reveals folders of the machine. Imports no torch.
"""

from __future__ import annotations

import re
from typing import Any

# /a/b, C:\a\b and ~/a: at least two names, not the tail of a URL or of a relative path.
_ABSOLUTE = re.compile(r"(?<![\w.:/\\~-])(?:~?/|[A-Za-z]:[\\/])(?:[^\s/\\:;,'\"()]+[/\\])+")


def without_paths(value: Any) -> Any:
    """The value, of JSON's types, with every absolute path in its texts cut to its last name."""
    if isinstance(value, str):
        return _ABSOLUTE.sub("", value)
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    return value
