"""The built wheel: recipes travel inside, and the command works outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from simsmoe_cli import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(unpacked: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "simsmoe_cli", *arguments],
        cwd=unpacked.parent,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipes_and_licence_are_inside_and_nothing_else_of_the_checkout(unpacked: Path) -> None:
    recipes = unpacked / "simsmoe_cli" / "recipes"
    inside = {path.relative_to(recipes) for path in recipes.rglob("*") if path.is_file()}
    assert inside == {path.relative_to(ROOT / "recipes") for path in ROOT.glob("recipes/**/*.yaml")}
    top = {path.name for path in unpacked.iterdir()}
    assert top == {"simsmoe_cli", f"simsmoe-{__version__}.dist-info"}
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    guide = "docs/choosing.md"
    assert (unpacked / "simsmoe_cli" / guide).read_text() == (ROOT / guide).read_text()


def test_metadata_names_the_command_and_what_it_needs(unpacked: Path) -> None:
    (folder,) = unpacked.glob("*.dist-info")
    assert "simsmoe = simsmoe_cli.cli.entry:main" in (folder / "entry_points.txt").read_text()
    metadata = Parser().parsestr((folder / "METADATA").read_text())
    assert (metadata["Name"], metadata["Version"]) == ("simsmoe", __version__)
    assert metadata["License-Expression"] == "MIT"
    needed = [line.partition(">")[0] for line in metadata.get_all("Requires-Dist", [])]
    assert {"torch", "typer", "pydantic", "pyyaml"} <= set(needed)


def test_the_command_finds_its_recipes_outside_the_checkout(unpacked: Path) -> None:
    where = run(unpacked, "list", "recipes", "--json")
    names = {row["name"] for row in json.loads(where)}
    assert names == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert "name: glam-small" in run(unpacked, "show", "glam-small")
