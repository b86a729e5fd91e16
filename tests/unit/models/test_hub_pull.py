"""Pulling from a hub on loopback: whole, interrupted, corrupted, refused."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import hub_server
from edgellm.api.models import pull
from edgellm.errors import FetchError, NotFoundError, UsageError
from edgellm.models import download, install, place, resolve, store
from edgellm.models import hub as module
from edgellm.models.reference import HubReference
from edgellm_converters.errors import CorruptFileError
from hub_server import COMMIT, Hub, Repo

NAME = "کاربر"
# a header of one float32 tensor, and its bytes, by the format's description
HEADER = json.dumps(
    {"model.embed_tokens.weight": {"dtype": "F32", "shape": [2, 32], "data_offsets": [0, 256]}}
).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(256)


def pulled_files() -> list[str]:
    root = store.models_dir()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_pull(hub: Hub, tiny_bytes: bytes) -> None:
    done = pull("user/tiny-gguf")
    assert done.name == "user/Tiny-GGUF:Q4_K_M"
    assert done.path.read_bytes() == tiny_bytes
    assert done.sha256 == hashlib.sha256(tiny_bytes).hexdigest()
    assert (done.repo, done.revision, done.licence) == ("user/Tiny-GGUF", COMMIT, "apache-2.0")
    assert not done.already
    assert pulled_files() == [
        "hub/user/Tiny-GGUF/Q4_K_M.json",
        "hub/user/Tiny-GGUF/Q4_K_M/tiny-Q4_K_M.gguf",
    ]
    manifest = json.loads((store.models_dir() / "hub/user/Tiny-GGUF/Q4_K_M.json").read_bytes())
    assert manifest["revision"] == COMMIT
    assert manifest["files"] == [
        {"name": "tiny-Q4_K_M.gguf", "bytes": len(tiny_bytes), "sha256": done.sha256}
    ]
    for name in (
        "user/Tiny-GGUF:Q4_K_M",
        "user/tiny-gguf",
        "tiny-gguf",
        "Tiny-GGUF:q4_k_m",
        "hf.co/user/Tiny-GGUF:Q4_K_M",
        "https://huggingface.co/user/Tiny-GGUF",
        f"{hub.address}/user/Tiny-GGUF",
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub.address)
            assert resolve(name) == done.path


def test_what_is_there_is_only_checked(hub: Hub) -> None:
    first = pull("user/tiny-gguf")
    hub.requests.clear()
    before = first.path.stat()
    again = pull("user/tiny-gguf")
    assert again.already
    assert again.path == first.path
    assert hub.file_requests() == []
    assert (first.path.stat().st_ino, first.path.stat().st_ctime_ns) == (
        before.st_ino,
        before.st_ctime_ns,
    )
    # damaged meanwhile: brought again
    raw = bytearray(first.path.read_bytes())
    raw[-1] ^= 1
    first.path.write_bytes(raw)
    assert not pull("user/tiny-gguf").already
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == first.sha256


def test_a_newer_version_replaces_the_old_one(hub: Hub, tiny_bytes: bytes) -> None:
    old = pull("user/tiny-gguf")
    newer = bytearray(tiny_bytes)
    newer[-1] ^= 1
    hub.repos["user/Tiny-GGUF"] = Repo({"tiny-Q4_K_M.gguf": bytes(newer)}, commit="f" * 40)
    done = pull("tiny-gguf")
    assert (done.already, done.revision) == (False, "f" * 40)
    assert old.path.read_bytes() == newer
    assert len(pulled_files()) == 2
    # only the commit is another: nothing is fetched, and the manifest says so
    hub.repos["user/Tiny-GGUF"].commit = "e" * 40
    hub.requests.clear()
    assert pull("tiny-gguf").revision == "e" * 40
    assert hub.file_requests() == []


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, tiny_bytes: bytes) -> None:
    hub.cuts, hub.cut_after = 3, 900_000
    done = pull("user/tiny-gguf")
    assert done.path.read_bytes() == tiny_bytes
    ranges = [request.range for request in hub.file_requests()]
    assert ranges[1:] == [f"bytes={n * 900_000}-" for n in (1, 2, 3)]


def test_what_came_is_kept_for_the_next_time(hub: Hub, tiny_bytes: bytes) -> None:
    hub.cuts, hub.cut_after = -1, 20_000
    with pytest.raises(FetchError, match="the connection to the hub failed"):
        pull("user/tiny-gguf")
    assert store.stored_models() == []
    (partial,) = (name for name in pulled_files() if name.endswith(".partial"))
    have = (store.models_dir() / partial).stat().st_size
    assert 20_000 <= have < len(tiny_bytes)
    hub.cuts = 0
    hub.requests.clear()
    assert pull("user/tiny-gguf").path.read_bytes() == tiny_bytes
    assert [request.range for request in hub.file_requests()] == [f"bytes={have}-"]
    assert not [name for name in pulled_files() if name.endswith(".partial")]


def test_a_hub_without_ranges_starts_again(hub: Hub, tiny_bytes: bytes) -> None:
    hub.ranges = False
    hub.cuts, hub.cut_after = 1, 900_000
    assert pull("user/tiny-gguf").path.read_bytes() == tiny_bytes


def test_a_partial_file_that_lost_its_end_is_brought_again(hub: Hub, tiny_bytes: bytes) -> None:
    hub.cuts, hub.cut_after = -1, 20_000
    with pytest.raises(FetchError):
        pull("user/tiny-gguf")
    (partial,) = (name for name in pulled_files() if name.endswith(".partial"))
    path = store.models_dir() / partial
    raw = bytearray(path.read_bytes())
    raw[-4096:] = bytes(4096)  # as a file system may leave it when the power goes
    raw[-1] = 7
    path.write_bytes(raw)
    hub.cuts = 0
    assert pull("user/tiny-gguf").path.read_bytes() == tiny_bytes


def test_bytes_that_are_others_are_thrown_away(hub: Hub, tiny_bytes: bytes) -> None:
    hub.corrupt = len(tiny_bytes) - 5
    with pytest.raises(FetchError, match=r"tiny-Q4_K_M.gguf of user/Tiny-GGUF has the sha256"):
        pull("user/tiny-gguf")
    assert store.stored_models() == []
    assert pulled_files() == []


def test_a_header_that_breaks_a_rule_is_refused_before_the_rest_comes(
    hub: Hub, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "BEGINNING", 100_000)
    monkeypatch.setattr(place, "MAX_HEADER_BYTES", 200_000)
    bad = tiny_bytes[:4] + b"\x09" + tiny_bytes[5:]  # version 9
    hub.repos["user/bad"] = Repo({"bad-Q4_K_M.gguf": bad})
    with pytest.raises(CorruptFileError, match="GGUF version 9"):
        pull("user/bad")
    assert [r.range for r in hub.file_requests()] == ["bytes=0-99999", "bytes=100000-199999"]
    assert store.stored_models() == []


@pytest.mark.parametrize("beginning", [1000, 100_000])
def test_the_header_is_read_before_the_rest_comes(
    hub: Hub, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch, beginning: int
) -> None:
    monkeypatch.setattr(place, "BEGINNING", beginning)
    seen = []
    done = pull("user/tiny-gguf", announce=seen.append)
    assert done.path.read_bytes() == tiny_bytes
    (plan,) = seen
    assert plan.to_fetch == len(tiny_bytes)
    assert plan.needs is not None
    # weights, a cache of 512 tokens x 2 layers x (320 + 320) x 2 bytes, and more
    assert plan.needs.memory > len(tiny_bytes) + 512 * 2 * 640 * 2
    assert plan.needs.context == 512


def test_memory_that_does_not_hold_it_is_asked_about(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm.device.profiles import Profile
    from edgellm.errors import DoesNotFitError
    from edgellm.models import needs

    monkeypatch.setattr(needs, "get_profile", lambda name: Profile(name, 1000, 0))
    with pytest.raises(DoesNotFitError, match="this device has 1000 free") as caught:
        pull("user/tiny-gguf")
    assert "--force" in (caught.value.hint or "")
    assert pulled_files() == []
    with pytest.raises(DoesNotFitError):
        pull("user/tiny-gguf", ask=lambda plan: False)
    assert pulled_files() == []
    hub.cuts, hub.cut_after = -1, 10_000
    with pytest.raises(FetchError):
        pull("user/tiny-gguf", force=True)
    hub.cuts = 0
    with pytest.raises(DoesNotFitError):
        pull("user/tiny-gguf")
    assert len(pulled_files()) == 1  # what came before is kept
    assert pull("user/tiny-gguf", ask=lambda plan: True).path.exists()
    assert pull("user/tiny-gguf:Q8_0", force=True).path.exists()


def test_a_disk_without_room_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm.errors import DoesNotFitError
    from edgellm.models import needs

    monkeypatch.setattr(needs, "free_bytes", lambda folder: 1000)
    with pytest.raises(DoesNotFitError, match="has 1000 free"):
        pull("user/tiny-gguf", force=True)
    assert hub.file_requests() == []
    assert pulled_files() == []


@pytest.mark.parametrize(
    ("status", "headers", "error", "sentence"),
    [
        (401, {}, NotFoundError, "no model user/tiny-gguf on the hub, or it is private"),
        (403, {}, FetchError, "is gated"),
        (404, {}, NotFoundError, "no model user/tiny-gguf"),
        (404, {"X-Error-Code": "RevisionNotFound"}, NotFoundError, "no such revision"),
        (418, {}, FetchError, r"refuses user/tiny-gguf \(HTTP 418\)"),
        (429, {"Retry-After": "0"}, FetchError, "too many requests"),
        (500, {}, FetchError, r"failed for user/tiny-gguf \(HTTP 500\)"),
    ],
)
def test_refusals_of_the_listing(
    hub: Hub, status: int, headers: dict[str, str], error: type[Exception], sentence: str
) -> None:
    hub.api_status, hub.headers = status, headers
    with pytest.raises(error, match=sentence):
        pull("user/tiny-gguf")


@pytest.mark.parametrize(
    ("status", "error"), [(401, NotFoundError), (403, FetchError), (404, NotFoundError)]
)
def test_refusals_of_a_file(hub: Hub, status: int, error: type[Exception]) -> None:
    hub.status, hub.failures = status, -1
    with pytest.raises(error):
        pull("user/tiny-gguf")
    assert len(hub.file_requests()) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, tiny_bytes: bytes, status: int) -> None:
    hub.status, hub.failures = status, 2
    assert pull("user/tiny-gguf").path.read_bytes() == tiny_bytes
    assert len(hub.file_requests()) == 3
    hub.failures = -1
    with pytest.raises(FetchError, match=str(status)):
        pull("user/tiny-gguf:Q8_0")


def test_redirects_in_a_circle(hub: Hub) -> None:
    hub.redirect = "loop"
    with pytest.raises(FetchError, match="leads in circles"):
        pull("user/tiny-gguf")


def test_a_hub_that_says_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(download, "ENOUGH", 1 << 30)
    hub.pause = 3.0
    with pytest.raises(FetchError, match=r"did not answer in 0.1 s"):
        pull("user/tiny-gguf")


def test_nobody_listens(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match="connection to the hub failed"):
        pull("user/tiny-gguf")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"sha": "main", "siblings": []}', b"[" * 100_000]
)
def test_a_listing_that_is_none(hub: Hub, body: bytes) -> None:
    hub.api_body = body
    with pytest.raises(FetchError, match="no listing of a hub"):
        pull("user/tiny-gguf")


def test_listings_with_something_else_in_them(hub: Hub, tiny_bytes: bytes) -> None:
    """Any value may stand anywhere: a sentence, or what is left of the listing."""
    junk = [None, True, -1, 2**70, 1.5, "", "\0", "../x", [], {}, [[]], {"a": 1}, "x" * 10_000]
    chance = random.Random(7)
    for _ in range(200):
        body = {
            "id": "user/x",
            "sha": COMMIT,
            "gated": False,
            "tags": ["license:mit"],
            "cardData": {"license": "mit"},
            "siblings": [hub_server.entry(f"m-{n}.gguf", tiny_bytes) for n in ("Q8_0", "F16")],
        }
        for _ in range(chance.randint(1, 3)):
            node: Any = body
            while True:
                key = chance.choice(sorted(node) if isinstance(node, dict) else range(len(node)))
                inner = node[key]
                if not isinstance(inner, dict | list) or not inner or chance.random() < 0.3:
                    node[key] = chance.choice(junk)
                    break
                node = inner
        hub.api_body = json.dumps(body).encode()
        try:
            found = module.describe(HubReference("user/x"))
        except FetchError as error:
            assert "no listing" in str(error)  # noqa: PT017
            continue
        for file in found.files:
            assert file.name in ("m-Q8_0.gguf", "m-F16.gguf")
            assert 0 <= file.size < 2**46
            assert file.sha256 or file.oid
        assert found.licence is None or len(found.licence) <= 200


def test_a_listing_without_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTING", 10_000)
    hub.api_body = b" " * 20_000
    with pytest.raises(FetchError, match="longer than 10000"):
        pull("user/tiny-gguf")


@pytest.mark.parametrize(
    "name",
    [
        "../tiny-Q4_K_M.gguf", "/tiny-Q4_K_M.gguf", "a/../../tiny-Q4_K_M.gguf",
        "a\\..\\tiny-Q4_K_M.gguf", "C:tiny-Q4_K_M.gguf", "a\x1b[2J-Q4_K_M.gguf", "a\0-Q4_K_M.gguf",
        ".hidden-Q4_K_M.gguf", "a//b-Q4_K_M.gguf", "a\u202eb-Q4_K_M.gguf", "x" * 300 + ".gguf",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_not_seen(hub: Hub, tiny_bytes: bytes, name: str) -> None:
    entry = hub_server.entry("x.gguf", tiny_bytes) | {"rfilename": name}
    hub.repos["user/evil"] = Repo({}, entries=[entry, None, 7, {"rfilename": 3}])
    with pytest.raises(NotFoundError, match="holds no GGUF file"):
        pull("user/evil")
    assert pulled_files() == []


def test_a_size_that_is_a_lie(hub: Hub, tiny_bytes: bytes) -> None:
    for size, sentence in ((len(tiny_bytes) + 9, "ended"), (len(tiny_bytes) - 9, "sends more")):
        entry = hub_server.entry("a-Q4_K_M.gguf", tiny_bytes) | {"size": size}
        hub.repos["user/liar"] = Repo({"a-Q4_K_M.gguf": tiny_bytes}, entries=[entry])
        with pytest.raises((FetchError, CorruptFileError)) as caught:
            pull("user/liar")
        assert store.stored_models() == []
        if isinstance(caught.value, FetchError):
            assert sentence in str(caught.value) or "HTTP 416" in str(caught.value)


def test_the_hub_on_loopback_is_one_for_huggingface_hub(hub: Hub, tiny_bytes: bytes) -> None:
    """The official client reads from the same answers what edgellm does."""
    hub.repos["user/Tiny-GGUF"].files["README.md"] = b"# tiny"
    info = huggingface_hub.HfApi(endpoint=hub.address).model_info(
        "user/Tiny-GGUF", revision="main", files_metadata=True
    )
    ours = module.describe(HubReference("user/Tiny-GGUF"))
    assert (ours.revision, ours.gated, ours.licence) == (info.sha, info.gated, "apache-2.0")
    assert info.siblings is not None
    theirs = [
        (each.rfilename, each.size, each.lfs and each.lfs.sha256, each.blob_id)
        for each in info.siblings
    ]
    assert [(f.name, f.size, f.sha256) for f in ours.files] == [each[:3] for each in theirs]
    assert ours.files[-1].oid == theirs[-1][3]


def test_names_in_persian(hub: Hub, tiny_bytes: bytes) -> None:
    hub.repos["user/fa"] = Repo({f"مدل‌ها/{NAME} ۲-Q4_K_M.gguf": tiny_bytes})
    done = pull("user/fa")
    assert done.path.name == f"{NAME} ۲-Q4_K_M.gguf"
    assert done.path.read_bytes() == tiny_bytes
    hub.repos["user/fa2"] = Repo({f"{NAME}.gguf": tiny_bytes})
    assert pull("user/fa2").name == f"user/fa2:{NAME}"
    assert resolve(f"user/fa2:{NAME}").read_bytes() == tiny_bytes


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    hub.repos["user/Tiny-GGUF"].gated = "manual"
    with pytest.raises(FetchError, match="is gated") as caught:
        pull("user/tiny-gguf")
    assert "HF_TOKEN" in (caught.value.hint or "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub_server.serve() as other:
        other.repos = hub.repos
        hub.redirect = other.address
        hub.requests.clear()
        pull("user/tiny-gguf")
        assert {request.token for request in hub.requests} == {"Bearer hf_secret"}
        assert {request.token for request in other.requests} == {None}


def test_without_network_what_is_there_is_good(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    done = pull("user/tiny-gguf")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    again = pull("user/tiny-gguf")
    assert (again.already, again.asked, again.path) == (True, False, done.path)
    assert hub.requests == []
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids"):
        pull("user/tiny-gguf:Q8_0")
    done.path.write_bytes(b"GGUF")
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids"):
        pull("user/tiny-gguf")


@pytest.mark.parametrize("offline", [False, True])
def test_the_cache_of_huggingface_hub_is_used(
    hub: Hub, tiny_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    """huggingface_hub itself writes the cache here."""
    cached = huggingface_hub.hf_hub_download(
        "user/Tiny-GGUF",
        "tiny-Q4_K_M.gguf",
        endpoint=hub.address,
        cache_dir=tmp_path / "hf" / "hub",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    hub.requests.clear()
    done = pull("user/Tiny-GGUF")
    assert hub.file_requests() == []
    assert done.revision == COMMIT
    # one file with two names
    assert done.path.stat().st_ino == Path(cached).stat().st_ino
    assert not done.path.is_symlink()
    Path(cached).resolve().unlink()
    assert resolve("user/Tiny-GGUF").read_bytes() == tiny_bytes


def test_a_damaged_file_of_the_cache_is_not_used(
    hub: Hub, tiny_bytes: bytes, tmp_path: Path
) -> None:
    cached = Path(
        huggingface_hub.hf_hub_download(
            "user/Tiny-GGUF",
            "tiny-Q4_K_M.gguf",
            endpoint=hub.address,
            cache_dir=tmp_path / "hf" / "hub",
        )
    )
    cached.resolve().write_bytes(tiny_bytes[:-1] + b"!")
    assert pull("user/Tiny-GGUF").path.read_bytes() == tiny_bytes
    assert cached.read_bytes() == tiny_bytes[:-1] + b"!"  # it is not ours to repair


def test_where_no_second_names_are_a_copy_is_made(
    hub: Hub, tiny_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub.hf_hub_download(
        "user/Tiny-GGUF",
        "tiny-Q4_K_M.gguf",
        endpoint=hub.address,
        cache_dir=tmp_path / "hf" / "hub",
    )

    def no_links(*_args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_links)
    hub.requests.clear()
    assert pull("user/Tiny-GGUF").path.read_bytes() == tiny_bytes
    assert hub.file_requests() == []


def test_a_folder_of_mlx(hub: Hub) -> None:
    files = {
        "config.json": json.dumps(
            {"model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 4,
             "hidden_size": 64, "max_position_embeddings": 2048,
             "quantization": {"group_size": 64, "bits": 4}}
        ).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": SAFETENSORS,
        "pytorch_model.bin": b"pickle",
        "modeling.py": b"import os",
        "README.md": b"#",
        "onnx/model.onnx": b"no",
        ".gitattributes": b"",
    }  # fmt: skip
    hub.repos["mlx-community/Tiny-4bit"] = Repo(files, tags=["mlx"])
    seen = []
    done = pull("mlx-community/Tiny-4bit", announce=seen.append)
    assert done.name == "mlx-community/Tiny-4bit:MLX"
    assert sorted(path.name for path in done.path.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert (done.path / "model.safetensors").read_bytes() == SAFETENSORS
    assert resolve("tiny-4bit") == done.path
    lines = "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    )
    assert done.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    needs = seen[0].needs
    assert needs is not None
    # 1 layer x 2048 tokens x (64 + 64) x 2 bytes
    assert needs.memory >= done.bytes + 2048 * 128 * 2
    hub.requests.clear()
    assert pull("mlx-community/Tiny-4bit").already
    assert hub.file_requests() == []


def test_of_a_folder_only_what_is_missing_or_another_comes(hub: Hub) -> None:
    files = {"config.json": b"{}", "model.safetensors": SAFETENSORS, "tokenizer.json": b"{ }"}
    hub.repos["user/folder"] = Repo(files)

    def fetched() -> list[str]:
        return [request.path.rpartition("/")[2] for request in hub.file_requests()]

    hub.cuts, hub.cut_after = -1, 10
    with pytest.raises(FetchError, match="connection to the hub failed"):
        pull("user/folder")
    assert set(fetched()) == {"config.json", "model.safetensors"}
    hub.cuts = 0
    hub.requests.clear()
    done = pull("user/folder")
    assert fetched() == ["model.safetensors", "tokenizer.json"]
    assert {path.name: path.read_bytes() for path in done.path.iterdir()} == files
    newer = files | {"tokenizer.json": b"{  }"}
    hub.repos["user/folder"] = Repo(newer, commit="f" * 40)
    hub.requests.clear()
    assert pull("user/folder").path == done.path
    assert fetched() == ["tokenizer.json"]
    assert {path.name: path.read_bytes() for path in done.path.iterdir()} == newer
    assert len(pulled_files()) == 4


def test_a_folder_that_breaks_a_rule_gets_no_name(hub: Hub) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"\xff" * 99}
    hub.repos["user/folder"] = Repo(files)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        pull("user/folder")
    assert pulled_files() == []


def test_a_small_file_that_is_another_is_thrown_away(hub: Hub) -> None:
    """Files outside of LFS are verified by git's hash."""
    files = {"config.json": b"{}", "model.safetensors": SAFETENSORS, "tokenizer.json": b'{"a": 1}'}
    hub.repos["user/folder"] = Repo(files)
    hub.corrupt = 0
    with pytest.raises(FetchError, match="has the git hash"):
        pull("user/folder")


