"""The start of the command: signals are handled before slow imports."""

import contextlib
import os
import signal
from types import FrameType


def main() -> None:
    """Entry point of the `simsmoe` command."""
    for number, default in DEFAULTS.items():
        if signal.getsignal(number) == default:  # and not ignored, as under nohup
            signal.signal(number, leave_at_once)
    from simsmoe_cli.cli import main as command

    command.main()


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """End this process before it has begun anything, with one line and the usual exit code.

    Of several processes that torchrun started, the first prints the line.
    """
    name, code = ("SIGTERM", 143) if number == signal.SIGTERM else ("Ctrl-C", 130)
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, f"simsmoe: stopped by {name}; nothing is left half-written\n".encode())
    os._exit(code)


DEFAULTS = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
