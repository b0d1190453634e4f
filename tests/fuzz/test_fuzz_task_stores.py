"""Prepared tasks that somebody damaged: one clear line, or exactly what was prepared."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.tasks.encode import encode
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import Task, open_task
from simsmoe_cli.data.tokenizers.bytes import BytesTokenizer
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.files.untrusted import sealed
from tests.fuzz.driving import cases, contents, damaged, disturbed, require_clear, simsmoe

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and the task of it, not to be changed."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = "".join(f'"text {n}, é and ""this""",{"abc"[n % 3]}\n' for n in range(120))
    (folder / "own.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    prepare_task(str(folder / "own.csv"), folder / "own")
    return folder


def read(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """What the manifest says, and what training and evaluation get to see."""
    task = open_task(path, path.parent)
    texts: list[Any] = [task.manifest.fingerprint, task.labels]
    for name in task.manifest.splits:
        examples = task.split(name)
        encoded = encode(examples, BytesTokenizer(), 8)
        texts += [examples, encoded.labels.tolist()]
        assert all(0 <= example.label < len(task.labels) for example in examples)
    return task.manifest.model_dump(exclude={"schema_version"}), texts


def damage(path: Path, rng: random.Random) -> bool:
    """Do something to a task; whether somebody did it who can make checksums."""
    manifest = path / "task.json"
    file = path / f"{rng.choice(SPLITS)}.jsonl"
    facts = json.loads(manifest.read_bytes())
    facts.pop("checksum")
    kind = rng.randrange(6)
    if kind == 0:
        other = path / f"{rng.choice(SPLITS)}.jsonl"
        content = rng.choice([damaged(file.read_bytes(), rng), other.read_bytes()])
        file.write_bytes(content)
    elif kind == 1:
        manifest.write_bytes(damaged(manifest.read_bytes(), rng))
    elif kind == 2:
        manifest.write_text(json.dumps(disturbed(facts, rng)))
    elif kind == 3:
        manifest.write_text(json.dumps({**facts, "schema_version": 1}))
        return False
    elif kind == 4:
        changed = disturbed(facts, rng)
        manifest.write_text(json.dumps(sealed(changed) if isinstance(changed, dict) else changed))
    else:
        lines = file.read_bytes().splitlines()
        place = rng.randrange(len(lines))
        row = json.loads(lines[place])
        lines[place] = rng.choice(
            [
                json.dumps(disturbed(row, rng)).encode(),
                damaged(lines[place], rng),
                b"[" * 3000,
                json.dumps({**row, "label": rng.choice([-1, 3, 10**30, "0", True])}).encode(),
            ]
        )
        content = b"".join(line + b"\n" for line in lines)
        file.write_bytes(content)
        facts["splits"][file.stem] |= {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        manifest.write_text(json.dumps(sealed(facts)))
    return kind >= 4


def test_a_damaged_task_is_refused_or_is_not_damaged(made: Path, tmp_path: Path) -> None:
    facts, texts = read(made / "own")
    refused = 0
    for case, rng in enumerate(cases(300, seed=1)):
        path = tmp_path / f"{case}"
        shutil.copytree(made / "own", path)
        forged = damage(path, rng)
        try:
            found = read(path)
        except UserError as error:
            refused += 1
            require_clear_error(error)
        else:
            assert forged or found == (facts, texts), case
        shutil.rmtree(path)
    assert refused > 150


def require_clear_error(error: UserError) -> None:
    assert error.code == EXIT_DATA, error
    assert str(error).isprintable(), error
    assert len(str(error)) < 2500, error


def test_preparing_again_says_what_is_damaged_and_mends_it(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "own"
    anew = ("prepare-data", str(made / "own.csv"), "--label-column", "label", "--out", str(out))
    for rng in cases(15, seed=2):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made / "own", out)
        damage(out, rng)
        before = contents(out.parent)
        require_clear(simsmoe(*anew), (0, EXIT_DATA))
        assert contents(out.parent) == before
        require_clear(simsmoe(*anew, "--force"), (0,))
        assert contents(out) == contents(made / "own")
    assert Task.open(out).name == "own"
