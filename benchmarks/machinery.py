"""What surrounds training: preparing data, starting up, checkpoints, evaluation and generation."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.step import VOCABULARY, modern
from benchmarks.timing import Case, alternate, report
from simsmoe_cli.data.split_tokens import (
    CHUNK_BYTES,
    PIECE_BYTES,
    ChunkSums,
    Expected,
    SplitTokens,
)
from simsmoe_cli.errors import UserError
from simsmoe_cli.generation.sampling import Reader, Sampling, generate
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.run import checkpoint, save_checkpoint, weights
from simsmoe_cli.run.background_writer import Snapshot
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import resume_state
from simsmoe_cli.train.evaluate import evaluate_split
from simsmoe_cli.train.log_window import LogWindow
from simsmoe_cli.train.optim import build_optimizer
from simsmoe_cli.train.probes import probe, probe_batch

Tables = list[dict[str, Any]]
MEGABYTES = 100


def command(*words: str | Path) -> None:
    """Run a command line, quietly."""
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def simsmoe(*words: str | Path) -> None:
    command(sys.executable, "-m", "simsmoe_cli", *words)


def prepare(runs: int) -> Tables:
    """prepare-data of 100 MB of text with tokenizer bytes, against reading and hashing it."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        draw = random.Random(0)
        words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(5000)]
        line = " ".join(draw.choices(words, k=200_000)) + "\n"
        text.write_text((line * (MEGABYTES * 10**6 // len(line) + 1))[: MEGABYTES * 10**6])

        def bytes_tokens() -> None:
            simsmoe("prepare-data", text, "--name", "x", "--force", "--data-dir", folder)

        cases = [
            Case("prepare-data", bytes_tokens, MEGABYTES, "MB"),
            Case("sha256sum", lambda: command("sha256sum", text), MEGABYTES, "MB"),
            Case("cat", lambda: command("cat", text), MEGABYTES, "MB"),
        ]
        return [report("100 MB of text, tokenizer bytes", alternate(cases, runs), "sha256sum")]


def checking(runs: int) -> Tables:
    """Holding 1 GB of ids against their checksums, against plain reading of the same file."""
    megabytes = 1000
    with tempfile.TemporaryDirectory() as folder:
        path, sums = Path(folder) / "train.bin", ChunkSums()
        draw = np.random.default_rng(0)
        with open(path, "wb") as file:
            for _ in range(megabytes // 50):
                ids = draw.integers(0, 50_000, 25_000_000, dtype=np.uint16)
                sums.feed(ids)
                file.write(ids.data)
        dtype, tokens = np.dtype("<u2"), megabytes * 500_000
        checksums = tuple(sums.finish())
        expected = Expected(dtype, tokens, 50_000, "xxh3_64", CHUNK_BYTES, checksums)

        def check() -> None:
            os.utime(path)  # what changed just now is not remembered as checked
            SplitTokens(path, expected, UserError).check_all()

        def read() -> None:
            buffer = bytearray(PIECE_BYTES)
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

        def sha256() -> None:
            with open(path, "rb") as file:
                hashlib.file_digest(file, "sha256")

        cases = [
            Case("check chunks", check, megabytes, "MB"),
            Case("read", read, megabytes, "MB"),
            Case("sha256", sha256, megabytes, "MB"),
        ]
        return [report("1 GB of ids, page cache warm", alternate(cases, runs), "read")]


def startup(runs: int) -> Tables:
    """How soon commands answer, against importing typer."""
    cases = [
        Case("import typer", lambda: command(sys.executable, "-c", "import typer")),
        Case("simsmoe --help", lambda: simsmoe("--help")),
        Case("simsmoe list routers", lambda: simsmoe("list", "routers")),
        Case("simsmoe show quickstart", lambda: simsmoe("show", "quickstart")),
    ]
    return [report("start-up", alternate(cases, runs), "import typer")]


def checkpoints(runs: int) -> Tables:
    """A checkpoint of mistral-modern, and what training waits for, against a plain write."""
    recipe = modern("model.repeats=14")
    model = LanguageModel(recipe, VOCABULARY)
    optimizer = build_optimizer(model, recipe.train)
    model(torch.zeros(1, 8, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder) / "run")
        tensors = weights.optimizer_tensors(model, optimizer)
        objective: Any = SimpleNamespace(model=model, device=torch.device("cpu"), carried=dict)
        window = LogWindow()
        count = iter(range(10**6))
        size = sum(t.nbytes for t in [*model.state_dict().values(), *tensors.values()])
        state = {"recipe": recipe.model_dump(mode="json")}
        payload = os.urandom(size)

        def save() -> None:
            save_checkpoint.save(run, next(count), model, tensors, state)
            checkpoint.prune(run, 1)

        def copies() -> None:
            # All that stands between two steps; the rest is done by a thread (train/loop.py).
            resume_state.training_tensors(objective, optimizer, window)
            Snapshot(model)

        def plain() -> None:
            with open(Path(folder) / "plain", "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())

        cases = [
            Case("checkpoint", save, size / 1e6, "MB"),
            Case("of it, training waits", copies, size / 1e6, "MB"),
            Case("plain write", plain, size / 1e6, "MB"),
            Case("sha256", lambda: hashlib.sha256(payload).digest(), size / 1e6, "MB"),
        ]
        return [report("checkpoint of mistral-modern", alternate(cases, runs), "plain write")]


def reading(runs: int) -> Tables:
    """Evaluation and a probe against a plain forward pass, per token."""
    recipe = modern()
    model = LanguageModel(recipe, VOCABULARY)
    tokens = torch.randint(VOCABULARY, (32_768,)).to(torch.uint8).numpy()
    batch = probe_batch(tokens, 1024, 2048)
    context = StepContext(step=1, total_steps=2)

    def evaluate() -> None:
        evaluate_split(model, tokens, block=1024, streams=8, precision="fp32")

    def forward() -> None:
        with torch.no_grad():
            for start in range(0, len(tokens), 8192):
                part = torch.from_numpy(tokens[start : start + 8192]).long()
                model(part.view(8, 1024), (), context)

    cases = [
        Case("forward", forward, len(tokens), "tokens"),
        Case("eval", evaluate, len(tokens), "tokens"),
        Case("probe", lambda: probe(model, batch, context, "fp32"), batch.numel(), "tokens"),
    ]
    return [report("reading text, mistral-modern, 4 layers", alternate(cases, runs), "forward")]


def generating(runs: int) -> Tables:
    """Generated tokens after a prompt of 64 and of 1,024, with and without what was read kept."""
    recipe = modern()
    model = LanguageModel(recipe, VOCABULARY).eval()
    context = StepContext(step=1, total_steps=2)
    greedy, count = Sampling(temperature=0.0), 64
    tables = []
    for length in (64, 1024):
        prompt = torch.randint(VOCABULARY, (length,)).tolist()

        def kept(prompt: list[int] = prompt) -> None:
            for _ in generate(Reader(model, context), prompt, count, greedy):
                pass

        def anew(prompt: list[int] = prompt) -> None:
            text = list(prompt)
            for _ in range(count):
                logits_V, _ = Reader(model, context).read(text)
                text.append(int(logits_V.argmax()))

        cases = [Case("generate", kept, count, "tokens"), Case("read anew", anew, count, "tokens")]
        title = f"{count} tokens after a prompt of {length:,}, mistral-modern, 4 layers"
        tables.append(report(title, alternate(cases, min(runs, 3), warm=0), "read anew"))
    return tables


def reporting(runs: int) -> Tables:
    """`simsmoe collapse-report` and `simsmoe eval` of a short run, start-up included, per token."""
    with tempfile.TemporaryDirectory() as folder:
        here = ("--data-dir", Path(folder) / "data")
        run = Path(folder) / "run"
        modules = sorted(Path(os.__file__).parent.glob("*.py"))
        text = Path(folder) / "modules.txt"
        text.write_bytes(b"".join(module.read_bytes() for module in modules)[:2_000_000])
        simsmoe("prepare-data", text, "--name", "modules", *here)
        short = ("data.corpus=modules", "train.steps=5", "train.warmup_steps=0")
        settings = [word for change in short for word in ("--set", change)]
        simsmoe("pretrain", *settings, *here, "--runs-dir", folder, "--name", run.name)

        def case(name: str, *words: str | Path) -> Case:
            # A first run says how many tokens one reads.
            done = subprocess.run(
                [sys.executable, "-m", "simsmoe_cli", *map(str, words), "--json"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            shown = json.loads(done.stdout)
            tokens = (shown["findings"][-1]["text"] if "findings" in shown else shown)["tokens"]
            return Case(name, lambda: simsmoe(*words), tokens, "tokens")

        cases = [
            case("eval", "eval", run, *here),
            case("collapse-report", "collapse-report", run, *here),
        ]
        timed = alternate(cases, min(runs, 3), warm=0)
        return [report("collapse-report and eval of quickstart", timed, "eval")]
