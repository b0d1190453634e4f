"""Checkpoints that several ranks write together, each of which is a thread here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.errors import DataError
from simsmoe_cli.parallel.sharded import OwnShare
from simsmoe_cli.parallel.writers import Writers
from simsmoe_cli.run import checkpoint, save_checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.tensor_files import TensorFiles

RANKS = 2


class ThreadWriters(Writers):
    """A rank whose exchanges go through the memory of this process."""

    def __init__(self, rank: int, meeting: threading.Barrier, texts: dict[int, bytes]):
        super().__init__()
        self.rank, self.size = rank, RANKS
        self._meeting, self._texts = meeting, texts

    def _gather(self, text: bytes) -> list[dict[str, Any]]:
        self._texts[self.rank] = text
        self._meeting.wait(30)
        found = [json.loads(self._texts[rank]) for rank in range(RANKS)]
        self._meeting.wait(30)
        return found


def on_threads(work: Callable[[Writers], None]) -> list[BaseException | None]:
    """The exception of each rank."""
    meeting, texts = threading.Barrier(RANKS), dict[int, bytes]()
    with ThreadPoolExecutor(RANKS) as threads:
        made = [threads.submit(work, ThreadWriters(n, meeting, texts)) for n in range(RANKS)]
        return [future.exception() for future in made]


def share(rank: int, step: int) -> OwnShare:
    """Two of the four numbers of a tensor."""
    return OwnShare({"x": torch.full((2,), float(step))}, {"x": (2 * rank,)})


def test_a_rank_that_is_ahead_loses_nothing_of_the_next_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank is slow to name the files of step 1, after which it deletes all others."""
    run, ahead = RunDir(tmp_path), threading.Event()
    write_state, move = save_checkpoint._write_state, save_checkpoint.atomic.move

    def slowly(path: Path, state: dict[str, Any]) -> None:
        ahead.wait(0.3)
        write_state(path, state)

    def watched(partial: Path, path: Path) -> None:
        move(partial, path)
        if path.name.startswith("weights-0000002"):
            ahead.set()

    def work(writers: Writers) -> None:
        for step in (1, 2):
            save_checkpoint.save_best(run, step, share(writers.rank, step), {}, writers)

    monkeypatch.setattr(save_checkpoint, "_write_state", slowly)
    monkeypatch.setattr(save_checkpoint.atomic, "move", watched)
    assert on_threads(work) == [None, None]
    files = checkpoint.weights_files(run.best, json.loads((run.best / "state.json").read_text()))
    assert TensorFiles(files).read("x").tolist() == [2.0] * 4


@pytest.mark.parametrize("save", ["save", "save_best"])
def test_a_full_disk_at_the_very_end_is_known_to_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str
) -> None:
    run = RunDir(tmp_path)

    def full(path: Path, state: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    def work(writers: Writers) -> None:
        own = share(writers.rank, 1)
        if save == "save":
            save_checkpoint.save(run, 1, own, own, {}, writers)
        else:
            save_checkpoint.save_best(run, 1, own, {}, writers)

    monkeypatch.setattr(save_checkpoint, "_write_state", full)
    for error in on_threads(work):
        assert isinstance(error, DataError)
        assert "cannot write the checkpoint: [Errno 28] No space left" in str(error)
    assert checkpoint.list_checkpoints(run) == []
    assert [path for path in run.path.rglob("*") if "partial" in path.name] == []
