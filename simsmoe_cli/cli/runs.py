"""`simsmoe runs`: lists the runs of a folder, and deletes, renames and tags them."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simsmoe_cli.cli.complete import complete_runs
from simsmoe_cli.cli.options import (
    RUNS_DIR,
    JsonOption,
    RunArgument,
    RunsDirOption,
    console,
    in_bytes,
    print_json,
)
from simsmoe_cli.errors import UserError

if TYPE_CHECKING:
    from simsmoe_cli.monitor.state.runs import RunSummary

runs = typer.Typer(help="List runs: their state, score, similarity and size.")

NOT_TESTED = "trained, not tested"
TagOption = Annotated[
    str | None, typer.Option("--tag", metavar="TAG", help="Only runs that have this tag.")
]
SomeRuns = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Run folders, or their names under --runs-dir, as quoted patterns too: 'test-*'.",
        autocompletion=complete_runs,
    ),
]


@runs.callback(invoke_without_command=True)
def list_runs(
    context: typer.Context,
    tag: TagOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> None:
    """List runs: their state, score, similarity and size."""
    if context.invoked_subcommand is not None:
        if tag is not None or as_json:
            raise UserError(
                f"{'--tag' if tag is not None else '--json'} is for the list of runs",
                hint=f"Leave it out, or leave out {context.invoked_subcommand}.",
            )
        if _given(context):
            context.obj = runs_dir
        return
    from simsmoe_cli.monitor.state.runs import find_runs
    from simsmoe_cli.run.folder import RunDir
    from simsmoe_cli.run.tags import read_tags

    found = [(run, read_tags(RunDir(run.path))) for run in find_runs(runs_dir)]
    shown = [_facts(run, tags) for run, tags in found if tag is None or tag in tags]
    if as_json:
        print_json(shown)
    elif shown:
        _print(shown)
    elif found:
        console().print(f"no run in {runs_dir} has the tag '{tag}'", soft_wrap=True)
    else:
        console().print(
            f"no runs in {runs_dir}; train one: simsmoe pretrain --recipe quickstart",
            soft_wrap=True,
        )


def _given(context: typer.Context) -> bool:
    """Whether --runs-dir is on the command line, and not from the environment or left out."""
    source = context.get_parameter_source("runs_dir")
    return source is not None and source.name == "COMMANDLINE"


def _folder(context: typer.Context, runs_dir: Path) -> Path:
    """The folder of runs of a subcommand: its own option, or else the one before it."""
    before = context.obj
    return before if isinstance(before, Path) and not _given(context) else runs_dir


def _facts(run: "RunSummary", tags: list[str]) -> dict[str, Any]:
    """A run as one object of JSON; None is unknown."""
    from simsmoe_cli.run.manage import size_bytes

    tested = not math.isnan(run.test_score)
    known = run.test_score if tested else run.score
    return {
        "name": run.name,
        "path": str(run.path),
        "state": run.state,
        "step": run.step,
        "total_steps": run.total_steps,
        "score": None if math.isnan(known) else known,
        "score_name": run.score_name,
        "score_split": "test" if tested else "valid or train",
        "cka": None if math.isnan(run.cka) else run.cka,
        "recipe": run.recipe_name,
        "router": run.router,
        "similarity": run.similarity,
        "bytes": size_bytes(run.path),
        "modified": run.modified,
        "tags": tags,
    }


def _print(shown: list[dict[str, Any]]) -> None:
    """The list as a table, and the sum of the sizes."""
    import time

    from rich.table import Table

    from simsmoe_cli.errors import printable
    from simsmoe_cli.run.duration import duration

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True, style="bold")
    for heading in ("state", "step", "score", "CKA", "size", "written"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "state" else "right")
    for heading in ("similarity", "recipe", "tags"):
        table.add_column(heading)
    for run in shown:
        score = "–" if run["score"] is None else f"{run['score']:.3f} {run['score_name']}"
        if run["score_split"] == "test":
            score = f"test {score}"
        total = f"/{run['total_steps']:,}" if run["total_steps"] else ""
        table.add_row(
            printable(run["name"]),
            NOT_TESTED if run["state"] == "trained" else run["state"],
            f"{run['step']:,}{total}",
            score,
            "–" if run["cka"] is None else f"{run['cka']:.3f}",
            in_bytes(run["bytes"]),
            f"{duration(max(0.0, time.time() - run['modified']))} ago",
            run["similarity"],
            run["recipe"],
            ", ".join(run["tags"]),
        )
    screen = console()
    screen.print(table)
    total_bytes = in_bytes(sum(run["bytes"] for run in shown))
    screen.print(f"\n{len(shown)} run{'s' if len(shown) > 1 else ''}, {total_bytes}")


def remove(
    context: typer.Context,
    names: SomeRuns,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Delete runs, with their checkpoints and reports; asks first."""
    from simsmoe_cli.run.find import find_runs_named
    from simsmoe_cli.run.manage import delete, require_begun, size_bytes

    found = find_runs_named(names, _folder(context, runs_dir))
    for run in found:
        require_begun(run)
    screen = console()
    for run in found:
        screen.print(f"{run.path}  {in_bytes(size_bytes(run.path))}", soft_wrap=True)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("nobody can be asked here whether to delete them", hint="Add --yes.")
        if not typer.confirm(f"Delete {'it' if len(found) == 1 else f'these {len(found)} runs'}?"):
            screen.print("nothing was deleted")
            return
    for run in found:
        delete(run)
    screen.print(f"deleted {len(found)} run{'s' if len(found) > 1 else ''}")


def rename(
    context: typer.Context,
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Give a run another name."""
    from simsmoe_cli.run.find import find_run
    from simsmoe_cli.run.manage import rename as rename_run

    before = find_run(run, _folder(context, runs_dir))
    after = rename_run(before, name)
    console().print(f"{before.path} is now {after.path}", soft_wrap=True)


def tag(
    context: typer.Context,
    run: RunArgument,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[TAG]...", help="Words to find it by.")
    ] = None,
    remove_tags: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="TAG", help="Take a tag away; repeatable."),
    ] = None,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Tag a run, or show its tags."""
    from simsmoe_cli.run.find import find_run
    from simsmoe_cli.run.tags import change_tags, read_tags

    found = find_run(run, _folder(context, runs_dir))
    missing = sorted(set(remove_tags or ()) - set(read_tags(found)))
    if missing:
        raise UserError(
            f"this run has no tag '{missing[0]}'",
            where="--remove",
            hint=f"It has: {', '.join(read_tags(found)) or 'none'}.",
        )
    now = change_tags(found, tags or (), remove_tags or ())
    console().print(f"{found.name}: {', '.join(now) or 'no tags'}", soft_wrap=True)


def add_commands(command: type[Any]) -> None:
    """Add the commands of `simsmoe runs`.

    Args:
        command: their class.
    """
    for name, function in (("rm", remove), ("rename", rename), ("tag", tag)):
        runs.command(name, cls=command)(function)
