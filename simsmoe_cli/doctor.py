"""Checks this machine: what is installed, what is missing, the consequences, and how to install it.

Checks try things instead of asking for versions: an expert backend is ok if it computes a small
mixture, forward and backward, with the same result as the plain loop. torch is imported inside the
checks, so that a torch that cannot be imported is a finding and not a crash.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from simsmoe_cli import __version__, registry

if TYPE_CHECKING:
    import torch

TORCH_NEEDED = (2, 11)
LITTLE_DISK = 2e9  # bytes

# Packages besides torch: whether training needs them, and what does not work without them.
PACKAGES = {
    "numpy": (True, "nothing can be prepared or trained"),
    "safetensors": (True, "no checkpoint can be written or read"),
    "sentencepiece": (False, "no sentencepiece tokenizer; bytes, chars and words work"),
    "pooch": (False, "corpora cannot be downloaded; prepare-data --source reads files"),
    "textual": (False, "no live dashboard; training still prints its progress"),
    "transformers": (False, "no collapse-report of Hugging Face models (extra hf)"),
    "accelerate": (False, "no collapse-report of Hugging Face models in fp8 (extra hf)"),
    "datasets": (False, "no data sets of Hugging Face in prepare-data (extra hf)"),
    "pyarrow": (False, "no parquet in prepare-data (extra hf)"),
    "zstandard": (False, "no .zst files in prepare-data (extra hf)"),
    "textual-serve": (False, "no dashboard in a browser, monitor --serve (extra serve)"),
}

# Only looked for: importing takes seconds, and they remember a torch that was missing then.
NOT_IMPORTED = {"transformers", "accelerate", "datasets", "pyarrow"}

BUILD_FASTMOE = """\
It is not on a package registry. With CUDA, nvcc and a C++ compiler it builds in ten minutes:
git clone https://github.com/laekov/fastmoe
cd fastmoe && git checkout ee3c561
python3 -m pip install dm-tree
python3 -m pip install --no-build-isolation .
It needs NCCL's headers, and libnccl.so on the library path. With USE_NCCL=0 before the last \
command it is built without NCCL, which is enough for one process."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the subject of the check.
        status: ok; missing, if training works without it; broken, if it does not.
        found: the result in words.
        cost: the features that do not work, or are slower, without it; empty if ok.
        remedy: how to get it, a line per command; empty if ok.
    """

    name: str
    status: Literal["ok", "missing", "broken"]
    found: str
    cost: str = ""
    remedy: str = ""


def examine(data_dir: Path, runs_dir: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Check this machine, one thing after the other.

    Args:
        data_dir, runs_dir: where corpora and runs will be written.
        deep: also compile a small function, which takes up to a minute.
    """
    yield Finding("simsmoe", "ok", f"{__version__}, {Path(__file__).parent}")
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")
    torch_finding = _torch()
    yield torch_finding
    if torch_finding.status == "ok":
        import torch

        cuda = _cuda()
        yield cuda
        device = torch.device("cuda" if cuda.status == "ok" else "cpu")
        yield _bf16(device)
        yield _grouped(device)
        yield _compiler(device, deep)
        yield _fastmoe(device)
        yield _processor()
    for name in PACKAGES:
        yield _package(name)
    yield _folder("data folder", data_dir, "--data-dir or SIMSMOE_DATA")
    yield _folder("runs folder", runs_dir, "--runs-dir or SIMSMOE_RUNS")


def _torch() -> Finding:
    needed = ".".join(map(str, TORCH_NEEDED))
    cost, remedy = "nothing can be trained", f"python3 -m pip install --upgrade 'torch>={needed}'"
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "broken", f"cannot be imported: {_line(error)}", cost, remedy)
    builds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip, "the CPU": ""}
    build = next(f"{name} {version}" for name, version in builds.items() if version is not None)
    found = f"{torch.__version__}, built for {build.strip()}"
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH_NEEDED:
        return Finding("torch", "broken", f"{found}; older than {needed}", cost, remedy)
    return Finding("torch", "ok", found)


def _cuda() -> Finding:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        return Finding(
            "cuda",
            "ok",
            ", ".join(
                f"{device.name} ({device.total_memory / 1e9:.0f} GB, capability "
                f"{device.major}.{device.minor})"
                for device in devices
            ),
        )
    cost = "training runs on the CPU: enough for quickstart, far too slow for the papers' models"
    if torch.version.cuda is None:
        return Finding(
            "cuda",
            "missing",
            "this build of torch has none",
            cost,
            "On a machine with an NVIDIA GPU install torch's build for CUDA, as its installation "
            "page says.",
        )
    complaint = f" ({_line(caught[0].message)})" if caught else ""
    return Finding(
        "cuda",
        "missing",
        f"torch finds no device{complaint}",
        cost,
        "See what nvidia-smi says, and whether CUDA_VISIBLE_DEVICES hides the device: there may be "
        f"no GPU, no driver, or one too old for CUDA {torch.version.cuda}.",
    )


def _bf16(device: torch.device) -> Finding:
    import torch

    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Finding("bf16", "ok", "the GPU computes it; train.precision auto uses it")
        return Finding(
            "bf16",
            "missing",
            "the GPU does not compute it",
            "training runs in fp32: slower, and activations take twice the memory",
            "A GPU of compute capability 8.0 or newer.",
        )
    from simsmoe_cli.model.precision import choose_precision, cpu_bf16

    if flags := cpu_bf16():
        choice = choose_precision(device)
        return Finding(
            "bf16",
            "ok",
            f"the CPU has {', '.join(flags)}; train.precision auto is {choice.name}: {choice.why}",
        )
    return Finding(
        "bf16",
        "missing",
        "the CPU has no instructions for it",
        "nothing by default: train.precision auto is fp32 here, and bf16 would be slower",
        "A CPU with AVX512-BF16 or AMX, or a GPU.",
    )


