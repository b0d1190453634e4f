"""`simsmoe sweep`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    RecipeOption,
    RunsDirOption,
    SetOption,
)
from simsmoe_cli.cli.searching import search_through
from simsmoe_cli.cli.sweeping import (
    JobsOption,
    KeepWeightsOption,
    Options,
    PlanOption,
    ResultsOption,
    ReuseOption,
    YesOption,
    sweep_through,
)
from simsmoe_cli.errors import UserError, printable

if TYPE_CHECKING:
    from simsmoe_cli.sweep.definition import Definition
    from simsmoe_cli.sweep.ranges import Range

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="A sweep: a YAML file, the name of one that comes with simsmoe, or a results.json to "
        "go on with. Left out: one from --recipe, --grid and --seeds.",
    ),
]
GridOption = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        "-g",
        metavar="A.B=C,D",
        help="Values of a field; with several fields, all combinations. Repeatable.",
    ),
]
SeedsOption = Annotated[
    str | None, typer.Option(help="Seeds of every cell, such as 0-4 or 0,1,2; 0-2 if left out.")
]
BaselineOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A.B=C",
        help="Settings of the cells that others are compared with; similarity.preset=none if a "
        "grid has it. Repeatable.",
    ),
]
SearchOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        metavar="N",
        help="Choose N settings by optuna (extra sweep) from ranges given by --grid, such as "
        "similarity.weight=0.0003..0.03: each is one training, judged and given up by validation.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option(help="Name of the sweep's folder below --runs-dir.")
]


def sweep(
    file: FileArgument = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    grid: GridOption = None,
    seeds: SeedsOption = None,
    baseline: BaselineOption = None,
    search: SearchOption = None,
    name: NameOption = None,
    jobs: JobsOption = 1,
    yes: YesOption = False,
    dry_run: PlanOption = False,
    keep_weights: KeepWeightsOption = False,
    results: ResultsOption = None,
    reuse: ReuseOption = None,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Train all combinations of settings with several seeds; compare them with intervals.

    Finished trainings are skipped, so the same command goes on after an interruption.
    """
    from simsmoe_cli.files.names import check_name

    if name is not None:
        check_name(name)
    if search is not None:
        _refuse(
            "a search has no use for it; it takes --recipe and --grid",
            (str(file), file is not None),
            ("--baseline", baseline is not None),
            ("--keep-weights", keep_weights),
            ("--results", results is not None),
            ("--reuse", reuse is not None),
        )
        what = _to_search(recipe, settings, grid, seeds, name)
        search_through(
            *what,
            search,
            jobs,
            yes=yes,
            dry_run=dry_run,
            device=device,
            data_dir=data_dir,
            runs_dir=runs_dir,
        )
        return
    if file is None:
        definition = _from_options(recipe, settings, grid, seeds, baseline)
    else:
        _refuse(
            "the sweep's file has it",
            ("--recipe", recipe is not None),
            ("--grid", grid is not None),
            ("--baseline", baseline is not None),
        )
        definition = _from_file(file, settings, seeds)
        results, reuse = _with_trainings_of(file, results, reuse)
    sweep_through(
        definition,
        Options(
            name or definition.name,
            jobs,
            yes,
            dry_run,
            keep_weights,
            results,
            reuse,
            device,
            data_dir,
            runs_dir,
        ),
    )


def _refuse(why: str, *options: tuple[str, bool]) -> None:
    """Raise a UserError for the first option that is given."""
    for option, given in options:
        if given:
            raise UserError(why, where=option, hint="Leave it out.")


def _from_options(
    recipe: str | None,
    settings: list[str] | None,
    grid: list[str] | None,
    seeds: str | None,
    baseline: list[str] | None,
) -> "Definition":
    from simsmoe_cli.sweep.arguments import assignments, given_seeds, parse_axes
    from simsmoe_cli.sweep.definition import (
        default_baseline,
        definition_of,
        require_not_varied,
    )
    from simsmoe_cli.sweep.ranges import parse_range

    if not grid:
        raise UserError(
            "nothing to compare is given",
            where="--grid",
            hint="Give a sweep's file, or for example --grid similarity.preset=none,calibrated.",
        )
    for text in grid:
        where = f"--grid {printable(text)}"
        if parse_range(text.partition("=")[2], where) is not None:
            raise UserError(
                "a range is for a search",
                where=where,
                hint="Add --search N, or give values: A.B=C,D.",
            )
    axes = parse_axes(grid)
    given = assignments(baseline or [], "--baseline")
    chosen = assignments(settings or [], "--set")
    require_not_varied(chosen, [axes])
    return definition_of(
        {
            "name": f"{Path(recipe or 'quickstart').stem}-sweep",
            "recipe": recipe or "quickstart",
            "settings": chosen,
            "seeds": given_seeds("0-2" if seeds is None else seeds),
            "grids": [axes],
            "baseline": given or default_baseline(axes),
        },
        "the command line",
    )


