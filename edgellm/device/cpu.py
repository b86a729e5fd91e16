"""The processor: its name, the cores that this process may use, and its instructions."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edgellm.device.files import ROOT, cgroups, listed, number, text

__all__ = ["Cpu", "default_threads", "probe_cpu"]

# What llama.cpp has kernels for, by the names that Linux gives in /proc/cpuinfo. Those of arm64 are
# written as everyone else writes them.
_X86 = (
    "ssse3", "sse4_2", "f16c", "fma", "avx", "avx2", "bmi2", "avx_vnni", "avx512f", "avx512bw",
    "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16",
)  # fmt: skip
_ARM = {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm", "bf16": "bf16",
        "sve": "sve", "sve2": "sve2", "sme": "sme"}  # fmt: skip
_DARWIN = {"AdvSIMD": "neon", "FEAT_DotProd": "dotprod", "FEAT_FP16": "fp16", "FEAT_I8MM": "i8mm",
           "FEAT_BF16": "bf16", "FEAT_SME": "sme"}  # fmt: skip
# Arm's own designs, by the part number of their ID register (arm64 kernels give no name).
_PARTS = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57",
    0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78",
    0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2",
}  # fmt: skip
ARM_LIMITED = 0x41


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor as this process sees it.

    Attributes:
        name: of the processor, and of the board where one is named.
        architecture: x86_64, aarch64, arm64 ...
        logical: threads of the hardware that this process may run on.
        physical: cores among them.
        threads: how many threads edgellm uses by default.
        quota: processors that a container's limit allows, fractions too; None without a limit.
        kinds: where cores differ, how many there are of each speed, the fastest first.
        features: instruction sets that matter to llama.cpp.
        cache_bytes: of the largest cache; 0 if not known.
    """

    name: str
    architecture: str
    logical: int
    physical: int
    threads: int
    quota: float | None
    kinds: tuple[int, ...]
    features: tuple[str, ...]
    cache_bytes: int


def probe_cpu(root: Path = ROOT) -> Cpu:
    """Describe the processor; what the system does not tell is empty."""
    darwin = sys.platform == "darwin"
    info = text(root / "proc/cpuinfo")
    allowed = _allowed()
    capacities = [_capacity(root, each) for each in allowed]
    kinds = [capacities.count(each) for each in sorted(set(capacities), reverse=True)]
    fast = allowed & listed(root / "sys/devices/cpu_core/cpus")
    if len(kinds) < 2 and fast and fast != allowed:
        kinds = [len(fast), len(allowed - fast)]
    return Cpu(
        name=_darwin_text("machdep.cpu.brand_string") if darwin else _name(info, root),
        architecture=platform.machine(),
        logical=len(allowed),
        physical=(_darwin_number("hw.physicalcpu") if darwin else 0) or len(_cores(root, allowed)),
        threads=default_threads(root),
        quota=_quota(root),
        kinds=tuple(kinds) if len(kinds) > 1 else (),
        features=_darwin_features() if darwin else _features(info),
        cache_bytes=_darwin_number("hw.l2cachesize") if darwin else _cache_bytes(root),
    )


def default_threads(root: Path = ROOT) -> int:
    """Give the number of physical cores that this process may use, at least 1.

    Two threads of one core share its arithmetic units, so that a second one only adds waiting; and
    where a processor has fast and slow cores, the fast ones would wait for the slow. Of arm64's
    kinds of cores those count as slow that do less than half of the fastest one's work.
    """
    if sys.platform == "darwin":
        fast = _darwin_number("hw.perflevel0.physicalcpu") or _darwin_number("hw.physicalcpu")
        return fast or os.cpu_count() or 1
    allowed = _allowed()
    allowed = (allowed & listed(root / "sys/devices/cpu_core/cpus")) or allowed
    most = max(_capacity(root, each) for each in allowed)
    cores = _cores(root, {each for each in allowed if 2 * _capacity(root, each) >= most})
    quota = _quota(root)
    return max(1, min(len(cores), int(quota) if quota else len(cores)))