def _grouped(device: torch.device) -> Finding:
    trouble = _trouble("grouped", device)
    if not trouble:
        return Finding("grouped_mm", "ok", f"computes forward and backward on {device.type}")
    return Finding(
        "grouped_mm",
        "missing",
        trouble,
        "training needs --experts loop: one expert after the other, which is slower, and waits on "
        "a GPU in every layer",
        "A newer torch, or a GPU that it supports.",
    )


def _compiler(device: torch.device, deep: bool) -> Finding:
    lacking = []
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            lacking.append("the package triton")
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cc"]
    else:
        default = "clang++" if sys.platform == "darwin" else "g++"
        compilers = [os.environ.get("CXX") or default]
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        lacking.append(f"a compiler ({' or '.join(compilers)})")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacking.append("Python's header files")
    trouble = f"no {' and no '.join(lacking)}" if lacking else ""
    if deep and not trouble:
        trouble = _compile_trouble(device)
    if not trouble:
        tried = "compiled a small function" if deep else "not tried; --deep compiles a function"
        return Finding("compiler", "ok", f"{compiler}; {tried}")
    return Finding(
        "compiler",
        "missing",
        trouble,
        "train.compile must be off, and steps are slower"
        if device.type == "cuda"
        else "nothing by default: train.compile auto is off on a CPU",
        "A C and C++ compiler and Python's development package, from the system's packages; "
        "CC and CXX may name compilers.",
    )


def _compile_trouble(device: torch.device) -> str:
    """The error when a small function is compiled; empty if it works."""
    import torch

    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (x * 2).relu().sum())(x).backward()
    except Exception as error:
        return f"torch.compile fails: {_line(error)}"
    return ""


def _fastmoe(device: torch.device) -> Finding:
    from simsmoe_cli.moe.experts import fastmoe

    lacking = fastmoe.missing()
    trouble = f"needs {lacking}" if lacking else _trouble("fastmoe", device)
    if lacking and device.type == "cpu" and importlib.util.find_spec("fmoe") is None:
        trouble += "; the package fmoe is not installed either"
    if not trouble:
        return Finding("fastmoe", "ok", f"computes forward and backward on {device.type}")
    return Finding(
        "fastmoe",
        "missing",
        trouble,
        "--experts fastmoe does not work; the default, grouped, does not need it",
        BUILD_FASTMOE,
    )


def _trouble(backend: str, device: torch.device) -> str:
    """The error when an expert backend computes a small mixture; empty if it works.

    Outputs and gradients of weights are compared with those of the loop, in training's precision.
    """
    import torch

    from simsmoe_cli.model.precision import resolve_precision
    from simsmoe_cli.train.evaluate import autocast

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x_TD = torch.randn(16, 16).to(device)
            index_TK = torch.rand(16, 4).topk(2).indices.to(device)
            weight_TK = torch.full((16, 2), 0.5, device=device)
            pair = [registry.load("experts", name)(4, 16, 16) for name in (backend, "loop")]
        pair[0].load_state_dict(pair[1].state_dict())
        results = []
        for experts in pair:
            experts.to(device)
            with autocast(device, resolve_precision("auto", device)):
                out = experts.mixture(x_TD, index_TK, weight_TK).float()
            out.square().sum().backward()
            results.append([out.detach(), *(p.grad for p in experts.parameters())])
    except Exception as error:
        return f"{backend} fails: {_line(error)}"
    for found, expected in zip(*results, strict=True):
        if not (found - expected).norm() < 0.05 * expected.norm():
            return f"{backend} computes something else than the loop"
    return ""


def _processor() -> Finding:
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads = torch.get_num_threads()
    found = f"{cores} cores, {threads} threads"
    limit = next((n for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(n)), None)
    if limit and threads < cores:
        return Finding(
            "threads",
            "missing",
            f"{found}, because of {limit}={os.environ[limit]}",
            "training on a CPU leaves cores idle",
            f"Unset {limit}.",
        )
    return Finding("threads", "ok", found)


def _package(name: str) -> Finding:
    required, cost = PACKAGES[name]
    module = name.replace("-", "_")
    try:
        if name in NOT_IMPORTED:
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named '{module}'")
        else:
            importlib.import_module(module)
        return Finding(name, "ok", importlib.metadata.version(name))
    except (ImportError, OSError) as error:
        status: Literal["broken", "missing"] = "broken" if required else "missing"
        found = f"cannot be imported: {_line(error)}"
        return Finding(name, status, found, cost, f"python3 -m pip install --upgrade {name}")


def _folder(name: str, path: Path, change: str) -> Finding:
    path = path.absolute()
    at = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=at):
            pass
    except OSError as error:
        return Finding(
            name,
            "broken",
            f"{path}: cannot be written: {error.strerror}",
            "nothing can be prepared or trained",
            f"Correct its permissions, or choose another by {change}.",
        )
    free = shutil.disk_usage(at).free
    found = f"{path}, {free / 1e9:.1f} GB free"
    if free < LITTLE_DISK:
        return Finding(
            name,
            "missing",
            found,
            "a full disk ends a run, with exit code 3",
            f"Free some space, or choose another folder by {change}.",
        )
    return Finding(name, "ok", found)


def _line(error: object) -> str:
    """The first line of an error's text, or its kind."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
