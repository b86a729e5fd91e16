"""The measured bandwidth: remembered, and measured anew where that does not hold any more."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgellm.device import bandwidth
from edgellm.device.bandwidth import read_bandwidth
from edgellm.device.cpu import Cpu, probe_cpu

MEMORY = 8 * 2**20


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cpu:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bandwidth, "DURATION", 0.0)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 9.0, 9.0))
    return probe_cpu()


def test_it_is_measured_once_a_month(cpu: Cpu, tmp_path: Path) -> None:
    first = read_bandwidth(cpu, MEMORY)
    assert first.bytes_per_s > 0
    assert first.buffer == MEMORY // 4
    assert read_bandwidth(cpu, MEMORY) == first
    assert not first.busy
    assert read_bandwidth(cpu, MEMORY, measure=True).measured > first.measured
    (file,) = (tmp_path / "cache").iterdir()
    month_ago = json.loads(file.read_text()) | {"measured": time.time() - 31 * 86400}
    file.write_text(json.dumps(month_ago))
    assert read_bandwidth(cpu, MEMORY).measured > time.time() - 1000


def test_what_was_measured_beside_other_programs_holds_for_an_hour(
    cpu: Cpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (float(cpu.threads), 0.0, 0.0))
    first = read_bandwidth(cpu, MEMORY)
    assert first.busy
    assert read_bandwidth(cpu, MEMORY) == first
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"measured": time.time() - 3601}))
    assert read_bandwidth(cpu, MEMORY).measured > first.measured


def test_kernels_are_measured_for_the_sizes_that_fit(
    cpu: Cpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth, "SIZES", (2**20, 2**21, 2**22))
    first = read_bandwidth(cpu, MEMORY, lambda threads, size: 1e6 * threads + size)
    assert first.kernel == tuple((size, 1e6 * cpu.threads + size) for size in (2**20, 2**21))
    assert read_bandwidth(cpu, MEMORY) == first  # it was kept
    assert read_bandwidth(cpu, MEMORY, measure=True).kernel == ()


def test_another_processor_is_measured_anew(cpu: Cpu) -> None:
    first = read_bandwidth(cpu, MEMORY)
    other = dataclasses.replace(cpu, name="another")
    assert read_bandwidth(other, MEMORY).cpu == "another"
    assert read_bandwidth(cpu, MEMORY).measured > first.measured


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"bytes_per_s": 1}',
        b"[" * 5000,
        {"bytes_per_s": -1.0},
        {"bytes_per_s": "fast"},
        {"measured": 1e18},
        {"kernel": 5},
        {"kernel": [[64, -1.0]]},
        {"kernel": [[128, 1.0], [64, 1.0]]},
    ],
)
def test_a_damaged_file_is_measured_anew(cpu: Cpu, tmp_path: Path, content: Any) -> None:
    first = read_bandwidth(cpu, MEMORY)
    (file,) = (tmp_path / "cache").iterdir()
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content).encode()
    file.write_bytes(content)
    assert read_bandwidth(cpu, MEMORY).measured > first.measured
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]
