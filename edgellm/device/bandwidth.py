"""How fast main memory is read: measured, and remembered for a month.

Writing a token reads each weight once, so that this bounds how fast a model can be.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm.device.cpu import Cpu
from edgellm.settings import cache_dir

__all__ = ["Bandwidth", "measure_bandwidth", "read_bandwidth"]

DAYS = 30
# Seconds that are measured, beside what it takes to fill the memory.
DURATION = 0.4
SMALLEST, LARGEST = 64 * 2**20, 256 * 2**20
# Memory in the cache would be measured otherwise.
CACHES = 4
LONGEST_FILE = 10_000
FILE = "bandwidth.json"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """A measurement.

    Attributes:
        bytes_per_s: bytes read a second, by all threads together, at best.
        threads: how many read.
        buffer: bytes that were read in turn.
        cpu: the processor's name.
        measured: when, in seconds since 1970.
    """

    bytes_per_s: float
    threads: int
    buffer: int
    cpu: str
    measured: float


def read_bandwidth(cpu: Cpu, available: int, *, measure: bool = False) -> Bandwidth:
    """Give the bandwidth as it was measured in the last 30 days, or measure it.

    Args:
        cpu: the processor; a measurement of another one does not count.
        available: bytes of memory that may be used.
        measure: measure even where there is a recent measurement.
    """
    found = None if measure else _remembered(cpu)
    if found is None:
        found = measure_bandwidth(cpu, available)
        _remember(found)
    return found


def measure_bandwidth(cpu: Cpu, available: int) -> Bandwidth:
    """Read memory that no cache holds with as many threads as models get; the best pass counts.

    The buffer is four times the largest cache, between 64 and 256 MiB, and at most a quarter of
    what is available.
    """
    import numpy as np

    size = min(max(CACHES * cpu.cache_bytes, SMALLEST), LARGEST, max(available // 4, 2**20))
    # Ones: pages of zeros that were never written all lie at one place.
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
    return Bandwidth(best, cpu.threads, words.nbytes, cpu.name, time.time())


def _remembered(cpu: Cpu) -> Bandwidth | None:
    try:
        with (cache_dir() / FILE).open("rb") as file:
            found = Bandwidth(**json.loads(file.read(LONGEST_FILE)))
        valid = (
            0 < found.bytes_per_s < 1e14
            and (found.cpu, found.threads) == (cpu.name, cpu.threads)
            and 0 <= time.time() - found.measured < DAYS * 86400
        )
    except (OSError, ValueError, TypeError, RecursionError):
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
