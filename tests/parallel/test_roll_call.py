"""A rank that does not come to an exchange is named by all others, those outside its group too."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from simsmoe_cli.errors import EXIT_RANK_LOST, UserError
from simsmoe_cli.parallel import roll_call
from simsmoe_cli.recipe.parallel import ParallelSettings
from simsmoe_cli.train.together import together
from tests.gloo_ranks import as_rank

RANKS, VICTIM = 4, 3  # in two rows of two, so the victim's row has one more


def wait_in_vain(rank: int, port: int, folder: Path, stopped: bool) -> None:
    """Write what a rank says about the others; the victim says nothing."""
    as_rank(rank, RANKS, port)
    settings = ParallelSettings(replicate=2, timeout_s=2)
    try:
        with together(settings, torch.device("cpu")) as world:
            if rank == VICTIM:
                os.kill(os.getpid(), signal.SIGSTOP) if stopped else time.sleep(300)
            row = world.sharding["shard"].get_group()
            dist.all_reduce(torch.zeros(1), group=row if rank == VICTIM - 1 else None)
    except UserError as error:
        (folder / str(rank)).write_text(f"{error.code} {error}")
        os._exit(0)


@pytest.mark.parametrize(
    ("stopped", "said"), [(True, "lost contact with rank 3"), (False, "waited in vain for rank 3")]
)
def test_a_rank_that_hangs_is_named_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool, said: str
) -> None:
    monkeypatch.setattr(roll_call, "PATIENCE_S", 2.0)
    monkeypatch.setattr(roll_call, "LISTEN_S", 0.1)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = mp.start_processes(
        wait_in_vain,
        (store.port, tmp_path, stopped),
        nprocs=RANKS,
        join=False,
        start_method="fork",
    )
    victim = context.processes.pop(VICTIM)
    for process in context.processes:
        process.join(60)
    victim.kill()
    victim.join()
    for rank in range(VICTIM):
        message = (tmp_path / str(rank)).read_text()
        assert message.startswith(f"{EXIT_RANK_LOST} {said} (cpu of"), message
