"""What a shell offers at the tab key: names of runs, recipes, corpora, tasks and settings.

`simsmoe --install-completion` tells the shell to ask. Nothing heavy is imported here, and what
cannot be read is not offered.
"""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import typer


def answer(command: Any) -> None:
    """If a shell asks what it may offer, answer and end the process.

    bash splits the words of a line at each =, which settings have, and takes what follows it as the
    word to complete: the words are joined before typer sees them, and what is before the = is left
    out of the answer.

    Args:
        command: of typer.
    """
    if os.environ.get("_SIMSMOE_COMPLETE") != "complete_bash":
        command._main_shell_completion({}, "simsmoe")
        return
    words = _joined(os.environ.get("COMP_WORDS", ""), os.environ.get("COMP_CWORD", ""))
    os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    answers = io.StringIO()
    try:
        with contextlib.redirect_stdout(answers):
            command._main_shell_completion({}, "simsmoe")
    finally:
        value = words[-1]
        if value.startswith("-"):  # as in --set=moe.router=sm, where click answers without --set=
            value = value.partition("=")[2]
        known = value[: value.rfind("=") + 1]
        for line in answers.getvalue().splitlines():
            print(line.removeprefix(known))


def _joined(words: str, place: str) -> list[str]:
    """The words up to the one that is completed, joined where bash has split them at an =."""
    split = words.split("\n")[: int(place) + 1 if place.isdecimal() else None]
    joined: list[str] = []
    for before, word in zip(["", *split], split, strict=False):
        if joined and (word == "=" or (before == "=" and not word.startswith("-"))):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def complete_runs(context: typer.Context, incomplete: str) -> list[str]:
    """Runs below --runs-dir."""
    from simsmoe_cli.run.find import list_runs

    found = list_runs(_folder(context, "runs_dir", "runs"))
    return _beginning(incomplete, (path.name for path in found))


def complete_recipes(incomplete: str) -> list[str]:
    """Recipes that come with simsmoe."""
    from simsmoe_cli.recipe.load import list_recipes

    return _beginning(incomplete, (name for name, _ in list_recipes()))


def complete_corpora(context: typer.Context, incomplete: str) -> list[str]:
    """Corpora: those that are prepared, and those that prepare-data knows."""
    return _beginning(incomplete, _prepared(context, "corpora"))


def complete_tasks(context: typer.Context, incomplete: str) -> list[str]:
    """Tasks: those that are prepared, and those that prepare-data knows."""
    return _beginning(incomplete, _prepared(context, "tasks"))


def complete_data(context: typer.Context, incomplete: str) -> list[str]:
    """Whatever prepare-data knows by name."""
    from simsmoe_cli import registry

    return _beginning(incomplete, [*registry.CORPORA, *registry.TASKS])


def complete_kinds(incomplete: str) -> list[str]:
    """What `simsmoe list` lists."""
    from simsmoe_cli import registry

    return _beginning(incomplete, ["recipes", "sweeps", *registry.TABLES])


def complete_routers(incomplete: str) -> list[str]:
    """Routers."""
    from simsmoe_cli import registry

    return _beginning(incomplete, registry.ROUTERS)


def complete_experts(incomplete: str) -> list[str]:
    """Expert backends."""
    from simsmoe_cli import registry

    return _beginning(incomplete, ["auto", *registry.EXPERTS])


def complete_loggers(incomplete: str) -> list[str]:
    """Trackers."""
    from simsmoe_cli import registry

    return _beginning(incomplete, registry.LOGGERS)


def complete_similarity(incomplete: str) -> list[str]:
    """Presets of similarity learning."""
    return _beginning(incomplete, _choices("similarity.preset"))


def complete_settings(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of settings with what they mean, as FIELD=; after the equals sign the values of one
    that takes few."""
    from simsmoe_cli.recipe.fields import fields

    path, equals, begun = incomplete.partition("=")
    if equals:
        values = _beginning(begun, _values(context, path))
        return [(f"{path}={value}", "") for value in values]
    return [(f"{f.path}=", f.help) for f in fields() if f.path.startswith(incomplete)]


def _values(context: typer.Context, path: str) -> list[str]:
    """The values of a setting, if it takes few or names something."""
    from simsmoe_cli import registry

    if path == "data.corpus":
        return _prepared(context, "corpora")
    if path == "finetune.task":
        return _prepared(context, "tasks")
    if path == "moe.router":
        return list(registry.ROUTERS)
    return _choices(path)


def _choices(path: str) -> list[str]:
    """The values of a setting that takes few; empty for others."""
    from typing import Literal, get_args, get_origin

    from simsmoe_cli.recipe.fields import sections

    section, _, name = path.rpartition(".")
    schema = sections().get(section)
    info = schema.model_fields.get(name) if schema else None
    if info is None:
        return []
    if info.annotation is bool:
        return ["true", "false"]
    parts = [info.annotation, *get_args(info.annotation)]
    literal = next((part for part in parts if get_origin(part) is Literal), None)
    return [str(choice) for choice in get_args(literal)]


def _prepared(context: typer.Context, kind: str) -> list[str]:
    """Names of a kind of data: those known to prepare-data, and those below --data-dir."""
    from simsmoe_cli import registry
    from simsmoe_cli.files.names import names_in

    folder = _folder(context, "data_dir", "data")
    marker = "manifest.json" if kind == "corpora" else "task.json"
    found = [name for name in names_in(folder) if (folder / name / marker).is_file()]
    return list(dict.fromkeys([*found, *registry.TABLES[kind]]))


def _folder(context: typer.Context, option: str, default: str) -> Path:
    """The folder of an option; the one it has without."""
    return Path(context.params.get(option) or default)


def _beginning(incomplete: str, names: Any) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
