"""`edgellm pull` from the hub, `rm`, `cp` and `verify`, as people and programs see them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import huggingface_hub
import pytest

from edgellm.api.convert import convert
from edgellm.api.models import pull
from edgellm.cli.main import run
from edgellm.models import store
from hub_server import COMMIT, Hub, Repo


@pytest.fixture(autouse=True)
def nobody_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)


Capture = pytest.CaptureFixture[str]


def out_json(capsys: Capture) -> dict[str, object]:
    body = json.loads(capsys.readouterr().out.splitlines()[0])
    assert isinstance(body, dict)
    return body


def test_pull_says_what_it_needs(hub: Hub, tiny_bytes: bytes, capsys: Capture) -> None:
    assert run(["pull", "user/tiny-gguf"]) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    size = f"{len(tiny_bytes) / 1e6:.1f} MB"
    assert (
        f"user/Tiny-GGUF:Q4_K_M: tiny-Q4_K_M.gguf, {size}, licence apache-2.0, "
        f"commit {COMMIT[:12]}" in lines
    )
    (needs,) = (line for line in lines if line.startswith("needs "))
    assert "of memory at 512 tokens: fits this device" in needs
    path = store.models_dir() / "hub/user/Tiny-GGUF/Q4_K_M/tiny-Q4_K_M.gguf"
    assert captured.out == (
        f"user/Tiny-GGUF:Q4_K_M is in the store: {path} ({size}, licence apache-2.0)\n"
    )


def test_pull_as_json(hub: Hub, tiny_bytes: bytes, capsys: Capture) -> None:
    for already in (False, True):
        assert run(["pull", "user/tiny-gguf:q8_0", "--json"]) == 0
        assert out_json(capsys) == {
            "name": "user/Tiny-GGUF:Q8_0",
            "path": str(store.models_dir() / "hub/user/Tiny-GGUF/Q8_0/tiny-Q8_0.gguf"),
            "bytes": len(tiny_bytes),
            "sha256": hashlib.sha256(tiny_bytes).hexdigest(),
            "licence": "apache-2.0",
            "already": already,
            "repo": "user/Tiny-GGUF",
            "revision": COMMIT,
        }


def test_a_type_that_is_not_there_lists_what_is(hub: Hub, capsys: Capture) -> None:
    assert run(["pull", "user/tiny-gguf:latest"]) == 3
    err = capsys.readouterr().err
    assert "user/Tiny-GGUF has no latest" in err
    assert "it has: Q4_K_M (" in err
    assert "Q8_0 (" in err


@pytest.mark.parametrize(
    ("fault", "status"),
    [({"corrupt": 9}, 5), ({"corrupt": 3_000_000}, 1), ({"api_status": 404}, 3), ({"cuts": -1}, 1)],
)
def test_exit_codes(hub: Hub, fault: dict[str, int], status: int, capsys: Capture) -> None:
    for name, value in fault.items():
        setattr(hub, name, value)
    assert run(["pull", "user/tiny-gguf", "--json"]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "error" in json.loads(captured.out)
    assert run(["list", "--json"]) == 0
    assert out_json(capsys)["models"] == []


def test_memory_that_does_not_hold_it(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm.device.profiles import Profile
    from edgellm.models import needs

    monkeypatch.setattr(needs, "get_profile", lambda name: Profile(name, 1000, 0))
    assert run(["pull", "user/tiny-gguf"]) == 4
    captured = capsys.readouterr()
    assert "DOES NOT FIT" in captured.err
    assert "--force" in captured.err
    assert run(["pull", "user/tiny-gguf", "--force"]) == 0


def test_run_names_the_command_where_nobody_can_be_asked(capsys: Capture) -> None:
    assert run(["run", "user/tiny-gguf-1", "hi"]) == 3
    assert "edgellm pull user/tiny-gguf-1" in capsys.readouterr().err


def test_a_pulled_model_runs_and_shows_by_its_short_name(hub: Hub, capsys: Capture) -> None:
    pull("user/tiny-gguf")
    assert run(["run", "tiny-gguf:q4_k_m", "hi", "--temp", "0"]) == 0
    assert capsys.readouterr().out == "Hi م\u200cس\n"
    assert run(["show", "user/tiny-gguf", "--json"]) == 0
    body = out_json(capsys)
    assert (body["name"], body["architecture"]) == ("user/Tiny-GGUF:Q4_K_M", "llama")
    assert body["source"] == {
        "from": f"hub user/Tiny-GGUF {COMMIT}",
        "licence": "apache-2.0",
        "sha256": hashlib.sha256(hub.repos["user/Tiny-GGUF"].files["tiny-Q4_K_M.gguf"]).hexdigest(),
        "repo": "user/Tiny-GGUF",
        "revision": COMMIT,
    }
    assert run(["show", "user/tiny-gguf"]) == 0
    assert f"hub user/Tiny-GGUF {COMMIT}, licence apache-2.0" in capsys.readouterr().out
    assert run(["list", "--json"]) == 0
    models = out_json(capsys)["models"]
    assert isinstance(models, list)
    assert [(each["name"], each["source"], each["title"]) for each in models] == [
        ("user/Tiny-GGUF:Q4_K_M", "hub", "tiny")
    ]


def test_a_split_model_is_pulled_whole_and_runs(
    hub: Hub, tiny_bytes: bytes, tmp_path: Path, capsys: Capture
) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(tiny_bytes)
    parts = convert(whole, tmp_path / "m-Q4_K_M.gguf", split_size=2_000_000).parts
    assert len(parts) == 3
    files = {part.output.name: part.output.read_bytes() for part in parts}
    hub.repos["user/split"] = Repo(files)
    assert run(["pull", "user/split", "--json"]) == 0
    body = out_json(capsys)
    assert body["bytes"] == sum(map(len, files.values()))
    assert str(body["path"]).endswith("Q4_K_M/m-Q4_K_M-00001-of-00003.gguf")
    assert run(["run", "split", "hi", "--temp", "0"]) == 0
    assert capsys.readouterr().out == "Hi م\u200cس\n"
    assert run(["list", "--json"]) == 0
    (model,) = out_json(capsys)["models"]  # type: ignore[misc]
    assert (model["bytes"], model["parameters"]) == (body["bytes"], len_of(whole))
    assert run(["cp", "split", "mine"]) == 0
    assert run(["run", "mine", "hi", "--temp", "0"]) == 0
    assert run(["verify"]) == 0
    assert run(["rm", "split", "mine", "--json"]) == 0
    freed = json.loads(capsys.readouterr().out.splitlines()[-1])["removed"]
    assert [each["freed"] for each in freed] == [0, body["bytes"]]
    assert store.stored_models() == []


def len_of(path: Path) -> int:
    """Count the weights of a file with gguf's own reader."""
    return sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors)


