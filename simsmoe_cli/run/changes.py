"""Settings that differ between two recipes: which, and whether they change results. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simsmoe_cli.errors import printable
from simsmoe_cli.run.events import SettingChange

# Fields that describe a recipe and set nothing.
NOT_SETTINGS = ("name", "description", "source")
# Fields that change how a training is watched, saved or spread over devices; except for rounding,
# its results do not depend on them.
WITHOUT_EFFECT = (
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.probe_every",
    "train.probe_tokens",
    "train.compile",
    "moe.backend",
    "parallel",
)


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Fields of two dumped recipes that differ: dotted path, old value, new value."""
    found: list[tuple[str, Any, Any]] = []
    for key, value in old.items():
        other = new.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            found += differences(value, other, f"{prefix}{key}.")
        elif value != other:
            found.append((prefix + key, value, other))
    return found


def setting_changes(old: dict[str, Any], new: dict[str, Any]) -> list[SettingChange]:
    """The settings that differ, as events hold them.

    Args:
        old, new: recipes as JSON.
    """
    return [
        {"setting": path, "before": before, "after": after}
        for path, before, after in differences(old, new)
        if path not in NOT_SETTINGS
    ]


def changes_in_words(changes: Sequence[SettingChange]) -> list[str]:
    """Each change as a phrase: "train.lr 0.001 -> 0.01"."""
    return [
        f"{printable(change['setting'])} {in_words(change.get('before'))} -> "
        f"{in_words(change.get('after'))}"
        for change in changes
    ]


def in_words(value: Any) -> str:
    """The value of a setting as in a recipe."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else printable(value)


def changes_results(setting: str) -> bool:
    """Whether results depend on a setting, by more than rounding.

    Args:
        setting: dotted path.
    """
    return setting not in NOT_SETTINGS and not any(
        setting == free or setting.startswith(f"{free}.") for free in WITHOUT_EFFECT
    )
