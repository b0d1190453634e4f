"""`simsmoe monitor`."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.complete import complete_runs
from simsmoe_cli.cli.options import RUNS_DIR, JsonOption, RunsDirOption, print_json, shell
from simsmoe_cli.errors import DataError, UserError, printable

if TYPE_CHECKING:
    from simsmoe_cli.monitor.state.alerts import Thresholds
    from simsmoe_cli.sweep.folder import Found

NARROWEST = 40
PIPED_WIDTH = 100


RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Run folders, or their names under --runs-dir; or a sweep, a search, or results.json "
        "of a sweep. Without any, choose from a list.",
        autocompletion=complete_runs,
    ),
]
OnceOption = Annotated[bool, typer.Option("--once", help="Print one picture and exit.")]
ServeOption = Annotated[
    bool, typer.Option("--serve", help="Show the dashboard in a browser instead.")
]
HostOption = Annotated[
    str | None,
    typer.Option(
        help="With --serve: the address to listen at; 127.0.0.1 if left out. With another address, "
        "everyone who can reach it sees the runs: there is no password."
    ),
]
PortOption = Annotated[
    int | None, typer.Option(min=1, max=65535, help="With --serve: 8000 if left out.")
]
LoadCvAboveOption = Annotated[
    float, typer.Option(min=0, max=1e6, help="Alert when a layer's load CV rises above this.")
]
CkaAboveOption = Annotated[
    float, typer.Option(min=-1, max=1, help="Alert when a layer's mean CKA rises above this.")
]
SilentAfterOption = Annotated[
    float | None,
    typer.Option(
        min=1,
        max=1e9,
        metavar="SECONDS",
        help="A training run counts as silent after this long without an event; "
        "if left out, its own pace decides.",
    ),
]
IntervalOption = Annotated[
    float, typer.Option(min=0.1, max=60, help="Seconds between two looks at the files.")
]


def monitor(
    runs: RunsArgument = None,
    once: OnceOption = False,
    json: JsonOption = False,
    serve: ServeOption = False,
    host: HostOption = None,
    port: PortOption = None,
    load_cv_above: LoadCvAboveOption = 1.0,
    cka_above: CkaAboveOption = 0.8,
    silent_after: SilentAfterOption = None,
    interval: IntervalOption = 1.0,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Watch runs live: scores, speed, router load and how similar the experts are.

    Only reads run folders: works while another machine trains, before a run exists, and after it
    has finished. Of a sweep it shows the table of its results as it fills, of a search its trials.
    """
    from simsmoe_cli.monitor.state.alerts import Thresholds
    from simsmoe_cli.sweep.folder import find_sweep

    names = list(dict.fromkeys(runs or []))
    thresholds = Thresholds(load_cv_above, cka_above, silent_after)
    if serve and (once or json):
        raise UserError(
            f"--serve and {'--once' if once else '--json'} exclude each other",
            hint="One shows the dashboard, the other prints a picture.",
        )
    for flag, value in (("--host", host), ("--port", port)):
        if value is not None and not serve:
            raise UserError(f"{flag} is for --serve", hint="Add --serve, or leave it out.")
    found = {name: find_sweep(name, runs_dir) for name in names}
    sweeps = {name: one for name, one in found.items() if one is not None}
    if sweeps and len(names) > 1:
        name = next(iter(sweeps))
        raise UserError(
            "a sweep is shown by itself, without other sweeps and runs",
            where=printable(name, 200),
            hint=f"simsmoe monitor {shlex.quote(name)}",
        )
    if sweeps:
        if serve or json:
            raise UserError(
                "a sweep is shown in a terminal",
                where="--serve" if serve else "--json",
                hint="Its results.json has the numbers, its results.html the page.",
            )
        for flag, given in (
            ("--load-cv-above", load_cv_above != Thresholds.load_cv_above),
            ("--cka-above", cka_above != Thresholds.cka_above),
            ("--silent-after", silent_after is not None),
        ):
            if given:
                raise UserError("a sweep has no alerts", where=flag, hint="Name one of its runs.")
        _show_sweep(sweeps[names[0]], interval, once=once)
    elif once or json:
        _print(names, runs_dir, thresholds, json)
    elif serve:
        options = ["--runs-dir", runs_dir, "--interval", interval]
        options += ["--load-cv-above", load_cv_above, "--cka-above", cka_above]
        options += [] if silent_after is None else ["--silent-after", silent_after]
        _serve(["monitor", *map(str, options), "--", *names], host or "127.0.0.1", port or 8000)
    else:
        _watch(names, runs_dir, thresholds, interval)


