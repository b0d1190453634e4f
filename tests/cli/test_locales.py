"""A run is the same in every locale: files are UTF-8, and the terminal gets what it can show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from simsmoe_cli.recipe.load import dump_recipe, load_recipe
from tests.train.tiny import recipe

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = "ü, 漢 and – in one line"
COMMANDS = """
import sys
from simsmoe_cli.cli import main
main.prepare_streams()
codes = [main.run(line.split()) for line in sys.argv[1:]]
assert not any(codes), codes
"""


def test_a_run_is_trained_resumed_and_exported_without_a_locale(
    tmp_path: Path, corpus_dir: Path
) -> None:
    text = dump_recipe(recipe()).replace('description: ""', f"description: {DESCRIPTION}")
    text = text.replace("description: ''", f"description: {DESCRIPTION}")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    lines = (
        f"pretrain --recipe mine.yaml --name mine --set train.steps=4 --data-dir {corpus_dir}",
        f"pretrain --resume runs/mine --set train.steps=8 --profile 1 --data-dir {corpus_dir}",
        f"export mine out --data-dir {corpus_dir}",
        "show runs/mine/recipe.yaml",
    )
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lines],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONIOENCODING": "latin-1",
        },
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert load_recipe(str(tmp_path / "runs/mine/recipe.yaml")).description == DESCRIPTION
    assert "ü, ? and ? in one line" in done.stdout.decode("latin-1")
    assert (tmp_path / "out/README.md").read_text(encoding="utf-8").startswith("# mine\n")