def _to_search(
    recipe: str | None,
    settings: list[str] | None,
    grid: list[str] | None,
    seeds: str | None,
    name: str | None,
) -> "tuple[Definition, dict[str, Range]]":
    """What to search, and the ranges of its fields."""
    from simsmoe_cli.recipe.fields import fields
    from simsmoe_cli.sweep.arguments import assignments, given_seeds, require_new
    from simsmoe_cli.sweep.definition import definition_of
    from simsmoe_cli.sweep.ranges import parse_range

    kinds = {known.path: known.type for known in fields()}
    ranges: dict[str, Range] = {}
    for text in grid or []:
        field, _, values = text.partition("=")
        where = f"--grid {printable(text)}"
        found = parse_range(values, where)
        if found is None:
            raise UserError(
                "a search needs a range",
                where=where,
                hint="For example --grid similarity.weight=0.0003..0.03; fixed values with --set.",
            )
        field = field.strip()
        require_new(field, ranges)
        ranges[field] = found.of_type(kinds.get(field, ""), field)
    if not ranges:
        raise UserError("a search needs a range", where="--grid", hint="For example A.B=1..8.")
    of_seeds = given_seeds("0" if seeds is None else seeds)
    if len(of_seeds) > 1:
        raise UserError("a search trains with one seed", where="--seeds", hint="Give one.")
    base = recipe or "quickstart"
    definition = definition_of(
        {
            "name": name or f"{Path(base).stem}-search",
            "recipe": base,
            "settings": assignments(settings or [], "--set"),
            "seeds": of_seeds,
            "grids": [{field: [values.low] for field, values in ranges.items()}],
        },
        "the command line",
    )
    return definition, ranges


def _from_file(file: Path, settings: list[str] | None, seeds: str | None) -> "Definition":
    from simsmoe_cli.sweep.arguments import assignments
    from simsmoe_cli.sweep.definition import changed, read_definition
    from simsmoe_cli.sweep.results import Results

    _refuse_folder(file)
    if file.suffix == ".json":
        definition = Results.existing(file).sweep
    else:
        definition = read_definition(file)
    return changed(definition, assignments(settings or [], "--set"), seeds)


def _with_trainings_of(
    file: Path, results: Path | None, reuse: list[Path] | None
) -> tuple[Path | None, list[Path] | None]:
    """--results and --reuse of a sweep whose file has finished trainings, or not."""
    from simsmoe_cli.sweep.folder import RESULTS

    if file.suffix != ".json":
        return results, reuse
    if file.name == RESULTS and results is None:
        return file.parent, reuse
    return results, [file, *(reuse or [])]


def _refuse_folder(file: Path) -> None:
    """Raise a UserError for a folder; that of a sweep names how to go on with it."""
    from simsmoe_cli.recipe.load import list_sweeps
    from simsmoe_cli.sweep.folder import find_sweep, results_file
    from simsmoe_cli.sweep.results import Results

    if not file.is_dir() or str(file) in dict(list_sweeps()):
        return
    found = find_sweep(file, Path())
    where = printable(file, 200)
    if found is None:
        raise UserError(
            "this is a folder, and a sweep is a file or a name",
            where=where,
            hint="Names: simsmoe list sweeps.",
        )
    if found.kind == "search":
        raise UserError(
            "this is the folder of a search",
            where=where,
            hint="Go on with it by the same command, with --search and its ranges; look at it by "
            f"simsmoe monitor {shlex.quote(str(file))}.",
        )
    results = results_file(file)
    name = Results.existing(results).sweep.name
    place = "" if name == file.name else f" --name {shlex.quote(file.name)}"
    elsewhere = found.kind == "sweep" and file.parent != RUNS_DIR
    runs_dir = f" --runs-dir {shlex.quote(str(file.parent))}" if elsewhere else ""
    raise UserError(
        "this is the folder of a sweep",
        where=where,
        hint=f"Go on with it by its file: simsmoe sweep {shlex.quote(str(results))}"
        f"{place}{runs_dir}",
    )
