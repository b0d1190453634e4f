"""The `simsmoe` command: its subcommands, and what a user sees when something is wrong.

Each subcommand lives in a file of its own beside this one and imports what is heavy inside its
function, so that `simsmoe --help` answers at once. For the same reason they do not import
`annotations` from `__future__`: typer would evaluate every annotation of every command twice.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from simsmoe_cli import __version__
from simsmoe_cli.cli.collapse_report import collapse_report
from simsmoe_cli.cli.compare import compare
from simsmoe_cli.cli.doctor import doctor
from simsmoe_cli.cli.evaluate import evaluate
from simsmoe_cli.cli.export import export
from simsmoe_cli.cli.finetune import finetune
from simsmoe_cli.cli.generate import generate
from simsmoe_cli.cli.list import list_names
from simsmoe_cli.cli.monitor import monitor
from simsmoe_cli.cli.prepare_data import prepare_data
from simsmoe_cli.cli.pretrain import pretrain
from simsmoe_cli.cli.show import show
from simsmoe_cli.cli.stopping import terminable
from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM, EXIT_USAGE, Terminated, UserError

# What typer raises for a wrong command line; it lies in click or in typer's own copy of it,
# depending on typer's version.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])

app = typer.Typer(
    name="simsmoe",
    help="Train sparse mixture-of-experts language models whose experts stay different.",
    epilog="`simsmoe COMMAND --help` explains a command.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TRAIN = "Train"
SEE = "See"
LOOK = "Look around"

app.command("prepare-data", rich_help_panel=TRAIN)(prepare_data)
app.command("pretrain", rich_help_panel=TRAIN)(pretrain)
app.command("finetune", rich_help_panel=TRAIN)(finetune)
app.command("eval", rich_help_panel=TRAIN)(evaluate)
app.command("generate", rich_help_panel=TRAIN)(generate)
app.command("export", rich_help_panel=TRAIN)(export)
app.command("monitor", rich_help_panel=SEE)(monitor)
app.command("collapse-report", rich_help_panel=SEE)(collapse_report)
app.command("compare", rich_help_panel=SEE)(compare)
app.command("list", rich_help_panel=LOOK)(list_names)
app.command("show", rich_help_panel=LOOK)(show)
app.command("doctor", rich_help_panel=LOOK)(doctor)


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
    """Run a command line and give its exit code; errors a user can cause go to stderr.

    Args:
        arguments: without the program's name; None takes this process's own.
    """
    try:
        with terminable() as noted:
            code = app(arguments, prog_name="simsmoe", standalone_mode=False)
        if signal.SIGINT in noted and code == EXIT_SIGINT:
            return _stopped("Ctrl-C", EXIT_SIGINT)
    except UserError as error:
        _print_error(str(error))
        return error.code
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "simsmoe"
        message = " ".join(error.format_message().split())
        stop = "" if message.endswith((".", "?")) else "."
        _print_error(f"{message}{stop} See '{command} --help'.")
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_SIGINT
    except Terminated:
        return _stopped("SIGTERM", EXIT_SIGTERM)
    return code if isinstance(code, int) else 0


def _print_error(message: str) -> None:
    typer.secho("simsmoe: error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(message, err=True)


def _stopped(by: str, code: int) -> int:
    typer.echo(f"simsmoe: stopped by {by}; nothing is left half-written", err=True)
    return code


def main() -> None:
    """Entry point of the `simsmoe` command."""
    sys.exit(run())
