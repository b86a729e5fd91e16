"""How many threads suit this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["default_threads"]

CPU = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")
# The fast cores of an Intel processor that has two kinds of them.
FAST = Path("/sys/devices/cpu_core/cpus")


def default_threads(cpu: Path = CPU, cgroup: Path = CGROUP, fast: Path = FAST) -> int:
    """Give the number of physical cores that this process may use, at least 1.

    Two threads of one core share its arithmetic units, so that a second one only adds waiting; and
    where a processor has fast and slow cores, the fast ones would wait for the slow.
    The files' places are parameters for the tests.
    """
    if sys.platform == "darwin":
        return _darwin_cores() or os.cpu_count() or 1
    allowed = _allowed_cpus()
    allowed = (allowed & _listed(fast)) or allowed
    cores: set[str] = set()
    for number in allowed:
        try:
            cores.add((cpu / f"cpu{number}/topology/thread_siblings").read_text())
        except OSError:
            cores.add(str(number))
    return max(1, min(len(cores), _quota(cgroup) or len(cores)))


def _allowed_cpus() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))


def _listed(path: Path) -> set[int]:
    """Read a list of numbers such as `0-7,9`; empty where there is no such file."""
    try:
        spans = [span.partition("-") for span in path.read_text().strip().split(",")]
        return {n for low, _, high in spans for n in range(int(low), int(high or low) + 1)}
    except (OSError, ValueError):
        return set()


def _quota(cgroup: Path) -> int | None:
    """Give the CPUs that a container's limit allows: microseconds in a period of so many."""
    try:
        used, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):  # an older kernel has two files in place of the one
        try:
            used = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return max(1, int(used) // int(period)) if int(used) > 0 else None
    except (ValueError, ZeroDivisionError):
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
