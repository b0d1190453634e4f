"""Runs code of transformers and its libraries: it prints nothing, and every error becomes one
line."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from simsmoe_cli.errors import DataError, UserError, listed, printable
from simsmoe_cli.files.foreign_calls import is_failure

NEEDS_PACKAGE = "it needs the package"


def transformers_module() -> Any:
    """The package transformers.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError(
            "reading a Hugging Face model needs transformers",
            hint="Install it: pip install 'simsmoe[hf]'",
        ) from None


@contextlib.contextmanager
def foreign_code(what: str, where: str, hint: str = "") -> Iterator[list[str]]:
    """Run foreign code: it prints nothing, and every exception becomes one UserError.

    Out-of-memory errors and signals are passed on. Yields the list of logged messages.

    Args:
        what: the message of the error.
        where: the folder or file.
        hint: the hint of the error.
    """
    heard: list[str] = []
    try:
        with _quiet(heard):
            yield heard
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not is_failure(error) or _out_of_memory(error):
            raise
        reason = _reason(error, heard)
        raise DataError(f"{what}: {reason}", where=where, hint=hint) from None


def listed_keys(names: Iterable[str]) -> str:
    """The first ten names of weights in order, layer 10 after layer 2, and how many more."""
    ordered = sorted(
        names,
        key=lambda name: [
            (int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")
        ],
    )
    return listed(ordered, longest=160)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, (RuntimeError, OSError))
        and any(
            sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory")
        )
    )


def _reason(error: BaseException, heard: list[str]) -> str:
    """An exception of foreign code in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{NEEDS_PACKAGE} {printable(error.name)}, which is not installed"
    report = re.sub(r"\x1b?\[[0-9;]*m", "", heard[-1] if heard else "")
    if names := re.findall(r"^(\S.*?) +\| CONVERSION", report, re.MULTILINE):
        return f"the tensors in the files cannot be combined into {listed_keys(names)}"
    return f"{type(error).__name__}: {printable(text, 240)}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet(heard: list[str]) -> Iterator[None]:
    """Collect what transformers and the Hub's client log; show no progress bars and warnings."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(Exception):
                heard.append(record.getMessage())

    loggers = [
        logging.getLogger(name) for name in ("transformers", "huggingface_hub", "py.warnings")
    ]
    kept = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    controls = importlib.import_module("transformers.utils.logging")
    bars = controls.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [Listener()], False
            logger.setLevel(logging.WARNING)
        controls.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, handlers, propagate, level in kept:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if bars:
            controls.enable_progress_bar()
