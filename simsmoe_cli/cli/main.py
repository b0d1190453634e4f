"""The `simsmoe` command: its subcommands, and the line and exit code of each error.

Each subcommand is in its own file in this folder. It imports heavy modules inside its function, so
that `simsmoe --help` answers at once. For the same reason they do not import
`annotations` from `__future__`: typer would evaluate every annotation of every command twice.
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from simsmoe_cli import __version__
from simsmoe_cli.cli.collapse_report import collapse_report
from simsmoe_cli.cli.commands import Command, CommandOfRanks, Group
from simsmoe_cli.cli.compare import compare
from simsmoe_cli.cli.complete import answer
from simsmoe_cli.cli.doctor import doctor
from simsmoe_cli.cli.evaluate import evaluate
from simsmoe_cli.cli.export import export
from simsmoe_cli.cli.finetune import finetune
from simsmoe_cli.cli.generate import generate
from simsmoe_cli.cli.list import list_names
from simsmoe_cli.cli.monitor import monitor
from simsmoe_cli.cli.prepare_data import prepare_data
from simsmoe_cli.cli.pretrain import pretrain
from simsmoe_cli.cli.reproduce import reproduce
from simsmoe_cli.cli.runs import add_commands, runs
from simsmoe_cli.cli.show import show
from simsmoe_cli.cli.stopping import terminable
from simsmoe_cli.cli.streams import OUTPUT, let_go_of_output, prepare_streams
from simsmoe_cli.cli.sweep import sweep
from simsmoe_cli.cli.upcycle import upcycle
from simsmoe_cli.errors import (
    EXIT_OUT_OF_MEMORY,
    EXIT_SIGINT,
    EXIT_SIGPIPE,
    EXIT_SIGTERM,
    EXIT_USAGE,
    DataError,
    EndedElsewhere,
    Terminated,
    UserError,
    is_out_of_memory,
    printable,
)
from simsmoe_cli.files.atomic import as_named
from simsmoe_cli.parallel.launch import launch

# What typer raises for a wrong command line; it lies in click or in typer's own copy of it,
# depending on typer's version.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])


app = typer.Typer(
    name="simsmoe",
    help="Train sparse mixture-of-experts language models whose experts stay different.",
    epilog="`simsmoe COMMAND --help` explains a command.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TRAIN = "Train"
SEE = "See"
LOOK = "Look around"

app.command("prepare-data", cls=Command, rich_help_panel=TRAIN)(prepare_data)
app.command("pretrain", cls=CommandOfRanks, rich_help_panel=TRAIN)(pretrain)
app.command("finetune", cls=CommandOfRanks, rich_help_panel=TRAIN)(finetune)
app.command("eval", cls=CommandOfRanks, rich_help_panel=TRAIN)(evaluate)
app.command("generate", cls=Command, rich_help_panel=TRAIN)(generate)
app.command("export", cls=Command, rich_help_panel=TRAIN)(export)
app.command("sweep", cls=Command, rich_help_panel=TRAIN)(sweep)
app.command("reproduce", cls=Command, rich_help_panel=TRAIN)(reproduce)
app.command("upcycle", cls=Command, rich_help_panel=TRAIN)(upcycle)
app.command("monitor", cls=Command, rich_help_panel=SEE)(monitor)
app.command("collapse-report", cls=Command, rich_help_panel=SEE)(collapse_report)
app.command("compare", cls=Command, rich_help_panel=SEE)(compare)
app.command("list", cls=Command, rich_help_panel=LOOK)(list_names)
app.command("show", cls=Command, rich_help_panel=LOOK)(show)
app.command("doctor", cls=Command, rich_help_panel=LOOK)(doctor)
add_commands(Command)
app.add_typer(runs, name="runs", cls=Group, rich_help_panel=LOOK)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"simsmoe {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors that a user can cause go to stderr.

    Other exceptions (bugs) are raised. If nothing reads the output any more, the command ends
    silently, as with SIGPIPE; if it had computed everything by then, it keeps its own exit code.

    Args:
        arguments: without the program's name; None takes those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "RANK" in os.environ:
        # Else torch says in several lines that another process is gone. Read when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    noted: list[int] = []
    try:
        with terminable() as noted:
            code = _invoke(given)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        return _stopped("Ctrl-C", EXIT_SIGINT) if signal.SIGINT in noted else EXIT_SIGINT
    except Terminated:
        return _stopped("SIGTERM", EXIT_SIGTERM)
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # rich leaves with 1 then
            return EXIT_SIGPIPE
        raise
    except BrokenPipeError as error:
        if error.filename == OUTPUT:
            return EXIT_SIGPIPE
        clear = _operating_system_error(error)
        _print_error(str(clear))
        return clear.code
    except EndedElsewhere as error:
        return error.code
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "simsmoe"
        message = printable(" ".join(error.format_message().split()), 400)
        stop = "" if message.endswith((".", "?")) else "."
        _print_error(f"{message}{stop} See '{command} --help'.")
        return EXIT_USAGE
    except Exception as error:
        explained = _in_words(error)
        if explained is None:
            raise
        _print_error(str(explained))
        return explained.code
    try:
        _flush_output()
    except BrokenPipeError:
        return code
    except OSError as error:
        clear = _operating_system_error(error)
        _print_error(str(clear))
        return clear.code
    return code


def _invoke(arguments: list[str]) -> int:
    """The exit code of a command line.

    This is typer's own main without its handling of exceptions, which would end the process with 1
    where the output is closed.
    """
    command = _command(app)
    answer(command)
    _require_current_folder()
    try:
        with command.make_context("simsmoe", arguments) as context:
            code = command.invoke(context)
    except typer.Exit as leave:
        code = leave.exit_code
    return code if isinstance(code, int) else 0


def _require_current_folder() -> None:
    """Refuse to work in a folder that was deleted meanwhile, where libraries fail in their ways."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError(
            "the current folder has been deleted", hint="Change to another one."
        ) from None