def _print(names: list[str], runs_dir: Path, thresholds: "Thresholds", json: bool) -> None:
    """One picture of the runs, or of the newest."""
    import io
    import os
    import sys

    from rich.console import Console

    from simsmoe_cli.monitor.json_snapshot import read, snapshot
    from simsmoe_cli.monitor.once import picture
    from simsmoe_cli.monitor.state.runs import find_runs
    from simsmoe_cli.run.find import find_folder, names_of

    paths = _each_once(find_folder(name, runs_dir) for name in names)
    if not paths:
        found = find_runs(runs_dir)
        if not found:
            raise DataError(
                "there are no runs here",
                where=str(runs_dir),
                hint="Train one by `simsmoe pretrain`, or point --runs-dir at a folder of runs.",
            )
        paths = [found[0].path]
    seen = [
        read(path, thresholds, name=name) for path, name in zip(paths, names_of(paths), strict=True)
    ]
    if json:
        print_json(snapshot(seen))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where the encoding has no such characters
    screen = Console(markup=False, emoji=False, highlight=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = PIPED_WIDTH
    color = screen.color_system is not None and not screen.no_color
    for line in picture(seen, max(NARROWEST, screen.width), color=color):
        if not color:
            line.rstrip()
        screen.print(line, soft_wrap=True)


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """The folders without those that are there twice under other names."""
    return list({path.resolve(): path for path in paths}.values())


def _watch(names: list[str], runs_dir: Path, thresholds: "Thresholds", interval: float) -> None:
    """The dashboard, in this terminal."""
    import os
    import sys

    served = "TEXTUAL_DRIVER" in os.environ  # a browser is the terminal
    # Textual draws on the error stream.
    streams = {"input": sys.stdin, "output": sys.stdout, "error output": sys.stderr}
    elsewhere = [name for name, stream in streams.items() if not stream.isatty()]
    if elsewhere and not served:
        typer.echo(
            f"simsmoe: the dashboard needs a terminal, and {', '.join(elsewhere)} "
            f"{'is' if len(elsewhere) == 1 else 'are'} redirected: one picture instead, as with "
            "--once.",
            err="error output" not in elsewhere or "output" in elsewhere,
        )
        _print(names, runs_dir, thresholds, json=False)
        return
    from simsmoe_cli.monitor.app import Monitor
    from simsmoe_cli.run.find import expected_folder

    paths = _each_once(expected_folder(name, runs_dir) for name in names)
    Monitor(paths, runs_dir, thresholds, interval).run()


def _show_sweep(found: "Found", interval: float, *, once: bool) -> None:
    """The table of a sweep or a search as it fills, or once; in a pipe once.

    Raises:
        typer.Exit: it ended while it was watched, and trainings failed; as `simsmoe sweep` ends.
    """
    from simsmoe_cli.cli.options import console

    screen = console()
    once = once or not screen.is_terminal
    if found.kind == "results":
        from simsmoe_cli.sweep.results import Results
        from simsmoe_cli.sweep.show import print_table
        from simsmoe_cli.sweep.table import table_of

        print_table(table_of(Results.existing(found.path)), screen)
        return
    if found.kind == "search":
        from simsmoe_cli.sweep.watch_search import watch_search

        failed = watch_search(found.path, screen, interval, once=once)
    else:
        from simsmoe_cli.sweep.watch import watch

        failed = watch(found.path, screen, interval, once=once)
    if failed:
        raise typer.Exit(1)


def _serve(arguments: list[str], host: str, port: int) -> None:
    """The dashboard, for browsers."""
    import sys

    try:
        from simsmoe_cli.monitor.serve import MonitorServer
    except ImportError:
        raise UserError(
            "--serve needs textual-serve",
            hint="Install it: python -m pip install 'simsmoe[serve]'",
        ) from None
    server = MonitorServer(shell(sys.executable, "-m", "simsmoe_cli", *arguments), host, port)
    try:
        server.serve()
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port}: {error.strerror}",
            hint="Choose another --port or --host.",
        ) from error
