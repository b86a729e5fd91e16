"""`edgellm doctor`: figures of this machine, against those that the system's own files have."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from edgellm.backends.base import BACKENDS
from edgellm.cli.main import run
from edgellm.device import bandwidth
from tinygguf import write_tiny


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bandwidth, "DURATION", 0.0)
    monkeypatch.setattr(bandwidth, "LARGEST", 2**22)
    return tmp_path / "home"


def test_json(capsys: pytest.CaptureFixture[str], folders: Path) -> None:
    (folders / "models").mkdir(parents=True)
    write_tiny(folders / "models" / "tiny.gguf", context=8192)
    (folders / "models" / "broken.gguf").write_bytes(b"GGUF")
    assert run(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    body = json.loads(out)
    assert err == ""
    assert 1 <= body["cpu"]["threads"] <= body["cpu"]["logical"] <= (os.cpu_count() or 1)
    assert body["memory_bytes"] > body["memory"]["available"] > 0
    assert body["bandwidth_gb_s"] > 0
    assert {each["name"]: each["available"] for each in body["backends"]}["llama_cpp"]
    assert len(body["backends"]) == len(BACKENDS)
    assert body["llama_cpp"]["package"].startswith("0.3.")
    assert isinstance(body["advice"], list)
    models = {each["name"]: each for each in body["models"]}
    assert models["tiny"]["context"] == 8192
    assert "broken" not in models
    # 8.03 G weights of 4.85 bits
    assert models["8B at 4 bits"]["bytes"] == pytest.approx(8.03e9 * 4.85 / 8, rel=0.01)
    assert models["1B at 4 bits"]["bytes"] == pytest.approx(1.236e9 * 4.85 / 8, rel=0.01)
    assert models["3B at 4 bits"]["bytes"] == pytest.approx(3.213e9 * 4.85 / 8, rel=0.01)


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--measure"]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"^processor +\S", out, re.MULTILINE)
    assert re.search(r"^bandwidth +[\d.]+ GB/s read by \d+ threads", out, re.MULTILINE)
    assert re.search(r"^ +8B at 4 bits +4.9 GB ", out, re.MULTILINE)
    assert "what would fit (estimates)" in out


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no /proc/meminfo")
def test_memory_is_the_systems(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json"])
    body = json.loads(capsys.readouterr().out)
    found = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    total = int(found[1]) * 1024
    assert body["memory_bytes"] <= total
    assert body["memory"]["limited"] or body["memory_bytes"] == total
