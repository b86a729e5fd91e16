"""Targets: what is known, what is refused, and what `this` says of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.deploy.targets import TARGETS, get_target, this_target
from edgellm.errors import UsageError


def test_names_are_keys_and_features_are_said() -> None:
    assert all(name == target.name and target.features for name, target in TARGETS.items())
    assert {target.machine for target in TARGETS.values()} == {"aarch64", "x86_64"}


def test_a_raspberry_pi_5_has_dot_products_and_a_4_has_none() -> None:
    five, four = TARGETS["rpi5"], TARGETS["rpi4"]
    assert "asimddp" in five.features
    assert any("dotprod" in option for option in five.cmake or ())
    assert "asimddp" not in four.features
    assert not any("dotprod" in option for option in four.cmake or ())


def test_platform_tags_go_down_from_the_systems_glibc() -> None:
    tags = TARGETS["rpi5"].platforms
    assert tags[0] == "manylinux_2_36_aarch64"
    assert "manylinux_2_17_aarch64" in tags
    assert "manylinux2014_aarch64" in tags
    assert not any("x86" in tag or "2_37" in tag for tag in tags)


@pytest.mark.parametrize("name", ["armv7", "armhf", "rpi-32bit", "i686"])
def test_a_32_bit_system_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(UsageError, match="32-bit system, and numpy has no wheels"):
        get_target(name)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no target has the name 'rpi6'") as caught:
        get_target("rpi6")
    assert "rpi5" in (caught.value.hint or "")


def test_this_lists_instruction_sets_and_nothing_else(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu vme avx2 fma sse4_2 constant_tsc bmi2\n")
    assert this_target(info).features == ("avx2", "bmi2", "fma", "sse4_2")
    info.write_text("processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp cpuid\n")
    assert this_target(info).features == ("asimd", "asimddp")
    assert this_target(tmp_path / "none").features == ()
