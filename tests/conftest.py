"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import inspect
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from simsmoe_cli.data.store import TokenStore

# Tests run side by side on few cores; threads of their own would only wait for each other.
# Set before torch is imported, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
# Where the user has set it, every process that a test starts would compile all our modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts what runs in the background (`.ci/run &`) with Ctrl-C ignored, and so would be the
# processes that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile(
    "untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]

# What is imported stays until the end: while it is, and later in it, there is no garbage to find.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def a_cpu_without_bf16() -> Iterator[None]:
    """train.precision auto is fp32 on whatever machine tests run."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    kept = {name: value for name, value in capabilities.items() if "bf16" not in name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: kept)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real corpora that lies beside the checkout."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared folder beside this checkout")
    return path


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one corpus, two modules of the standard library, prepared as bytes
    ("sources") and as words ("words")."""
    import argparse
    import typing

    from simsmoe_cli.data.corpora.prepare import prepare

    folder = tmp_path_factory.mktemp("data")
    text = folder / "sources.txt"
    text.write_text(inspect.getsource(argparse) + inspect.getsource(typing))
    prepare(str(text), folder / "sources")
    prepare(str(text), folder / "words", tokenizer="words")
    return folder


@pytest.fixture(scope="session")
def store(corpus_dir: Path) -> TokenStore:
    from simsmoe_cli.data.store import TokenStore

    return TokenStore.open(corpus_dir / "sources")
