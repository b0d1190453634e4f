"""Names the field of config.json at fault when transformers cannot use a configuration.

The error of transformers is often about something else (`KeyError: 'x'`, a negative dimension, an
index out of range). So each field is replaced by its default in turn, the most suspicious first: if
the model can then be built, that field is at fault.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import NEEDS_PACKAGE, foreign_code

SECONDS = 20.0  # that may be spent on finding the field
IN_WORDS = {
    "int": "a whole number",
    "float": "a number with a point, such as 1.0",
    "str": "a string",
    "bool": "true or false",
    "NoneType": "null",
    "list": "a list",
    "dict": "an object",
}
HINT = "Give the config.json that these weights were published with."

Path = tuple[str, ...]


def require_finite(folder: ModelFolder) -> None:
    """Refuse a configuration with a number that is not finite, such as 1e400."""
    for name, value in folder.config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(
                f"config.json says {name} = {value}, which is not a finite number",
                where=str(folder.path),
                hint=HINT,
            )


@contextlib.contextmanager
def naming_the_field(
    folder: ModelFolder, default: Any, build: Callable[[dict[str, Any]], object]
) -> Iterator[None]:
    """Context for code that may fail on a configuration; the UserError names the field at fault.

    Args:
        folder: with the configuration.
        default: the default configuration of this type of model; None: it has none.
        build: builds the model of a configuration; it raises where it cannot.
    """
    try:
        yield
    except UserError as error:
        if NEEDS_PACKAGE in error.what:
            raise
        with foreign_code("transformers cannot use config.json", str(folder.path)):
            found = _field_error(folder, str(error), default, build)
        raise found or error from None


def _field_error(
    folder: ModelFolder, said: str, default: Any, build: Callable[[dict[str, Any]], object]
) -> UserError | None:
    """An error that names the field at fault; None if no single field is.

    Args:
        said: what transformers said.
    """

    def says(path: Path, value: Any) -> str:
        return f"config.json says {'.'.join(path)} = {_shown(value)}"

    def mended(what: str) -> UserError:
        return DataError(what, where=str(folder.path), hint=HINT)

    wrong = re.search(r"Validation error for field '(\w+)'", said)
    if wrong:
        found = [path for path in _fields(folder.config) if path[-1] == wrong[1]]
        types = re.findall(r"'(\w+)'>|\b(list|dict)\[|expected (\w+)", said)
        wanted = [IN_WORDS[kind] for kind in dict.fromkeys(map("".join, types)) if kind in IN_WORDS]
        if found and wanted and wanted != ["null"]:
            value = _value(folder.config, found[0])
            return mended(f"{says(found[0], value)}, which must be {' or '.join(wanted)}")
    started = time.monotonic()
    for path in sorted(_fields(folder.config), key=lambda path: -_suspicion(folder, path, default)):
        if time.monotonic() - started > SECONDS:
            break
        with contextlib.suppress(Exception):
            build(_without(folder.config, path))
            kind = printable(folder.config["model_type"])
            return mended(
                f"{says(path, _value(folder.config, path))}, with which transformers cannot build "
                f"a model of type {kind}"
            )
    return None


def unusual_fields(config: dict[str, Any], default: Any) -> str:
    """Numbers of a configuration that are null, not positive or not finite, where the default is a
    positive number, as a hint for a model that does not run; empty if there are none."""
    found = [
        f"{path[0]} = {_shown(value)} (default: {_shown(_default(default, path))})"
        for path in _fields(config)
        if len(path) == 1 and not path[0].endswith("token_id")
        if _not_positive(value := config[path[0]])
        if not _not_positive(_default(default, path))
    ]
    return f"Check in config.json: {', '.join(found[:5])}." if found else ""


def _not_positive(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and not (value > 0 and math.isfinite(value)))


def _suspicion(folder: ModelFolder, path: Path, default: Any) -> int:
    """How suspicious a field is, judged by its value and the default."""
    value, usual = _value(folder.config, path), _default(default, path)
    if value == usual:
        return 0
    if usual is not None and type(value) is not type(usual):
        return 3
    return 2 if _not_positive(value) else 1


def _fields(config: dict[str, Any], above: Path = ()) -> Iterator[Path]:
    """Every field of a configuration and its parts, except fields that identify the model."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _fields(value, (*above, name))
        if name not in ("model_type", "architectures"):
            yield (*above, name)


def _value(config: dict[str, Any], path: Path) -> Any:
    value: Any = config
    for name in path:
        value = value[name]
    return value


def _default(default: Any, path: Path) -> Any:
    """A field of the default configuration; None where it has no such field."""
    for name in path:
        default = default.get(name) if isinstance(default, dict) else getattr(default, name, None)
    return default


def _without(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A copy of a configuration without a field."""
    first, *rest = path
    if not rest:
        return {name: value for name, value in config.items() if name != first}
    return {**config, first: _without(config[first], tuple(rest))}


def _shown(value: Any) -> str:
    """A value as JSON, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return printable(f'"{value}"' if isinstance(value, str) else value, 60)
