"""Hostile values of --set for every field, and of the options that stand for one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from simsmoe_cli import registry
from simsmoe_cli.recipe.fields import fields
from tests.fuzz.driving import ODD, cases, contents, require_clear, simsmoe
from tests.fuzz.test_fuzz_recipes import FRAGMENTS, SMALL

NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "8", "64", "1000", "65536", "1000000", "10000000", "1e6"),
    *(
        "0.5",
        "1e-9",
        "1e308",
        "-1e308",
        "5e-324",
        str(2**31),
        str(2**63),
        str(10**18),
        "1" + "0" * 30,
    ),
    *(
        "nan",
        ".nan",
        "inf",
        "-.inf",
        "1e400",
        "true",
        "null",
        "[1, 2]",
        "[[0, 1], [1, 0]]",
        "auto",
        "1" + "0" * 30,
    ),
)


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_number_of_every_field() -> None:
    """Whatever is accepted in a recipe is shown; whatever is not is named."""
    for field in fields():
        section = field.path.partition(".")[0].replace("_", "-")
        router = ["--router", section] if section in registry.ROUTERS else []
        for rng in cases(3, seed=hash_of(field.path)):
            value = rng.choice(NUMBERS)
            require_clear(
                simsmoe("show", "quickstart", "--set", f"{field.path}={value}", *router), (0, 2)
            )


def test_hostile_values(tmp_path: Path) -> None:
    for number, rng in enumerate(cases(125, seed=11)):
        options = [word for _ in range(rng.choice([1, 1, 2, 5])) for word in option(rng)]
        done = simsmoe("show", rng.choice(["quickstart", "glam-small"]), *options)
        require_clear(done, (0, 2))
        if number % 25 == 0:
            small = [word for change in SMALL for word in ("--set", change)]
            dry = simsmoe("pretrain", "--dry-run", *small, *options, "--json")
            require_clear(dry, (0, 2, 5))
        assert contents(tmp_path) == {}


def test_sizes_of_every_order_are_estimated_or_refused() -> None:
    """Also where the product of several is past what 64 bits hold."""
    sizes = ("model.width", "moe.hidden", "moe.experts", "model.ffn_hidden", "train.batch")
    for rng in cases(16, seed=12):
        small = [word for change in SMALL for word in ("--set", change)]
        changes = [f"{name}={10 ** rng.randrange(1, 19)}" for name in rng.sample(sizes, 2)]
        options = [word for change in changes for word in ("--set", change)]
        require_clear(simsmoe("pretrain", "--dry-run", *small, *options), (0, 2, 5))


def option(rng: random.Random) -> tuple[str, str]:
    """One option and its value."""
    value = rng.choice([*FRAGMENTS, *NUMBERS, *(str(odd) for odd in ODD)]).replace("\x00", "0")
    kind = rng.randrange(10)
    if kind == 0:
        return ("--router", value)
    if kind == 1:
        return ("--similarity", value)
    if kind == 2:
        return ("--set", value)
    if kind == 3:
        return ("--set", f"{value}={value}")
    return ("--set", f"{rng.choice([field.path for field in fields()])}={value}")


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(character) * 31**place % 1009 for place, character in enumerate(text))
