"""The store: listing, manifests, and files that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm.models import store


@pytest.fixture
def folder() -> Path:
    folder = store.models_dir()
    folder.mkdir(parents=True)
    return folder


WORDS = dict.fromkeys(("name", "title", "licence", "source", "sha256"), "x")
MANIFEST = store.Manifest("a", "A model", "MIT", "pkg==1", 4, "0" * 64)


def test_an_empty_store_lists_nothing() -> None:
    assert not store.models_dir().exists()
    assert store.stored_models() == []
    assert store.find("a") is None


def test_models_put_there_by_hand_are_listed_with_the_others(folder: Path) -> None:
    (folder / "b.gguf").write_bytes(b"GGUF!")
    (folder / "a.gguf").write_bytes(b"GGUF")
    store.write_manifest(folder / "a.gguf", MANIFEST)
    (folder / ".c.gguf.x.partial").write_bytes(b"half")
    (folder / ".hidden.gguf").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    (folder / "d.gguf").mkdir()
    assert store.stored_models() == [
        store.StoredModel("a", folder / "a.gguf", 4, MANIFEST),
        store.StoredModel("b", folder / "b.gguf", 5, None),
    ]


def test_a_name_is_found_with_and_without_suffix_and_in_any_case(folder: Path) -> None:
    (folder / "My-Model.gguf").write_bytes(b"GGUF")
    for name in ("My-Model", "my-model", "My-Model.gguf", "MY-MODEL.GGUF"):
        found = store.find(name)
        assert found is not None
        assert found.path == folder / "My-Model.gguf"
    assert store.find("my") is None


def test_an_exact_name_wins_over_another_case(folder: Path) -> None:
    for name in ("Model", "model"):
        (folder / f"{name}.gguf").write_bytes(b"GGUF")
    if len(list(folder.iterdir())) < 2:
        pytest.skip("this file system does not tell upper from lower case")
    for name in ("Model", "model"):
        found = store.find(name)
        assert found is not None
        assert found.name == name


def test_a_name_with_two_dots_keeps_them(folder: Path) -> None:
    (folder / "m-0.5b.gguf").write_bytes(b"GGUF")
    store.write_manifest(folder / "m-0.5b.gguf", MANIFEST)
    assert store.stored_models()[0].name == "m-0.5b"
    assert store.stored_models()[0].manifest == MANIFEST


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"name": "a"}',
        json.dumps({**WORDS}).encode(),
        json.dumps({**WORDS, "bytes": "4"}).encode(),
        json.dumps({**WORDS, "sha256": 1, "bytes": 4}).encode(),
        b'{"name": "' + b"a" * 70_000 + b'"}',
    ],
)
def test_a_damaged_manifest_is_no_manifest(folder: Path, raw: bytes) -> None:
    (folder / "a.gguf").write_bytes(b"GGUF")
    (folder / "a.json").write_bytes(raw)
    assert store.stored_models() == [store.StoredModel("a", folder / "a.gguf", 4, None)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_file_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"before")

    def write() -> None:
        with store.new_file(target) as file:
            file.write(b"half of the ne")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    def write() -> None:
        with store.new_file(tmp_path / "a.gguf"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_readable_by_others(tmp_path: Path) -> None:
    with store.new_file(tmp_path / "folder" / "a.gguf") as file:
        file.write(b"x")
    assert (tmp_path / "folder" / "a.gguf").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_left_is_removed_and_what_is_written_is_not(folder: Path) -> None:
    (folder / ".a.gguf.x.partial").write_bytes(b"half")
    with store.new_file(folder / "b.gguf") as file:
        file.write(b"GGUF")
        store.clean()
    assert [path.name for path in folder.iterdir()] == ["b.gguf"]
