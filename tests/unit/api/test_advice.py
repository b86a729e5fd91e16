"""What is advised on which device, and that nothing is where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgellm.api.advice import advise
from edgellm.backends.llama_cpp.build import Build
from edgellm.device.condition import Condition
from edgellm.device.cpu import Cpu
from edgellm.device.ram import Ram

GB = 10**9
CPU = Cpu("a processor", "x86_64", 4, 4, 4, None, (), ("avx", "avx2", "fma", "f16c"), 2**23)
PI = replace(CPU, architecture="aarch64", features=("neon", "dotprod"))
APPLE = replace(CPU, architecture="arm64", features=("neon", "dotprod", "i8mm"))
BUILD = Build("0.3.36", None, ("AVX", "AVX2", "FMA", "F16C"), False, "GCC 12.2.0")
RAM = Ram(16 * GB, 8 * GB)
CALM = Condition(("ondemand",), ("cpufreq-dt",), 50.0)
WELL: dict[str, Any] = {
    "cpu": CPU,
    "ram": RAM,
    "condition": CALM,
    "build": BUILD,
    "packages": {},
    "disk_free": 50 * GB,
    "platform": "linux",
}


def test_a_good_device_gets_no_advice() -> None:
    assert advise(**WELL) == []
    # drivers that choose the frequency themselves call it powersave
    driven = Condition(("powersave",), ("intel_pstate",))
    assert advise(**WELL | {"condition": driven}) == []


AMX = replace(CPU, features=(*CPU.features, "amx_tile", "amx_int8"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"build": None}, "pip install llama-cpp-python"),
        (
            {"cpu": AMX, "build": replace(BUILD, features=(*BUILD.features, "AMX_INT8"))},
            "built with AMX by GCC 12.2.0",
        ),
        ({"build": replace(BUILD, features=("AVX",))}, "without AVX2, FMA, F16C, which this"),
        ({"cpu": PI, "build": replace(BUILD, features=("NEON",))}, "without DOTPROD"),
        ({"nvidia": True}, "-DGGML_CUDA=on"),
        ({"condition": replace(CALM, governors=("powersave",))}, "governor is powersave"),
        ({"condition": replace(CALM, throttled=("under-voltage",))}, "power supply is too weak"),
        ({"condition": replace(CALM, throttled=("throttled",))}, "cool it better"),
        ({"condition": replace(CALM, throttled_before=("throttled",))}, "better cooling helps"),
        ({"condition": replace(CALM, temperature=83.4)}, "has 83 degrees"),
        ({"ram": Ram(GB, GB // 2)}, "only 500 MB of memory are free: close other"),
        ({"ram": Ram(GB, GB // 2, limited=True)}, "raise the container's limit"),
        ({"ram": replace(RAM, swap_on="sd-card")}, "swapped to an SD card"),
        ({"disk_free": GB // 10}, "only 100 MB are free where models are stored"),
        (
            {
                "cpu": APPLE,
                "platform": "darwin",
                "build": replace(BUILD, features=("DOTPROD", "MATMUL_INT8"), gpu_offload=True),
            },
            "edgellm[mlx]",
        ),
        (
            {
                "cpu": APPLE,
                "platform": "darwin",
                "packages": {"mlx-lm": "0.32.2"},
                "build": replace(BUILD, features=("DOTPROD", "MATMUL_INT8")),
            },
            "-DGGML_METAL=on",
        ),
    ],
)
def test_one_thing_is_wrong(change: dict[str, Any], expected: str) -> None:
    (sentence,) = advise(**WELL | change)
    assert expected in sentence


def test_amx_without_the_faulty_compiler_is_fine() -> None:
    for compiler, wrong in (("GCC 14.1.0", 0), ("clang 17.0.1", 0), (None, 1), ("GCC 11.4.0", 1)):
        build = replace(BUILD, features=(*BUILD.features, "AMX_INT8"), compiler=compiler)
        assert len(advise(**WELL | {"cpu": AMX, "build": build})) == wrong
    assert advise(**WELL | {"cpu": AMX}) == []  # built without AMX
