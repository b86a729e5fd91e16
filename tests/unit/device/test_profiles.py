"""Devices by name, and the machine at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.device.profiles import GIB, MARGIN, PROFILES, get_profile, this_machine
from edgellm.errors import UsageError


def test_names_are_found_in_any_case_and_hints_are_near() -> None:
    profile = get_profile("RPi5-8GB")
    assert profile.memory == 8 * GIB
    assert profile.available == 7 * GIB
    assert profile.bandwidth == pytest.approx(17.1e9)
    with pytest.raises(UsageError, match="no device is called 'rpi6-8gb'") as caught:
        get_profile("rpi6-8gb")
    assert caught.value.hint == "did you mean rpi5-8gb?"
    with pytest.raises(UsageError) as caught:
        get_profile("")
    assert all(name in (caught.value.hint or "") for name in (*PROFILES, "this"))


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


def test_this_machine_has_what_linux_says(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 5000000 kB\n")
    found = this_machine(tmp_path / "meminfo", tmp_path)
    assert found.memory == 8_000_000 * 1024
    assert found.available == 5_000_000 * 1024 - MARGIN


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        meminfo="MemTotal: 8000000 kB\nMemAvailable: 5000000 kB\n",
        memory_max=f"{2 * GIB}\n",
        memory_current=f"{GIB}\n",
    )
    found = this_machine(tmp_path / "meminfo", tmp_path)
    assert (found.memory, found.available) == (2 * GIB, GIB - MARGIN)
    write(tmp_path, memory_max="max\n")
    assert this_machine(tmp_path / "meminfo", tmp_path).memory == 8_000_000 * 1024


def test_without_meminfo_half_of_the_memory_is_available(tmp_path: Path) -> None:
    found = this_machine(tmp_path / "none", tmp_path)
    assert found.available == found.memory - found.memory // 2 > 0
    real = get_profile("this")
    assert 0 <= real.available < real.memory
