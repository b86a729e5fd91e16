"""Wheels that we write: read back by pip's own rules, and the same bytes each time."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

import pytest

from edgellm.deploy.wheelfile import Member, repack, write_wheel
from edgellm.errors import FetchError

INFO = "thing-1.0.dist-info"


def members() -> list[Member]:
    return [
        Member(f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"),
        Member(f"{INFO}/WHEEL", b"Wheel-Version: 1.0\nTag: py3-none-any\n"),
        Member("thing/lib/libthing.so.0", b"\x7fELF"),
        Member("thing/__init__.py", b"x = 1\n"),
    ]


def test_every_member_stands_in_the_record_with_its_hash(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "thing-1.0-py3-none-any.whl", members(), INFO)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        rows = list(csv.reader(io.StringIO(archive.read(f"{INFO}/RECORD").decode())))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, size in rows:
            if name == f"{INFO}/RECORD":
                assert (digest, size) == ("", "")
                continue
            data = archive.read(name)
            raw = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
            assert (digest, int(size)) == (f"sha256={raw.decode()}", len(data))
        modes = {each.filename: each.external_attr >> 16 & 0o777 for each in archive.infolist()}
    assert modes["thing/lib/libthing.so.0"] == 0o755
    assert modes["thing/__init__.py"] == 0o644


def test_the_order_of_members_does_not_matter(tmp_path: Path) -> None:
    first = write_wheel(tmp_path / "a.whl", members(), INFO).read_bytes()
    second = write_wheel(tmp_path / "b.whl", members()[::-1], INFO).read_bytes()
    assert first == second


def test_an_installed_package_becomes_the_wheel_that_it_was(tmp_path: Path) -> None:
    wheel = repack("click", tmp_path)
    version = importlib.metadata.version("click")
    assert wheel.name == f"click-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        import click

        source = Path(click.__file__ or "").read_bytes()
        assert archive.read("click/__init__.py") == source
    assert f"click-{version}.dist-info/METADATA" in names
    assert not any("__pycache__" in name or name.endswith(("INSTALLER", ".pyc")) for name in names)


def test_a_package_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no-such-package is not installed"):
        repack("no-such-package", tmp_path)
