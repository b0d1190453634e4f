"""Checks of torch, the GPU, the compiler and the expert backends.

An expert backend is ok if it computes a small mixture, forward and backward, with the same result
as the plain loop.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from simsmoe_cli import registry
from simsmoe_cli.doctor.finding import Finding, first_line

if TYPE_CHECKING:
    import torch

TORCH_NEEDED = (2, 11)

BUILD_FASTMOE = """\
It is not on a package registry. With CUDA, nvcc and a C++ compiler it builds in ten minutes:
git clone https://github.com/laekov/fastmoe
cd fastmoe && git checkout ee3c561
python3 -m pip install dm-tree
python3 -m pip install --no-build-isolation .
It needs NCCL's headers, and libnccl.so on the library path. With USE_NCCL=0 before the last \
command it is built without NCCL, which is enough for one process."""


def torch_build() -> Finding:
    """Whether torch can be imported, and is new enough."""
    needed = ".".join(map(str, TORCH_NEEDED))
    cost, remedy = "nothing can be trained", f"python3 -m pip install --upgrade 'torch>={needed}'"
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "broken", f"cannot be imported: {first_line(error)}", cost, remedy)
    builds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip, "the CPU": ""}
    build = next(f"{name} {version}" for name, version in builds.items() if version is not None)
    found = f"{torch.__version__}, built for {build.strip()}"
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH_NEEDED:
        return Finding("torch", "broken", f"{found}; older than {needed}", cost, remedy)
    return Finding("torch", "ok", found)


def cuda() -> Finding:
    """Whether torch finds a GPU."""
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
    complaint = f" ({first_line(caught[0].message)})" if caught else ""
    return Finding(
        "cuda",
        "missing",
        f"torch finds no device{complaint}",
        cost,
        "See what nvidia-smi says, and whether CUDA_VISIBLE_DEVICES hides the device: there may be "
        f"no GPU, no driver, or one too old for CUDA {torch.version.cuda}.",
    )


def bf16(device: torch.device) -> Finding:
    """Whether the device computes bf16."""
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


def grouped(device: torch.device) -> Finding:
    """Whether the default expert backend computes."""
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


def compiler(device: torch.device, deep: bool) -> Finding:
    """Whether torch.compile can work; `deep` tries it."""
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
        return f"torch.compile fails: {first_line(error)}"
    return ""


def fastmoe(device: torch.device) -> Finding:
    """Whether the optional expert backend computes."""
    from simsmoe_cli.moe.experts import fastmoe as backend

    lacking = backend.missing()
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
            # relu experts take another way on a CPU
            pair = [
                registry.load("experts", name)(4, 16, 16, activation="swiglu", bias=False)
                for name in (backend, "loop")
            ]
        pair[0].load_state_dict(pair[1].state_dict())
        results = []
        for experts in pair:
            experts.to(device)
            with autocast(device, resolve_precision("auto", device)):
                out = experts.mixture(x_TD, index_TK, weight_TK).float()
            out.square().sum().backward()
            results.append([out.detach(), *(p.grad for p in experts.parameters())])
    except Exception as error:
        return f"{backend} fails: {first_line(error)}"
    for found, expected in zip(*results, strict=True):
        if not (found - expected).norm() < 0.05 * expected.norm():
            return f"{backend} computes something else than the loop"
    return ""


def processor() -> Finding:
    """Whether all cores are used."""
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
