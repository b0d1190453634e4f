"""Broken recipe files: damaged bytes, changed values, made-up YAML; shown and estimated."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from simsmoe_cli.recipe.fields import fields
from simsmoe_cli.recipe.load import dump_recipe, load_recipe
from tests.fuzz.driving import (
    ODD,
    cases,
    contents,
    damaged,
    disturbed,
    require_clear,
    require_nothing_half_written,
    simsmoe,
)

# Of a model so small that its dry run takes no time; what is changed may make it huge.
SMALL = (
    *("model.repeats=1", "model.width=16", "model.heads=2", "moe.hidden=16", "moe.experts=4"),
    *("train.batch=4", "train.block=32", "train.steps=50"),
)
FRAGMENTS = (
    *("!!int abc", "!!bool maybe", "!!timestamp x", "!!python/object:os.system {}", "!!binary '='"),
    *("!!set {a}", "!!omap [a]", "&a [*a]", "*b", "<<: {a: 1}", "? [a]\n: 1", "--- a\n--- b"),
    *("9" * 5000, "1e999", "-.inf", ".nan", "0x10", "0o7", "1_0", "1:30", "2024-01-01", "~", "yes"),
    *(
        "[" * 3000,
        "{" * 3000,
        "- " * 3000,
        "a: " * 50,
        "\ta: 1",
        "'unfinished",
        '"\\ud800"',
        "|\n x",
    ),
    *('"\\UFFFFFFFF"', '"\\0"', "\x00", "\x1b[31m", "\ufeff", "\x85", "%TAG ! x", "%YAML 9.9", "@"),
    *("#", "...", ">-", "\u202e", "1 000", "١", "x" * 5000, "\r", "key: value: more", "[1, 2"),
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Recipes that are fine, the first of them small."""
    names = ("quickstart", "glam-small", "mistral-modern")
    return [dump_recipe(load_recipe("quickstart", SMALL))] + [
        dump_recipe(load_recipe(name)) for name in names
    ]


def test_damaged_files(texts: list[str], tmp_path: Path) -> None:
    for number, rng in enumerate(cases(80, seed=1)):
        content = rng.choice(texts).encode()
        for _ in range(rng.choice([0, 1, 1, 1, 3])):
            content = damaged(content, rng)
        show(tmp_path / f"{number}.yaml", content, rng)


def test_changed_values(tmp_path: Path) -> None:
    small = load_recipe("quickstart", SMALL)
    whole = small.model_dump(exclude=small.idle_sections)
    for number, rng in enumerate(cases(80, seed=2)):
        value: Any = whole
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            value = disturbed(value, rng)
        content = yaml.safe_dump(value, allow_unicode=rng.random() < 0.5).encode(errors="replace")
        path = tmp_path / f"{number}.yaml"
        show(path, content, rng)
        if number % 40 == 0:
            before = contents(tmp_path)
            done = simsmoe("pretrain", "--recipe", str(path), "--dry-run", "--data-dir", "nowhere")
            require_clear(done, (0, 2, 5))
            assert contents(tmp_path) == before


def test_made_up_yaml(tmp_path: Path) -> None:
    for number, rng in enumerate(cases(80, seed=3)):
        show(tmp_path / f"{number}.yaml", made_up(rng).encode(errors="surrogatepass"), rng)


def test_undamaged_files_are_shown(texts: list[str], tmp_path: Path) -> None:
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        require_clear(simsmoe("show", str(path)), (0,))
    dry = simsmoe("pretrain", "--recipe", str(tmp_path / "0.yaml"), "--dry-run", "--json")
    require_clear(dry, (0,))


def show(path: Path, content: bytes, rng: random.Random) -> None:
    """Write a recipe and show it; nothing but that file may be there afterwards."""
    path.write_bytes(content)
    options = rng.choice([[], ["--json"], ["--fields"], ["--fields", "--json"]])
    require_clear(simsmoe("show", str(path), *options), (0, 2))
    require_nothing_half_written(path.parent)


def made_up(rng: random.Random) -> str:
    """Lines that look like a recipe's, with fragments that no recipe has."""
    known = [field.path for field in fields()]
    lines = []
    for _ in range(rng.choice([1, 3, 3, 10, 300])):
        section, _, name = rng.choice(known).rpartition(".")
        value = rng.choice(FRAGMENTS) if rng.random() < 0.7 else str(rng.choice(ODD))
        kind = rng.randrange(4)
        if kind == 0:
            lines.append(f"{section or name}: {{{name}: {value}}}")
        elif kind == 1:
            lines.append(f"{section or name}:\n  {name}: {value}")
        elif kind == 2:
            lines.append(f"{value}: {name}")
        else:
            lines.append(value)
    return "\n".join(lines)
