"""The machines that a bundle can be made for, as data.

Instruction sets are those of the maker's manuals: Arm Cortex-A76 (Raspberry Pi 5: Armv8.2-A with
dot products and half precision), Arm Cortex-A72 (Raspberry Pi 4: Armv8.0-A), x86-64-v3 and
x86-64-v2 of the x86-64 psABI. Pythons are those of Debian 12 and 13, on which Raspberry Pi OS is
built, and glibc is that of the older one.
"""

from __future__ import annotations

import difflib
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgellm.errors import UsageError

__all__ = ["TARGETS", "THIS", "Target", "get_target", "this_target"]

THIS = "this"
GLIBC = (2, 36)
PYTHONS = ("3.11", "3.13")

# What native kernels make use of; other flags come and go with the system's kernel and microcode.
_INSTRUCTIONS = re.compile(
    r"avx|sse|ssse|fma|f16c|bmi|popcnt|movbe|adx|amx|asimd|neon|vfp|sve|sme|i8mm|bf16|fphp"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of machine.

    Attributes:
        name: what `--target` takes.
        title: in words.
        machine: as `uname -m` says it.
        features: what /proc/cpuinfo has to list, in the kernel's words.
        pythons: versions of Python that its system may have, "3.11" ...
        glibc: the oldest that its system may have.
        cmake: how llama.cpp is built for it; None takes the build that is installed here.
    """

    name: str
    title: str
    machine: str
    features: tuple[str, ...]
    pythons: tuple[str, ...]
    glibc: tuple[int, int]
    cmake: tuple[str, ...] | None

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run there (PEP 600), newest first."""
        major, minor = self.glibc
        tags = [f"manylinux_{major}_{n}_{self.machine}" for n in range(minor, 16, -1)]
        old = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1")}
        tags += [f"{name}_{self.machine}" for name in old.get(self.machine, ("manylinux2014",))]
        return (*tags, f"linux_{self.machine}")


def _arm(name: str, title: str, features: tuple[str, ...], arch: str) -> Target:
    return Target(
        name, title, "aarch64", features, PYTHONS, GLIBC, (f"-DGGML_CPU_ARM_ARCH={arch}",)
    )


_X86_V2 = ("-DGGML_SSE42=ON",)
_X86_V3 = ("-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON")
_X86_OFF = tuple(each.replace("=ON", "=OFF") for each in _X86_V3)

_ALL = (
    _arm(
        "rpi5",
        "Raspberry Pi 5, 64-bit system",
        ("asimddp", "fphp", "asimdhp"),
        "armv8.2-a+dotprod+fp16",
    ),
    _arm("rpi4", "Raspberry Pi 4, 64-bit system", ("asimd",), "armv8-a"),
    _arm("linux-arm64", "any 64-bit ARM machine with Linux", ("asimd",), "armv8-a"),
    Target(
        "linux-x86_64",
        "PC with AVX2 (since about 2013), with Linux",
        "x86_64",
        ("avx2", "fma", "f16c", "bmi2"),
        PYTHONS,
        GLIBC,
        (*_X86_V2, *_X86_V3),
    ),
    Target(
        "linux-x86_64-sse42",
        "PC without AVX2, with Linux",
        "x86_64",
        ("sse4_2", "popcnt"),
        PYTHONS,
        GLIBC,
        (*_X86_V2, *_X86_OFF),
    ),
)

TARGETS: Mapping[str, Target] = MappingProxyType({each.name: each for each in _ALL})
"""Targets by name; `this`, machines like the one at hand, is not among them."""


def get_target(name: str) -> Target:
    """Give the target of that name; "this" stands for machines like this one.

    Raises:
        UsageError: there is none of that name, it is a 32-bit system, or this is no Linux.
    """
    if name == THIS:
        return this_target()
    target = TARGETS.get(name.lower())
    if target is not None:
        return target
    if re.search(r"armv[67]|armhf|arm32|i[3-6]86|32-?bit", name.lower()):
        raise UsageError(
            f"{name} is a 32-bit system, and numpy has no wheels there",
            hint="a Raspberry Pi from the third on runs the 64-bit system: --target rpi4 or rpi5",
        )
    known = [*TARGETS, THIS]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"no target has the name {name!r}", hint=f"{hint}known: {', '.join(known)}")


def this_target(cpuinfo: Path = Path("/proc/cpuinfo")) -> Target:
    """Give machines like this one: its Python, and every instruction set of its processor.

    llama.cpp as it is installed here may make use of each of them.

    Raises:
        UsageError: this is no 64-bit Linux with glibc.
    """
    machine, (library, version) = platform.machine(), platform.libc_ver()
    found = re.fullmatch(r"(\d+)\.(\d+)", version)
    if sys.platform != "linux" or library != "glibc" or found is None or sys.maxsize < 2**32:
        raise UsageError(
            f"--target this makes bundles on 64-bit Linux with glibc, and this is {sys.platform} "
            f"on {machine}",
            hint=f"known targets: {', '.join(TARGETS)}",
        )
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = sorted({flag for flag in line[1].split() if _INSTRUCTIONS.search(flag)} if line else ())
    return Target(
        THIS,
        "machines like the one that made it",
        machine,
        tuple(flags),
        (f"{sys.version_info[0]}.{sys.version_info[1]}",),
        (int(found[1]), int(found[2])),
        None,
    )
