"""Devices by name, and the machine at hand."""

from __future__ import annotations

import pytest

from edgellm.device.profiles import GIB, MARGIN, PROFILES, get_profile
from edgellm.device.ram import probe_ram
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


def test_this_machine_keeps_a_margin() -> None:
    real = get_profile("this")
    ram = probe_ram()
    assert real.memory == ram.total
    assert real.available == pytest.approx(max(0, ram.available - MARGIN), abs=GIB)
