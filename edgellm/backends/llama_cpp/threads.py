"""How many threads suit this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["default_threads"]

CPU = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads(cpu: Path = CPU, quota: Path = QUOTA) -> int:
    """Give the number of physical cores that this process may use, at least 1.

    Two threads of one core share its arithmetic units, so that a second one only adds waiting.
    The files' places are parameters for the tests.
    """
    if sys.platform == "darwin":
        return _darwin_cores() or os.cpu_count() or 1
    allowed = _allowed_cpus()
    cores: set[str] = set()
    for number in allowed:
        try:
            cores.add((cpu / f"cpu{number}/topology/thread_siblings").read_text())
        except OSError:
            cores.add(str(number))
    return max(1, min(len(cores), _quota(quota) or len(cores)))


def _allowed_cpus() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))


def _quota(path: Path) -> int | None:
    """Give the CPUs that a container's limit allows: `cpu.max` holds microseconds and a period."""
    try:
        used, period = path.read_text().split()
        return max(1, int(used) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _darwin_cores() -> int | None:
    """Ask macOS for its fast cores, or else for all physical ones."""
    import ctypes

    libc = ctypes.CDLL(None)
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        value = ctypes.c_int32(0)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0:
            return value.value
    return None
