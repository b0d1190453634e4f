"""Token stores that somebody damaged: one clear line, or exactly the corpus that was prepared."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.streams import TrainStreams, evaluation_streams
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.files.untrusted import sealed
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import Plan
from tests.fuzz.driving import cases, contents, damaged, disturbed, require_clear, simsmoe
from tests.train.tiny import recipe

TEXT = "".join(f"line {number} of a text, said twice\n" for number in range(900))
KINDS: dict[str, dict[str, Any]] = {
    "bytes": {},
    "chars": {"tokenizer": "chars"},
    "words": {"tokenizer": "words"},
    "sentencepiece": {"tokenizer": "sentencepiece", "vocab_size": 300},
}
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of each tokenizer, not to be changed."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "own.txt").write_text(TEXT)
    for kind, asked in KINDS.items():
        prepare(str(folder / "own.txt"), folder / kind, **asked)
    return folder


@dataclass(frozen=True)
class Scored:
    """What a score is made from: what the manifest says, and what all doors to the ids give."""

    facts: dict[str, Any]
    read: list[object]


def scored(path: Path) -> Scored:
    store = TokenStore.open(path)
    facts = store.manifest.model_dump(exclude={"schema_version": True})
    for split in facts["splits"].values():
        del split["chunks"]
    inputs, targets, _ = TrainStreams(store.split("train"), 2, 16).read(3)
    read: list[object] = [store.manifest.fingerprint, inputs.tolist(), targets.tolist()]
    for name in SPLITS:
        for block in evaluation_streams(store.checked_split(name), 2, 64):
            read.append(block[0].tolist())
    read.append(store.tokenizer.decode(store.split("test")[:40]))
    store.verify()
    return Scored(facts, read)


def require_clear_error(error: UserError) -> None:
    assert error.code == EXIT_DATA, error
    assert str(error).isprintable(), error
    assert len(str(error)) < 2500, error


def damage(path: Path, rng: random.Random) -> bool:
    """Do something to a store; whether somebody did it who can make a checksum."""
    manifest = path / "manifest.json"
    kind = rng.randrange(8)
    if kind <= 1:  # a file that is not what it was
        file = rng.choice([file for file in sorted(path.iterdir()) if file != manifest])
        file.write_bytes(damaged(file.read_bytes(), rng))
    elif kind == 2:
        file = path / f"{rng.choice(SPLITS)}.bin"
        content = file.read_bytes()
        other = path / f"{rng.choice(SPLITS)}.bin"
        rng.choice(
            [
                lambda: file.write_bytes(bytes(len(content))),
                lambda: file.write_bytes(rng.randbytes(len(content))),
                lambda: file.write_bytes(other.read_bytes()),
                lambda: file.unlink(),
                lambda: (file.unlink(), file.mkdir()),
                lambda: (file.unlink(), file.symlink_to(file)),
            ]
        )()
    elif kind == 3:
        manifest.write_bytes(damaged(manifest.read_bytes(), rng))
    else:  # by hand, and half the time by somebody who knows of the checksum
        facts = json.loads(manifest.read_bytes())
        facts.pop("checksum")
        changed = disturbed(facts, rng)
        if kind == 4:
            changed = {**facts, "schema_version": 1}
            for split in changed["splits"].values():
                del split["chunks"]
        if kind >= 6 and isinstance(changed, dict):
            changed = sealed(changed)
        manifest.write_text(json.dumps(changed))
    return kind >= 6


def test_a_damaged_store_is_refused_or_is_not_damaged(stores: Path, tmp_path: Path) -> None:
    whole = {kind: scored(stores / kind) for kind in KINDS}
    refused = 0
    for case, rng in enumerate(cases(300, seed=1)):
        kind = rng.choice(list(KINDS))
        path = tmp_path / f"{case}"
        shutil.copytree(stores / kind, path)
        forged = damage(path, rng)
        try:
            found = scored(path)
        except UserError as error:
            refused += 1
            require_clear_error(error)
        else:
            assert found.read == whole[kind].read, case
            assert forged or found.facts == whole[kind].facts, case
        shutil.rmtree(path)
    assert refused > 150


@pytest.fixture(scope="module")
def trained(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the store "bytes", not to be changed."""
    runs = tmp_path_factory.mktemp("runs")
    made = recipe(data={"corpus": "bytes"}, train={"steps": 2}, eval={"final_blocks": 2})
    plan = Plan(made, RunDir(runs / "run"), None)
    session.train(plan, session.open_store(made, stores), torch.device("cpu"))
    return runs / "run"


def test_commands_name_a_damaged_store_in_one_line(
    stores: Path, trained: Path, tmp_path: Path
) -> None:
    run, data = str(trained), tmp_path / "data"
    score = _bpc(simsmoe("eval", run, "--data-dir", str(stores), "--json").out)
    for rng in cases(12, seed=2):
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(stores / "bytes", data / "bytes")
        forged = damage(data / "bytes", rng)
        before, run_before = contents(data), contents(trained)
        outcome = simsmoe("eval", run, "--data", str(data / "bytes"), "--json")
        require_clear(outcome, (0, EXIT_DATA))
        if outcome.code == 0:
            assert forged or _bpc(outcome.out) == pytest.approx(score)
        require_clear(
            simsmoe("prepare-data", str(stores / "own.txt"), "--out", str(data / "bytes")),
            (0, EXIT_DATA),
        )
        assert contents(data) == before
        assert contents(trained) == run_before
        again = simsmoe(
            "prepare-data", str(stores / "own.txt"), "--out", str(data / "bytes"), "--force"
        )
        require_clear(again, (0,))
        assert contents(data / "bytes") == contents(stores / "bytes")


def _bpc(printed: str) -> float:
    return float(json.loads(printed)["bpc"])
