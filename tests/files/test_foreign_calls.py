"""What compiled libraries print is kept off the terminal, and their panics are failures."""

from __future__ import annotations

import os

import pytest

from simsmoe_cli.files.foreign_calls import is_failure, silent_stderr


def test_text_written_to_the_descriptor_is_hidden(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with silent_stderr():
        os.write(2, b"thread 'main' panicked\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_panic_is_a_failure_and_a_stop_is_not() -> None:
    class PanicException(BaseException):
        pass

    assert is_failure(PanicException("index out of bounds"))
    assert is_failure(ValueError())
    assert not is_failure(KeyboardInterrupt())
    assert not is_failure(SystemExit(3))