@functools.cache
def _command(application: typer.Typer) -> Any:
    """The command of an application, built once: building it takes a while."""
    return typer.main.get_command(application)


def _in_words(error: Exception) -> UserError | None:
    """The error as a UserError; None for a bug of simsmoe."""
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        return UserError(
            "out of memory",
            hint="Close other programs, or use a smaller model, batch or file.",
            code=EXIT_OUT_OF_MEMORY,
        )
    if isinstance(error, OSError):
        return _operating_system_error(error)
    if isinstance(error, RecursionError):
        return DataError(
            "something in a file that was read is nested too deeply",
            hint="Look for thousands of brackets in a row.",
        )
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding():
        return UserError(
            f"{printable(error.object)!r} cannot be the name of a file in this locale",
            hint="Set LC_ALL to a locale of UTF-8, such as C.UTF-8.",
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return DataError(str(error), hint="Look at the links of the path.")
    if isinstance(error, ValueError) and "null byte" in str(error):
        return UserError("the name of a file holds a NUL character")
    return None


def _operating_system_error(error: OSError) -> UserError:
    """The error for a failed system call, with the file it was about."""
    what = error.strerror or str(error) or type(error).__name__
    if error.filename == OUTPUT:
        return DataError(f"cannot be written: {what}", where=OUTPUT)
    if error.filename is None:
        return DataError(what, hint="Look at the disk and its permissions.")
    path = printable(as_named(os.fsdecode(error.filename)), 200)
    return DataError(what, where=path, hint="Look at the path and its permissions.")


def _flush_output() -> None:
    """Flush stdout; an OSError where that fails."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _print_error(message: str) -> None:
    """One line on stderr; what all of several processes have to say is said once."""
    if not _speaks(message):
        return
    with contextlib.suppress(OSError):  # stderr is closed as well
        typer.secho("simsmoe: error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(message, err=True)


def _speaks(message: str) -> bool:
    """Whether this process is to say something: not if another of the same training has."""
    try:
        launched = launch()
    except UserError:
        return True
    if launched.alone:
        return True
    from simsmoe_cli.parallel.roll_call import speaks

    return speaks(launched, message)


def _stopped(by: str, code: int) -> int:
    if not launch().first:
        return code
    with contextlib.suppress(OSError):
        typer.echo(f"simsmoe: stopped by {by}; nothing is left half-written", err=True)
    return code


def main() -> None:
    """Entry point of the `simsmoe` command."""
    prepare_streams()
    try:
        code = run()
    finally:
        let_go_of_output()
    if code and not launch().alone:
        os._exit(code)  # threads may wait for processes that are gone
    sys.exit(code)