def test_the_variables_of_the_hub_are_honoured(hub: Hub, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads them when it is imported."""

    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from edgellm.cli import main; main()", *words],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    hub.token = "hf_secret"
    hub.repos["user/Tiny-GGUF"].gated = "auto"
    refused = command("pull", "user/tiny-gguf")
    assert refused.returncode == 1
    assert f"hint: accept them at {hub.address}/user/tiny-gguf, then set HF_TOKEN" in refused.stderr
    assert command("pull", "user/tiny-gguf", HF_TOKEN="hf_secret").returncode == 0
    hub.requests.clear()
    assert command("pull", "user/tiny-gguf", HF_HUB_OFFLINE="1").returncode == 0
    assert command("run", "tiny-gguf", "hi", "--temp", "0").stdout == "Hi م\u200cس\n"
    home = tmp_path / "other"
    huggingface_hub.hf_hub_download(
        "user/Tiny-GGUF",
        "tiny-Q8_0.gguf",
        endpoint=hub.address,
        cache_dir=home / "hub",
        token="hf_secret",
    )
    hub.requests.clear()
    done = command("pull", "user/Tiny-GGUF:q8_0", HF_HOME=str(home), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert hub.requests == []


def test_list_names_interrupted_pulls_and_rm_removes_them(hub: Hub, capsys: Capture) -> None:
    hub.cuts, hub.cut_after = -1, 10_000
    assert run(["pull", "user/tiny-gguf"]) == 1
    capsys.readouterr()
    assert run(["list"]) == 0
    assert "edgellm pull user/Tiny-GGUF:Q4_K_M   goes on: 40.0 kB are here" in (
        capsys.readouterr().out
    )
    assert run(["rm", "user/Tiny-GGUF:Q4_K_M"]) == 0
    assert not list(store.models_dir().rglob("*.partial"))
    assert not (store.models_dir() / "hub" / "user").exists()


def test_rm(hub: Hub, tiny_bytes: bytes, capsys: Capture) -> None:
    pull("user/tiny-gguf")
    pull("user/tiny-gguf:q8_0")
    mine = store.models_dir() / "mine.gguf"
    mine.write_bytes(b"GGUF")
    assert run(["rm", "mine", "nothing"]) == 3  # all or none
    assert mine.exists()
    capsys.readouterr()
    assert run(["rm", "mine", "tiny-gguf:q8_0", "--json"]) == 0
    assert out_json(capsys) == {
        "removed": [
            {"name": "mine", "freed": 4, "kept": 0},
            {"name": "user/Tiny-GGUF:Q8_0", "freed": len(tiny_bytes), "kept": 0},
        ]
    }
    assert [model.name for model in store.stored_models()] == ["user/Tiny-GGUF:Q4_K_M"]
    assert sorted(path.name for path in (store.models_dir() / "hub/user/Tiny-GGUF").iterdir()) == [
        "Q4_K_M",
        "Q4_K_M.json",
    ]
    assert run(["rm", "tiny-gguf"]) == 0
    assert store.stored_models() == []


def test_rm_removes_nothing_outside_of_the_store(tmp_path: Path, capsys: Capture) -> None:
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(b"GGUF")
    store.models_dir().mkdir(parents=True)
    (store.models_dir() / "link.gguf").symlink_to(elsewhere)
    assert run(["rm", "link"]) == 0
    assert "4 B stay, since they have another name" in capsys.readouterr().out
    assert elsewhere.exists()
    outside = tmp_path / "outside" / "repo"
    (outside / "Q8_0").mkdir(parents=True)
    (outside / "Q8_0" / "a.gguf").write_bytes(b"GGUF")
    files = (store.ManifestFile("a.gguf", 4, "0" * 64),)
    manifest = store.Manifest("x", "", "", "", 4, "0" * 64, files=files)
    store.write_manifest(outside / "Q8_0.json", manifest)
    (store.models_dir() / "hub").mkdir()
    (store.models_dir() / "hub" / "user").symlink_to(outside.parent)
    assert run(["rm", "user/repo:Q8_0"]) == 2
    assert "lies outside of the store" in capsys.readouterr().err
    assert (outside / "Q8_0" / "a.gguf").exists()


def test_names_in_a_manifest_that_lead_elsewhere_are_no_manifest() -> None:
    folder = store.models_dir() / "hub" / "user" / "repo"
    (folder / "Q8_0").mkdir(parents=True)
    for name in ("../../../../x", "/etc/passwd", "a\\b", ""):
        files = (store.ManifestFile(name, 4, "0" * 64),)
        store.write_manifest(
            folder / "Q8_0.json", store.Manifest("x", "", "", "", 4, "0" * 64, files=files)
        )
        assert store.stored_models() == []


def test_cp_shares_the_bytes(hub: Hub, tiny_bytes: bytes, capsys: Capture) -> None:
    done = pull("user/tiny-gguf")
    assert run(["cp", "tiny-gguf", "دستیار", "--json"]) == 0
    path = store.models_dir() / "دستیار.gguf"
    assert out_json(capsys) == {
        "name": "دستیار",
        "path": str(path),
        "bytes": len(tiny_bytes),
        "linked": True,
    }
    assert path.samefile(done.path)
    assert run(["rm", "tiny-gguf"]) == 0
    assert "stay, since they have another name" in capsys.readouterr().out
    assert path.read_bytes() == tiny_bytes
    assert run(["verify", "دستیار"]) == 0
    assert run(["rm", "دستیار", "--json"]) == 0


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a:b", ".x", "smollm2-135m-instruct", "a\nb"])
def test_cp_refuses_names_that_are_none(hub: Hub, name: str, capsys: Capture) -> None:
    pull("user/tiny-gguf")
    assert run(["cp", "tiny-gguf", name]) == 2


def test_cp_replaces_only_by_force(hub: Hub, tiny_bytes: bytes, capsys: Capture) -> None:
    pull("user/tiny-gguf")
    mine = store.models_dir() / "mine.gguf"
    mine.write_bytes(b"GGUF")
    assert run(["cp", "tiny-gguf", "Mine"]) == 2
    assert run(["cp", "mine", "mine", "--force"]) == 2
    assert mine.read_bytes() == b"GGUF"
    assert run(["cp", "tiny-gguf", "mine", "--force"]) == 0
    assert mine.read_bytes() == tiny_bytes


def test_verify(hub: Hub, tiny_bytes: bytes, capsys: Capture) -> None:
    done = pull("user/tiny-gguf")
    (store.models_dir() / "mine.gguf").write_bytes(tiny_bytes)
    assert run(["verify"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "?      mine: no sha256 is known, its header is right",
        f"ok     user/Tiny-GGUF:Q4_K_M: sha256 {done.sha256}",
    ]
    raw = bytearray(tiny_bytes)
    raw[-1] ^= 1
    done.path.write_bytes(raw)
    assert run(["verify", "tiny-gguf", "--json"]) == 7
    lines = capsys.readouterr().out.splitlines()
    (model,) = json.loads(lines[0])["models"]
    assert model["holds"] is False
    assert model["sha256"] == hashlib.sha256(raw).hexdigest()
    assert "not " + done.sha256 in model["problem"]
    assert json.loads(lines[1])["error"]["code"] == "check_failed"


def test_verify_wants_receipt_for_its_options(capsys: Capture) -> None:
    assert run(["verify", "--threads", "1"]) == 2
    assert run(["verify", "--receipt"]) == 2
