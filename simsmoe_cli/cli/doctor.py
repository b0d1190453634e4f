"""`simsmoe doctor`: what this machine has, what it lacks, and how to get it."""

from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    DataDirOption,
    JsonOption,
    RunsDirOption,
    console,
    print_json,
)

if TYPE_CHECKING:
    from simsmoe_cli.doctor import Finding


DeepOption = Annotated[
    bool, typer.Option("--deep", help="Also compile a small function, which takes up to a minute.")
]


def doctor(
    json: JsonOption = False,
    deep: DeepOption = False,
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Look at this machine: what is there, what is missing, what that costs, how to get it.

    Exits with 2 if something is broken that training needs.
    """
    from dataclasses import asdict

    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.doctor import examine
    from simsmoe_cli.errors import EXIT_USAGE

    with StageProgress(console(stderr=True), in_bytes=False) as progress:
        progress("examining this machine", 0, None)
        findings = list(examine(data_dir, runs_dir, deep=deep))
    broken = [finding.name for finding in findings if finding.status == "broken"]
    if json:
        print_json({"ok": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        typer.echo(f"\nbroken: {', '.join(broken)}" if broken else "\nready to train")
    if broken:
        raise typer.Exit(EXIT_USAGE)


def _print(findings: "list[Finding]") -> None:
    """One paragraph per finding: status, name, what is there; the consequence and the remedy."""
    import textwrap

    from rich.text import Text

    styles = {"ok": "green", "missing": "yellow", "broken": "bold red"}
    screen = console()
    indent = 9 + max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        lines = [finding.found]
        if finding.status != "ok":
            lines += [f"cost: {finding.cost}", *f"remedy: {finding.remedy}".splitlines()]
        width = max(screen.width - indent, 20)
        wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
        body = f"\n{' ' * indent}".join(wrapped)
        status = (f"{finding.status:<9}", styles[finding.status])
        name = (f"{finding.name:<{indent - 9}}", "bold")
        screen.print(Text.assemble(status, name, body), soft_wrap=True)
