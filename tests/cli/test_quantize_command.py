"""`edgellm quantize` with a calibration, and `edgellm verify`, as people meet them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import tiny
from edgellm.api.convert import convert
from edgellm.cli.main import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    convert(tiny.llama(folder / "hf"), folder / "f32.gguf", dtype="f32")
    words = ["the", "quick", "brown", "fox", "and", "a", "lazy", "dog", "کتاب", "روی", "میز"]
    order = random.Random(1)
    for name, count in (("calibration.txt", 3000), ("text.txt", 1000)):
        (folder / name).write_text(" ".join(order.choices(words, k=count)), "utf-8")
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


def arguments(root: Path, target: Path, *more: str) -> list[str]:
    return [
        "quantize",
        str(root / "f32.gguf"),
        "-o",
        str(target),
        *("--calibration", str(root / "calibration.txt")),
        *("--text", str(root / "text.txt")),
        *("-t", "1"),
        *more,
    ]


def test_one_object_for_programs_and_the_receipt_in_show(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.gguf"
    assert run(arguments(root, target, "--type", "q4_0", "--json")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert found["method"] == "gptq"
    assert found["bytes"] == target.stat().st_size
    assert found["type"] == "Q4_0"
    receipt = found["receipt"]
    assert receipt["request"] == {"type": "q4_0"}
    assert [each["name"] for each in receipt["quality"]] == ["text.txt", "all"]
    assert (
        found["candidates"]
        == [
            {
                "name": "x.gguf",
                "bytes": found["bytes"],
                "kld": receipt["quality"][-1]["kld"]["mean"],
            }
        ]
        or abs(found["candidates"][0]["bytes"] - found["bytes"]) < 2000
    )
    assert run(["show", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["receipt"] == receipt


def test_lines_for_people(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.gguf"
    assert run(arguments(root, target, "--type", "Q4_0")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "  method gptq, calibrated on " in out
    assert "  against f32.gguf, in chunks of " in out
    assert "    text.txt  KLD 0." in out
    assert run(["show", str(target)]) == 0
    shown = capsys.readouterr().out
    assert "receipt\n  made from f32.gguf (" in shown
    assert "edgellm.receipt" not in shown


def test_a_receipt_that_does_not_hold_ends_with_its_status(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.gguf"
    assert run(arguments(root, target, "--type", "Q4_0")) == 0
    args = ["verify", str(target), "--receipt", "-t", "1", "--text", str(root / "text.txt")]
    capsys.readouterr()
    assert run([*args, "--against", str(root / "f32.gguf")]) == 0
    assert "WRONG" not in capsys.readouterr().out
    data = bytearray(target.read_bytes())
    data[-1] ^= 64
    target.write_bytes(data)
    assert run([*args, "--json"]) == 7
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first["holds"] is False
    assert first["checks"][0]["name"] == "tensors (sha256)"
    assert second["error"]["code"] == "check_failed"
    assert "tensors (sha256)" in err
    assert run(["verify", str(root / "f32.gguf"), "--receipt"]) == 3
    assert run(["verify", str(target)]) == 2
    assert "--receipt" in capsys.readouterr().err


def test_a_calibration_that_cannot_be_read(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\xff\xfe")
    target = tmp_path / "x.gguf"
    args = ["quantize", str(root / "f32.gguf"), "-o", str(target), "--bits", "4", "--calibration"]
    assert run([*args, str(bad)]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    assert run([*args, str(tmp_path / "none.txt")]) == 3
    assert not target.exists()
