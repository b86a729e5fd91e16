"""How fast main memory is read: measured, and remembered for a month.

Writing a token reads each weight once, so that this bounds how fast a model can be. A backend's
kernels read more slowly than that; how slowly is measured by the backend and remembered here.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgellm.device.cpu import Cpu
from edgellm.errors import BackendError
from edgellm.settings import cache_dir

__all__ = ["Bandwidth", "measure_bandwidth", "read_bandwidth"]

Kernel = Callable[[int, int], float]
A_MONTH = 30 * 86400
# What was measured while other programs ran is too low, and soon measured again.
AN_HOUR = 3600
BUSY = 0.5  # programs that run, for each of our threads
# Seconds that are measured, beside what it takes to fill the memory.
DURATION = 0.4
LARGEST = 256 * 2**20
LONGEST_FILE = 10_000
FILE = "bandwidth.json"
# Bytes of weights for which kernels are measured.
SIZES = tuple(n * 2**20 for n in (32, 64, 128, 256))


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """A measurement.

    Attributes:
        bytes_per_s: bytes read a second, by all threads together, at best.
        threads: how many read.
        buffer: bytes that were read in turn.
        cpu: the processor's name.
        measured: when, in seconds since 1970.
        busy: whether other programs ran, so that it may be too low.
        kernel: bytes of weights that llama.cpp multiplies with a vector a second, for weights of
            so many bytes, `((bytes, bytes a second), ...)`, since caches and the tables of pages
            favour small ones; empty if it could not be measured.
    """

    bytes_per_s: float
    threads: int
    buffer: int
    cpu: str
    measured: float
    busy: bool
    kernel: tuple[tuple[int, float], ...] = ()

    def kernel_at(self, size: int) -> float | None:
        """Give what the kernels read a second of weights of `size` bytes; None if not measured.

        Between two measured sizes the logarithm of the size counts.
        """
        if not self.kernel:
            return None
        (low, rate), *rest = self.kernel
        if size <= low:
            return rate
        for high, other in rest:
            if size <= high:
                share = math.log(size / low) / math.log(high / low)
                return rate + share * (other - rate)
            low, rate = high, other
        return rate


def read_bandwidth(
    cpu: Cpu, available: int, kernel: Kernel | None = None, *, measure: bool = False
) -> Bandwidth:
    """Give the bandwidth as it was measured in the last 30 days, or measure it.

    Where other programs ran meanwhile, it is measured anew after an hour.

    Args:
        cpu: the processor; a measurement of another one does not count.
        available: bytes of memory that may be used.
        kernel: measures a backend's kernels, given threads and bytes.
        measure: measure even where there is a recent measurement.
    """
    found = None if measure else _remembered(cpu)
    if found is None:
        found = measure_bandwidth(cpu, available)
        if kernel is not None:
            with suppress(BackendError):
                points = tuple((n, kernel(cpu.threads, n)) for n in SIZES if n <= found.buffer)
                found = replace(found, kernel=points)
        _remember(found)
    return found


def measure_bandwidth(cpu: Cpu, available: int) -> Bandwidth:
    """Read memory that no cache holds with as many threads as models get; the best pass counts.

    The buffer has 256 MiB, which no cache of a usual device holds, but at most a quarter of what is
    available.
    """
    import numpy as np

    size = min(LARGEST, max(available // 4, 2**20))
    # Ones: pages of zeros that were never written all lie at one place.
    busy = _load() > BUSY * cpu.threads
    words = np.ones(size // 8, np.uint64)
    parts = np.array_split(words, cpu.threads)
    best = 0.0
    end = time.perf_counter() + DURATION
    while best == 0.0 or time.perf_counter() < end:
        threads = [
            threading.Thread(target=np.bitwise_or.reduce, args=(part,), daemon=True)
            for part in parts
        ]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, words.nbytes / (time.perf_counter() - begin))
    return Bandwidth(best, cpu.threads, words.nbytes, cpu.name, time.time(), busy)


def _load() -> float:
    """Give how many programs ran on average in the last minute; 0 where nothing tells."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _remembered(cpu: Cpu) -> Bandwidth | None:
    try:
        with (cache_dir() / FILE).open("rb") as file:
            stored = json.loads(file.read(LONGEST_FILE))
        points = tuple((int(size), float(rate)) for size, rate in stored.pop("kernel"))
        found = Bandwidth(**stored, kernel=points)
        valid = (
            0 < found.bytes_per_s < 1e14
            and all(0 < size < 2**40 and 0 < rate < 1e14 for size, rate in points)
            and list(points) == sorted(points, key=lambda point: point[0])
            and (found.cpu, found.threads) == (cpu.name, cpu.threads)
            and 0 <= time.time() - found.measured < (AN_HOUR if found.busy else A_MONTH)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if valid else None


def _remember(found: Bandwidth) -> None:
    """Write it beside its place first; a disk that takes nothing is no reason to fail."""
    folder = cache_dir()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".bandwidth-")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(found), file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(folder / FILE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