def _allowed() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))


def _cores(root: Path, processors: set[int]) -> set[str]:
    """Name the cores of logical processors by their siblings."""
    folder = root / "sys/devices/system/cpu"
    return {
        text(folder / f"cpu{each}/topology/thread_siblings") or f"only {each}"
        for each in processors
    }


def _capacity(root: Path, processor: int) -> int:
    """Give what a core does in relation to the fastest (1024), as arm64 kernels tell."""
    return number(root / f"sys/devices/system/cpu/cpu{processor}/cpu_capacity") or 1024


def _quota(root: Path) -> float | None:
    """Give the processors that limits of control groups allow: time in a period of so much."""
    found = []
    for folder in cgroups("cpu", root):
        used, _, period = text(folder / "cpu.max").partition(" ")
        if not period:  # an older kernel has two files in place of the one
            used = text(folder / "cpu.cfs_quota_us")
            period = text(folder / "cpu.cfs_period_us")
        if used.isdecimal() and period.isdecimal() and int(used) and int(period):
            found.append(int(used) / int(period))
    return min(found, default=None)


def _name(info: str, root: Path) -> str:
    fields = _fields(info)
    names = []
    for key in ("model name", "Hardware"):
        if fields.get(key):
            names.append(fields[key][0])
            break
    else:
        parts = zip(fields.get("CPU implementer", []), fields.get("CPU part", []), strict=False)
        for maker, part in dict.fromkeys(parts):
            if _hex(maker) == ARM_LIMITED and _hex(part) in _PARTS:
                names.append(_PARTS[_hex(part)])
    board = text(root / "proc/device-tree/model")
    return ", ".join(filter(None, [board, *names])) or platform.processor() or platform.machine()


def _features(info: str) -> tuple[str, ...]:
    fields = _fields(info)
    words = set(" ".join(fields.get("flags", [])[:1] + fields.get("Features", [])[:1]).split())
    arm = tuple(name for flag, name in _ARM.items() if flag in words)
    return arm or tuple(flag for flag in _X86 if flag in words)


def _fields(info: str) -> dict[str, list[str]]:
    """Collect the values of each key of /proc/cpuinfo, a processor after the other."""
    found: dict[str, list[str]] = {}
    for line in info.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), []).append(value.strip())
    return found


def _hex(word: str) -> int:
    return int(word, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", word) else 0


def _cache_bytes(root: Path) -> int:
    sizes = [0]
    for index in range(8):
        size = text(root / f"sys/devices/system/cpu/cpu0/cache/index{index}/size")
        if found := re.fullmatch(r"(\d{1,9})([KM])", size):
            sizes.append(int(found[1]) * {"K": 2**10, "M": 2**20}[found[2]])
    return max(sizes)


def _darwin_features() -> tuple[str, ...]:
    arm = [name for key, name in _DARWIN.items() if _darwin_number(f"hw.optional.arm.{key}")]
    if arm:
        return tuple(arm)
    words = f"{_darwin_text('machdep.cpu.features')} {_darwin_text('machdep.cpu.leaf7_features')}"
    known = {flag.upper().replace("_", "."): flag for flag in _X86} | {"AVX1.0": "avx"}
    return tuple(known[word] for word in words.split() if word in known)


def _darwin_number(name: str) -> int:
    raw = _sysctl(name)
    return int.from_bytes(raw, "little") if len(raw) in (4, 8) else 0


def _darwin_text(name: str) -> str:
    return _sysctl(name).rstrip(b"\0").decode("utf-8", "replace")


def _sysctl(name: str) -> bytes:
    """Ask macOS for a value; empty where it knows none of that name."""
    import ctypes

    libc = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(4096)
    size = ctypes.c_size_t(len(buffer))
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, 0):
        return b""
    return buffer.raw[: size.value]