def test_several_models_and_short_names(hub: Hub, tiny_bytes: bytes) -> None:
    pull("user/tiny-gguf")
    pull("user/tiny-gguf:q8_0")
    with pytest.raises(UsageError, match="means several models") as caught:
        resolve("tiny-gguf")
    assert caught.value.hint == "one of: user/Tiny-GGUF:Q4_K_M, user/Tiny-GGUF:Q8_0"
    assert resolve("tiny-gguf:q8_0").name == "tiny-Q8_0.gguf"
    hub.repos["other/Tiny-GGUF"] = Repo({"tiny-Q8_0.gguf": tiny_bytes})
    pull("other/Tiny-GGUF")
    with pytest.raises(UsageError):
        resolve("tiny-gguf:q8_0")
    assert resolve("other/tiny-gguf").name == "tiny-Q8_0.gguf"


def test_an_address_names_revision_and_file(hub: Hub) -> None:
    address = f"https://huggingface.co/user/Tiny-GGUF/resolve/{COMMIT}/tiny-Q8_0.gguf?download=true"
    assert pull(address).name == "user/Tiny-GGUF:Q8_0"
    with pytest.raises(NotFoundError, match="no such revision"):
        pull("https://huggingface.co/user/Tiny-GGUF/tree/dev")


def test_what_a_killed_process_leaves_beside_the_files_goes(hub: Hub) -> None:
    hub.cuts, hub.cut_after = -1, 10_000
    with pytest.raises(FetchError):
        pull("user/tiny-gguf")
    hub.cuts = 0
    (partial,) = store.models_dir().rglob("*.partial")
    (partial.parent / "tmpabc").mkdir()
    (partial.parent / "tmpabc" / "tiny-Q4_K_M.gguf").write_bytes(b"GGUF")
    older = partial.parent.with_name(".Q4_K_M.0123.staging")
    older.mkdir()
    (older / "tiny-Q4_K_M.gguf.partial").write_bytes(b"GGUF")
    done = pull("user/tiny-gguf")
    assert [path.name for path in done.path.parent.iterdir()] == ["tiny-Q4_K_M.gguf"]
    assert not older.exists()
    assert len(pulled_files()) == 2


def test_two_at_once(hub: Hub) -> None:
    plan = install.make_plan(HubReference("user/Tiny-GGUF"), lambda *_: None)
    locked = place.Place(plan.repository, plan.candidate).locked()
    with locked, pytest.raises(FetchError, match="another process is pulling"):
        pull("user/tiny-gguf")
    assert pull("user/tiny-gguf").path.exists()
