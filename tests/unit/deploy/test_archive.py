"""Bundles: the same bytes each time, and nothing of a changed one is believed."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.deploy.archive import (
    FOLDER,
    Entry,
    check_archive,
    compression,
    read_manifest,
    write_archive,
)
from edgellm.errors import UnsafeModelError, UsageError

FILES = {"install.sh": b"#!/bin/sh\n", "models/m.gguf": b"GGUF" * 1000, "wheels/a.whl": b"PK"}


def silent(_done: int, _total: int) -> None:
    pass


def written(path: Path, files: dict[str, bytes] | None = None) -> Path:
    entries = [Entry(name, data, name.endswith(".sh")) for name, data in (files or FILES).items()]
    with path.open("wb") as stream:
        write_archive(stream, compression(path), entries, {"target": "rpi5"}, silent)
    return path


def by_hand(path: Path, members: list[tuple[str, bytes | str]], listed: dict[str, bytes]) -> Path:
    """Write an archive as an attacker would; a text is the target of a link."""
    files = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in sorted(listed.items())
    ]
    sums = "".join(f"{each['sha256']}  {each['path']}\n" for each in files)
    manifest = json.dumps({"format": 1, "target": "rpi5", "files": files})
    first = [("manifest.json", manifest.encode()), ("SHA256SUMS", sums.encode())]
    with tarfile.open(path, "w") as archive:
        for name, data in [*((f"{FOLDER}/{n}", d) for n, d in first), *members]:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
def test_a_bundle_is_read_back_and_made_again_with_the_same_bytes(
    tmp_path: Path, suffix: str
) -> None:
    first, second = written(tmp_path / f"a{suffix}"), written(tmp_path / f"b{suffix}")
    assert first.read_bytes() == second.read_bytes()
    found: dict[str, io.BytesIO] = {}

    def into(name: str, executable: bool) -> io.BytesIO:
        assert executable is (name == "install.sh")
        found[name] = kept = io.BytesIO()
        kept.close = lambda: None  # type: ignore[method-assign]
        return kept

    manifest = check_archive(first, silent, into=into)
    assert {name: each.getvalue() for name, each in found.items()} == FILES
    assert manifest.fields == {"target": "rpi5"}
    assert read_manifest(first) == manifest
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(FILES.items())
    )
    assert manifest.fingerprint == hashlib.sha256(sums.encode()).hexdigest()


def test_tar_itself_unpacks_it_into_one_folder(tmp_path: Path) -> None:
    import subprocess

    archive = written(tmp_path / "a.tar")
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    assert (tmp_path / FOLDER / "models" / "m.gguf").read_bytes() == FILES["models/m.gguf"]
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"],
        cwd=tmp_path / FOLDER,
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0


@pytest.mark.parametrize("name", ["a.zip", "a", ".tar", "a.tar.xz"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"is a \.tar, \.tar\.gz or \.tar\.zst file"):
        compression(Path(name))


def test_a_flipped_byte_is_told_with_the_files_name(tmp_path: Path) -> None:
    archive = written(tmp_path / "a.tar")
    data = bytearray(archive.read_bytes())
    data[data.index(b"GGUF") + 100] ^= 1
    archive.write_bytes(data)
    with pytest.raises(UnsafeModelError, match=r"models/m\.gguf is not what the manifest says"):
        check_archive(archive, silent)


def one(name: str, data: bytes | str = b"x") -> list[tuple[str, bytes | str]]:
    return [(name, data)]


HOSTILE: dict[str, tuple[list[tuple[str, bytes | str]], dict[str, bytes], str]] = {
    "missing": ([], {"a": b"x"}, "a is missing"),
    "one too many": (one(f"{FOLDER}/b"), {}, "does not list the file b"),
    "twice": (
        [*one(f"{FOLDER}/a"), *one(f"{FOLDER}/a")],
        {"a": b"x"},
        "does not list the file a",
    ),
    "size": (one(f"{FOLDER}/a", b"xx"), {"a": b"x"}, "has 2 bytes, and the manifest says 1"),
    "climbs": (one(f"{FOLDER}/../a"), {"../a": b"x"}, "leads out of the bundle"),
    "climbs unlisted": (one(f"{FOLDER}/../../etc/passwd"), {}, "leads out of the bundle"),
    "absolute": (one("/etc/passwd"), {}, "leads out of the bundle"),
    "elsewhere": (one("other/a"), {}, "leads out of the bundle"),
    "link": (one(f"{FOLDER}/a", "/etc/passwd"), {"a": b"x"}, "is no plain file"),
    "option": (one(f"{FOLDER}/-rf"), {"-rf": b"x"}, "looks like an option"),
    "shell": (one(f"{FOLDER}/a;b"), {"a;b": b"x"}, "leads out of the bundle"),
    "newline": (one(f"{FOLDER}/a\nb"), {"a\nb": b"x"}, "leads out of the bundle"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, case: str) -> None:
    members, listed, why = HOSTILE[case]
    archive = by_hand(tmp_path / "a.tar", members, listed)
    with pytest.raises(UnsafeModelError, match=why):
        check_archive(archive, silent)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{",
        b'{"format": 2, "files": []}',
        b'{"format": 1}',
        b'{"format": 1, "files": [{"path": "a", "sha256": "zz", "bytes": 1}]}',
        b'{"format": 1, "files": [{"path": "a", "sha256": "' + b"0" * 64 + b'", "bytes": true}]}',
        b'{"format": 1, "files": [{"path": 3, "sha256": "' + b"0" * 64 + b'", "bytes": 1}]}',
        b'{"format": 1, "files": [{"path": [1], "sha256": "' + b"0" * 64 + b'", "bytes": 1}]}',
        b"[" * 100_000,
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, manifest: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (("manifest.json", manifest), ("SHA256SUMS", b"")):
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(UnsafeModelError, match=r"a\.tar"):
        check_archive(path, silent)


def test_sums_that_say_otherwise_are_refused(tmp_path: Path) -> None:
    archive = written(tmp_path / "a.tar")
    data = bytearray(archive.read_bytes())
    place = data.index(b"  install.sh\n")
    data[place - 1] = ord("0") if data[place - 1] != ord("0") else ord("1")
    archive.write_bytes(data)
    with pytest.raises(UnsafeModelError, match=r"SHA256SUMS says otherwise than manifest\.json"):
        read_manifest(archive)


def test_any_damage_is_a_sentence(tmp_path: Path) -> None:
    """Bytes changed at random, and archives cut off: never another error, never a wrong file."""
    draw = random.Random(7)
    for suffix in (".tar", ".tar.gz", ".tar.zst"):
        archive = written(tmp_path / f"a{suffix}")
        whole = archive.read_bytes()
        for turn in range(120):
            data = bytearray(whole)
            if turn % 3:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            else:
                del data[draw.randrange(len(data)) :]
            archive.write_bytes(data)
            try:
                manifest = check_archive(archive, silent)
            except UnsafeModelError:
                continue
            # Some bytes carry nothing: dates, owners, padding.
            assert {name: size for name, (_, size) in manifest.files.items()} == {
                name: len(content) for name, content in FILES.items()
            }


def test_names_that_a_shell_would_mistake_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot stand in a bundle"):
        written(tmp_path / "a.tar", {"a b": b""})


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "m"
    source.write_bytes(b"x" * 10)
    calls = 0

    def change(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            source.write_bytes(b"y" * 10)

    with (tmp_path / "a.tar").open("wb") as stream, pytest.raises(OSError, match="has changed"):
        write_archive(stream, "", [Entry("m", source)], {}, change)


Names = st.from_regex(r"[A-Za-z0-9_]{1,8}(/[A-Za-z0-9_]{1,8}){0,2}", fullmatch=True)


@settings(max_examples=40)
@given(files=st.dictionaries(Names, st.binary(max_size=2000), max_size=6))
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("b") / "a.tar"
    with path.open("wb") as stream:
        entries = [Entry(name, data) for name, data in files.items()]
        write_archive(stream, "", entries, {}, silent)
    found = {name: digest for name, (digest, _) in check_archive(path, silent).files.items()}
    assert found == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
