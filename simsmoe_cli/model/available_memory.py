"""Finds the memory that this process may still take, and refuses work that does not fit."""

from __future__ import annotations

from pathlib import Path

import torch

from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
RESERVE = 0.05  # of the free memory, left to other programs


def available(device: torch.device) -> int | None:
    """Bytes that this process may still take; None if the system does not say.

    On a CPU it is the smaller of the memory available without swapping and the memory that the
    control group of this process has left.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [value for value in (_of_system(), *_of_groups()) if value is not None]
    return min(found, default=None)


def require_memory(needed: float, device: torch.device, where: str, hint: str = "") -> None:
    """Refuse to go on where something does not fit.

    Args:
        needed: bytes, beyond those taken already.
        device: where they are needed.
        where: what needs them, for the message.
        hint: what to do then.

    Raises:
        UserError: fewer bytes are free.
    """
    free = available(device)
    if free is not None and needed > free * (1 - RESERVE):
        raise UserError(
            f"this needs {gigabytes(needed)} of memory, and {gigabytes(free)} are free",
            where=where,
            hint=hint or "Close other programs, or use a machine with more memory.",
            code=EXIT_OUT_OF_MEMORY,
        )


def gigabytes(size: float) -> str:
    """Bytes in words: "4.1 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"


def _of_system() -> int | None:
    try:
        lines = (PROC / "meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _of_groups() -> list[int]:
    """The memory left in each control group (versions 1 and 2) of this process."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if kinds == "memory":
            root, most, used = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif kinds == "":
            root, most, used = CGROUPS, "memory.max", "memory.current"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            limit, taken = _number(folder / most), _number(folder / used)
            if limit is not None and taken is not None:
                left.append(max(0, limit - taken + _reclaimable(folder)))
    return left


def _reclaimable(folder: Path) -> int:
    """Bytes of a control group that hold copies of files and can be dropped."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(values.get("inactive_file", 0))


def _number(file: Path) -> int | None:
    """The number in a file; None if there is no file, or if it sets no limit."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
