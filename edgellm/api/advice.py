"""What could be better on this device, each in a sentence that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgellm.device.condition import Condition
from edgellm.device.cpu import Cpu
from edgellm.device.ram import Ram

if TYPE_CHECKING:
    from edgellm.backends.llama_cpp.build import Build

__all__ = ["advise"]

# What the processor has, and the name under which llama.cpp says that it was built for it. Each
# makes products of matrices faster by a good deal.
_WANTED: Mapping[str, str] = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "dotprod": "DOTPROD",
    "i8mm": "MATMUL_INT8",
}
_REINSTALL = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python"
_PACKAGE = "llama-cpp-python"
# See tools/setup.py, which builds it like this by itself.
_FLAGS = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_NO_AMX = f"CMAKE_ARGS=\"-DCMAKE_C_FLAGS='{_FLAGS}' -DCMAKE_CXX_FLAGS='{_FLAGS}'\""
_SLOW_GOVERNORS = {"powersave", "conservative"}
# Drivers that choose the frequency themselves and call it powersave.
_CHOOSING = ("intel_pstate", "amd-pstate")
HOT = 80.0
LITTLE_MEMORY = 2**30
LITTLE_DISK = 10**9


def advise(
    cpu: Cpu,
    ram: Ram,
    condition: Condition,
    build: Build | None,
    packages: Mapping[str, str],
    disk_free: int | None,
    *,
    nvidia: bool = False,
    platform: str = sys.platform,
) -> list[str]:
    """Give the sentences.

    Args:
        cpu: the processor.
        ram: the memory.
        condition: heat and power.
        build: how llama.cpp was built; None if it cannot be used.
        packages: versions of installed packages that run models, by name.
        disk_free: bytes that are free where models are stored; None if not known.
        nvidia: whether the system has a driver for NVIDIA's devices.
        platform: as `sys.platform`.
    """
    apple = platform == "darwin" and cpu.architecture == "arm64"
    return [
        *_of_the_build(cpu, build, apple, nvidia),
        *_of_the_condition(condition),
        *_of_the_memory(ram, disk_free),
        *(
            ["MLX is not installed: pip install 'edgellm[mlx]' lets MLX folders run on the GPU"]
            if apple and "mlx-lm" not in packages
            else []
        ),
    ]


def _of_the_build(cpu: Cpu, build: Build | None, apple: bool, nvidia: bool) -> Iterator[str]:
    if build is None:
        yield f"llama.cpp cannot be used: pip install {_PACKAGE}"
        return
    if "amx_tile" in cpu.features and "AMX_INT8" in build.features and _old_gcc(build.compiler):
        yield (
            f"llama.cpp was built with AMX by {build.compiler}, whose header for it is wrong, and "
            f"will crash in a prompt: {_NO_AMX} {_REINSTALL} {_PACKAGE}"
        )
    lacking = [
        theirs
        for ours, theirs in _WANTED.items()
        if ours in cpu.features and theirs not in build.features
    ]
    if lacking:
        amx = f"{_NO_AMX} " if "amx_tile" in cpu.features else ""
        yield (
            f"llama.cpp was built without {', '.join(lacking)}, which this processor has: build it "
            f"here, {amx}{_REINSTALL} {_PACKAGE}"
        )
    if not build.gpu_offload and (apple or nvidia):
        kind, flag = ("Metal", "METAL") if apple else ("CUDA", "CUDA")
        yield (
            f"llama.cpp was built without {kind}, so that the GPU is not used: "
            f'CMAKE_ARGS="-DGGML_{flag}=on" {_REINSTALL} {_PACKAGE}'
        )


def _old_gcc(compiler: str | None) -> bool:
    """Tell whether the compiler has the faulty header, or may have it."""
    name, _, version = (compiler or "GCC").partition(" ")
    major = version.partition(".")[0]
    return name == "GCC" and (not major.isdecimal() or int(major) <= 12)


def _of_the_condition(condition: Condition) -> Iterator[str]:
    slow = _SLOW_GOVERNORS.intersection(condition.governors)
    if slow and not any(driver.startswith(_CHOOSING) for driver in condition.drivers):
        yield (
            f"the frequency governor is {min(slow)}, which keeps the processor slow: "
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    now = condition.throttled
    if "under-voltage" in now:
        yield "the power supply is too weak, so that the processor is slowed: use a stronger one"
    elif now:
        yield f"the processor is slowed down ({', '.join(now)}): cool it better"
    elif condition.throttled_before:
        causes = ", ".join(condition.throttled_before)
        remedy = "a stronger power supply" if "under-voltage" in causes else "better cooling"
        yield f"the processor was slowed down since the last start ({causes}): {remedy} helps"
    elif condition.temperature is not None and condition.temperature >= HOT:
        yield (
            f"the processor has {condition.temperature:.0f} degrees and will be slowed down soon: "
            "cool it better"
        )


def _of_the_memory(ram: Ram, disk_free: int | None) -> Iterator[str]:
    if ram.available < LITTLE_MEMORY:
        limit = "raise the container's limit" if ram.limited else "close other programs"
        yield (
            f"only {ram.available / 1e6:.0f} MB of memory are free: {limit}, or take small models "
            "with a short --ctx and --cache-type q8_0"
        )
    if ram.swap_on == "sd-card":
        yield (
            "memory is swapped to an SD card, which is slow and wears out: swap to compressed "
            "memory instead (sudo apt install zram-tools), and take models that fit"
        )
    if disk_free is not None and disk_free < LITTLE_DISK:
        yield (
            f"only {disk_free / 1e6:.0f} MB are free where models are stored: remove some, or move "
            "the store with EDGELLM_HOME"
        )
