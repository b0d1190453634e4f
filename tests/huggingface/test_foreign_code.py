"""Other people's code: what it raises becomes one line, and without it a command says so."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.files.foreign_calls import silent_stderr
from simsmoe_cli.huggingface.foreign_code import foreign_code
from tests.huggingface.models import made


def test_an_error_becomes_one_line_with_what_to_do() -> None:
    with pytest.raises(UserError) as caught, foreign_code("it cannot run", "place", "Mend it."):
        raise KeyError("a\nb")
    assert str(caught.value) == "place: it cannot run: KeyError: 'a\\nb'. Mend it."
    assert caught.value.code == EXIT_DATA


def test_a_missing_package_is_named() -> None:
    said = "it needs the package nonesuch, which is not installed"
    with pytest.raises(UserError, match=said), foreign_code("it cannot run", "place"):
        __import__("nonesuch")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)])
def test_what_stops_a_command_is_passed_on(error: BaseException) -> None:
    with pytest.raises(type(error)), foreign_code("it cannot run", "place"):
        raise error


def test_what_is_said_is_heard_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with foreign_code("it cannot run", "place") as heard, silent_stderr():
        logging.getLogger("transformers").warning("a warning")
        warnings.warn("another", stacklevel=1)
        sys.__stderr__.write("a third\n")  # type: ignore[union-attr]
        sys.__stderr__.flush()  # type: ignore[union-attr]
    assert heard == ["a warning"]
    assert capfd.readouterr() == ("", "")


def test_without_transformers_a_report_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made("Mixtral", tmp_path / "model")
    (tmp_path / "text.txt").write_text("w1 w2 w3")
    monkeypatch.setitem(sys.modules, "transformers", None)
    words = ["--text", str(tmp_path / "text.txt")]
    assert main.run(["collapse-report", str(folder), *words]) == EXIT_USAGE
    assert capsys.readouterr().err == (
        "simsmoe: error: reading a Hugging Face model needs transformers. "
        "Install it: pip install 'simsmoe[hf]'\n"
    )
