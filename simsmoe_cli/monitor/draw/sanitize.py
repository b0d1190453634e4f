"""Texts of events, made safe to print."""

from __future__ import annotations

from typing import Any


def clean(value: Any, limit: int = 400) -> str:
    """A text of an event as one line that is safe to print: without control characters, and at most
    `limit` characters long; "" for a value that is not a text."""
    if not isinstance(value, str):
        return ""
    text = value[: limit + 1]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
