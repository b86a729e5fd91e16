"""Writing wheels whose bytes depend on nothing but their contents (PEP 427)."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import FetchError

__all__ = ["Member", "repack", "write_wheel"]

# The first moment that a zip file can name.
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a wheel: its name in there, and its bytes."""

    name: str
    data: bytes


def write_wheel(target: Path, members: Iterable[Member], info: str) -> Path:
    """Write a wheel at `target`, its members in the order of their names.

    `info` is the name of its `.dist-info` folder, whose RECORD is made here.
    """
    listed = sorted(members, key=lambda member: member.name)
    record = "".join(
        f"{each.name},sha256={_digest(each.data)},{len(each.data)}\n" for each in listed
    )
    record += f"{info}/RECORD,,\n"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as wheel:
        for each in [*listed, Member(f"{info}/RECORD", record.encode())]:
            entry = zipfile.ZipInfo(each.name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whatever writes it: it belongs to the bytes
            mode = 0o755 if ".so" in Path(each.name).suffixes else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            wheel.writestr(entry, each.data)
    return target


def repack(name: str, folder: Path) -> Path:
    """Make a wheel of a package that is installed here, as it lies there, and give its path.

    Raises:
        FetchError: it is not installed, or its list of files is not there or not right.
    """
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise FetchError(f"{name} is not installed, so that it cannot be bundled") from error
    wheel_text, files = found.read_text("WHEEL"), found.files
    tags = [
        line.partition(":")[2].strip()
        for line in (wheel_text or "").splitlines()
        if line.startswith("Tag:")
    ]
    if not files or not tags:
        raise FetchError(f"{name} was not installed from a wheel, so that it cannot be bundled")
    members = []
    info = ""
    for path in files:
        parts = path.parts
        # Scripts are made anew where it is installed, and compiled files are of one Python alone.
        if ".." in parts or path.suffix == ".pyc" or "__pycache__" in parts:
            continue
        if len(parts) > 1 and parts[0].endswith(".dist-info"):
            info = parts[0]
            if parts[-1] in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                continue
        try:
            data = Path(str(path.locate())).read_bytes()
        except OSError as error:
            raise FetchError(f"{name}: its file {path} cannot be read: {error.strerror}") from error
        members.append(Member(path.as_posix(), data))
    if not info:
        raise FetchError(f"{name} was not installed from a wheel, so that it cannot be bundled")
    target = folder / f"{info.removesuffix('.dist-info')}-{tags[0]}.whl"
    return write_wheel(target, members, info)


def _digest(data: bytes) -> str:
    raw = hashlib.sha256(data).digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
