"""Main memory: how much there is, how much of it is free, and where it is swapped to."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edgellm.device.files import ROOT, cgroups, number, text
from edgellm.errors import BackendError

__all__ = ["Ram", "probe_ram"]


@dataclass(frozen=True, slots=True)
class Ram:
    """Memory in bytes.

    Attributes:
        total: what this process may use at most: the machine's, or a container's limit.
        available: what it can take at the moment without anything being swapped out.
        swap_total: places for memory that is moved out.
        swap_free: of them, those not in use.
        limited: whether a limit lies below what the machine has.
        swap_on: where it is swapped to: "zram", "sd-card", "disk"; None without swap.
    """

    total: int
    available: int
    swap_total: int = 0
    swap_free: int = 0
    limited: bool = False
    swap_on: str | None = None


def probe_ram(root: Path = ROOT) -> Ram:
    """Measure the memory of the machine that this runs on.

    Linux tells what is available without swapping (MemAvailable), and the limit of a control group
    counts where it is lower; what such a group uses for files can be taken back. macOS counts free
    and inactive pages. Elsewhere a half of the memory is taken as available, because there is no
    such number.

    Raises:
        BackendError: the system does not say how much memory it has.
    """
    values = _meminfo(root)
    total = values.get("MemTotal")
    if total is None:
        return _elsewhere()
    available = min(total, values.get("MemAvailable", total // 2))
    limited = False
    for folder in cgroups("memory", root):
        limit, used = _limit(folder)
        if limit is not None and limit < values["MemTotal"]:
            limited = True
            total = min(total, limit)
            available = min(available, max(0, limit - used))
    return Ram(
        total,
        available,
        values.get("SwapTotal", 0),
        values.get("SwapFree", 0),
        limited,
        _swap_kind(root),
    )


def _meminfo(root: Path) -> dict[str, int]:
    """Read /proc/meminfo, in bytes."""
    found = re.findall(r"^(\w+): +(\d{1,15}) kB$", text(root / "proc/meminfo"), re.MULTILINE)
    return {name: int(value) * 1024 for name, value in found}


def _limit(folder: Path) -> tuple[int | None, int]:
    """Give the limit of a control group, and what it uses beside caches of files."""
    limit, used = number(folder / "memory.max"), number(folder / "memory.current")
    if limit is None:  # an older kernel
        limit = number(folder / "memory.limit_in_bytes")
        used = number(folder / "memory.usage_in_bytes")
    stat = dict(
        re.findall(
            r"^(?:total_)?((?:in)?active_file) (\d{1,18})$",
            text(folder / "memory.stat"),
            re.MULTILINE,
        )
    )
    return limit, max(0, (used or 0) - sum(map(int, stat.values())))


def _swap_kind(root: Path) -> str | None:
    kinds = set()
    for line in text(root / "proc/swaps").splitlines()[1:]:
        name = line.split()[0] if line.split() else ""
        if "zram" in name:
            kinds.add("zram")
        elif "mmcblk" in name or "mmcblk" in _device_of(name, root):
            kinds.add("sd-card")
        elif name:
            kinds.add("disk")
    return next((kind for kind in ("sd-card", "disk", "zram") if kind in kinds), None)


def _device_of(name: str, root: Path) -> str:
    """Give the block device that a swap file lies on."""
    try:
        device = (root / name.lstrip("/")).stat().st_dev
        place = root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
        return place.readlink().name
    except OSError:
        return ""


def _elsewhere() -> Ram:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = os.sysconf("SC_PHYS_PAGES") * page
    except (ValueError, OSError, AttributeError) as error:
        raise BackendError(
            f"this system ({sys.platform}) does not say how much memory it has",
            hint="name a device, such as laptop-8gb",
        ) from error
    free = vm_stat_pages(_vm_stat()) if sys.platform == "darwin" else 0
    return Ram(total, min(total, free * page) if free else total // 2)


def vm_stat_pages(report: str) -> int:
    """Count the pages that macOS can give away, in what its vm_stat writes; 0 if it is not that."""
    found = re.findall(r"^Pages (free|inactive|speculative): +(\d{1,12})\.$", report, re.MULTILINE)
    return sum(int(count) for _, count in found)


def _vm_stat() -> str:
    import subprocess

    try:
        return subprocess.run(
            ["/usr/bin/vm_stat"], capture_output=True, text=True, check=False, timeout=2
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
