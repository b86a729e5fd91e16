"""Bundles as files: a tar archive that its contents alone decide, and its checked reading.

All lies in one folder. The first members are `manifest.json`, which lists every other file with its
sha256, and `SHA256SUMS`, the same for a machine that has nothing but a shell.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from edgellm.errors import UnsafeModelError, UsageError

__all__ = [
    "FOLDER",
    "MANIFEST",
    "SUMS",
    "Entry",
    "Manifest",
    "check_archive",
    "compression",
    "read_manifest",
    "write_archive",
]

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
FOLDER = "edgellm-bundle"
FORMAT = 1
CHUNK = 1 << 20
MAX_MANIFEST = 4 << 20  # bytes
MAX_FILES = 10_000
_NAME = re.compile(r"[A-Za-z0-9._+@-]+(/[A-Za-z0-9._+@-]+)*")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a bundle.

    Attributes:
        name: its path in the bundle, "models/mine.gguf".
        source: where its bytes are, or the bytes.
        executable: whether it can be run.
    """

    name: str
    source: Path | bytes
    executable: bool = False

    @property
    def bytes(self) -> int:
        """Its size."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        fields: `target`, `model`, `edgellm` and more, as bundle.py writes them.
        files: (sha256, bytes) by name, all but the manifest and the sums.
        sums: the text of `SHA256SUMS`.
    """

    fields: dict[str, Any]
    files: dict[str, tuple[str, int]]
    sums: str

    @property
    def text(self) -> str:
        """The text of `manifest.json`."""
        files = [
            {"path": name, "sha256": digest, "bytes": size}
            for name, (digest, size) in sorted(self.files.items())
        ]
        body = {"format": FORMAT, **self.fields, "files": files}
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @property
    def fingerprint(self) -> str:
        """The sha256 of `SHA256SUMS`: it stands for the whole bundle."""
        return hashlib.sha256(self.sums.encode()).hexdigest()


def compression(path: Path) -> str:
    """Tell how an archive of that name is compressed: "", "gz" or "zst".

    Raises:
        UsageError: the name is not one of an archive.
    """
    for suffix, kind in ((".tar", ""), (".tar.gz", "gz"), (".tgz", "gz"), (".tar.zst", "zst")):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return kind
    raise UsageError(
        f"{path}: a bundle is a .tar, .tar.gz or .tar.zst file",
        hint="weights hardly get smaller: .tar is quick, and needs no other program to unpack",
    )


def write_archive(
    stream: IO[bytes], kind: str, entries: Sequence[Entry], fields: dict[str, Any], report: Progress
) -> Manifest:
    """Write a bundle; gives its manifest.

    Each file is read twice, to hash it and to copy it, and must not change in between.

    Args:
        stream: where it is written.
        kind: see `compression`.
        entries: its files.
        fields: what else the manifest says.
        report: called often, with the bytes that are done, and all.

    Raises:
        UsageError: a name that cannot stand in a bundle, or zstandard is not installed.
        OSError: a file cannot be read or written, or has changed.
    """
    ordered = sorted(entries, key=lambda entry: entry.name)
    total = 2 * sum(entry.bytes for entry in ordered)
    done = 0
    digests: dict[str, tuple[str, int]] = {}
    for entry in ordered:
        if not _NAME.fullmatch(entry.name) or entry.name in digests:
            raise UsageError(
                f"{entry.name!r} cannot stand in a bundle",
                hint="names have letters from A to Z, digits, dots, dashes and underscores",
            )
        digest = hashlib.sha256()
        for chunk in _chunks(entry):
            digest.update(chunk)
            done += len(chunk)
            report(done, total)
        digests[entry.name] = (digest.hexdigest(), entry.bytes)
    manifest = _manifest(fields, digests)
    first = [
        Entry(MANIFEST, manifest.text.encode()),
        Entry(SUMS, manifest.sums.encode()),
    ]
    with (
        _compressed(stream, kind, "w") as inner,
        tarfile.open(fileobj=inner, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for entry in [*first, *ordered]:
            info = tarfile.TarInfo(f"{FOLDER}/{entry.name}")
            info.size = entry.bytes
            info.mode = 0o755 if entry.executable else 0o644
            reader = _Counted(entry)
            archive.addfile(info, reader)
            wanted = digests.get(entry.name)
            if wanted is not None and reader.digest.hexdigest() != wanted[0]:
                raise OSError(f"{entry.source!s} has changed while it was bundled")
            done += entry.bytes
            report(min(done, total), total)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Read what a bundle says of itself, without checking its files.

    Raises:
        UnsafeModelError: it is no bundle.
        UsageError: see `compression`.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        return _first(path, archive)


def check_archive(
    path: Path, report: Progress, *, into: Callable[[str, bool], IO[bytes]] | None = None
) -> Manifest:
    """Check every file of a bundle against its manifest; gives that.

    Args:
        path: the archive.
        report: called often, with the bytes that are done, and all.
        into: gives where a file is copied to, by its name and whether it can be run; what was
            copied is not to be used before this has ended well.

    Raises:
        UnsafeModelError: a file is changed, missing, or one too many, or has a path that leads
            out of the folder; the sentence names it.
        UsageError: see `compression`.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        manifest = _first(path, archive)
        total = sum(size for _, size in manifest.files.values())
        done = 0
        left = dict(manifest.files)
        while (member := archive.next()) is not None:
            name = _safe(path, member)
            if name not in left:
                raise UnsafeModelError(f"{path}: the manifest does not list the file {name}")
            digest, size = left.pop(name)
            if member.size != size:
                raise UnsafeModelError(
                    f"{path}: {name} has {member.size} bytes, and the manifest says {size}"
                )
            found = hashlib.sha256()
            reader = archive.extractfile(member)
            writer = into(name, bool(member.mode & 0o100)) if into is not None else None
            try:
                while reader is not None and (chunk := reader.read(CHUNK)):
                    found.update(chunk)
                    if writer is not None:
                        writer.write(chunk)
                    done += len(chunk)
                    report(done, total)
            finally:
                if writer is not None:
                    writer.close()
            if found.hexdigest() != digest:
                raise UnsafeModelError(
                    f"{path}: {name} is not what the manifest says: its bytes have changed"
                )
        if left:
            raise UnsafeModelError(f"{path}: {min(left)} is missing")
    return manifest


class _Counted(io.RawIOBase):
    """The bytes of an entry, hashed as they are read."""

    def __init__(self, entry: Entry) -> None:
        self.digest = hashlib.sha256()
        self._chunks = _chunks(entry)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Give so many bytes, or what is left."""
        while len(self._rest) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self.digest.update(chunk)
            self._rest += chunk
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _chunks(entry: Entry) -> Iterator[bytes]:
    if isinstance(entry.source, bytes):
        yield entry.source
        return
    with entry.source.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _manifest(fields: dict[str, Any], digests: dict[str, tuple[str, int]]) -> Manifest:
    sums = "".join(f"{digest}  {name}\n" for name, (digest, _) in sorted(digests.items()))
    return Manifest(fields, digests, sums)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    kind = compression(path)
    try:
        with (
            path.open("rb") as file,
            _compressed(file, kind, "r") as inner,
            tarfile.open(fileobj=inner, mode="r|") as archive,
        ):
            yield archive
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UnsafeModelError(f"{path}: this is no whole archive: {error}") from error
    except OSError as error:
        # gzip and zstandard say so of damaged data
        if error.errno is not None:
            raise
        raise UnsafeModelError(f"{path}: this is no whole archive: {error}") from error


@contextmanager
def _compressed(stream: IO[bytes], kind: str, mode: str) -> Iterator[IO[bytes]]:
    """Wrap a stream; the bytes that come out depend on those that go in alone."""
    if kind == "gz":
        import gzip

        with gzip.GzipFile("", f"{mode}b", 6, stream, mtime=0) as packed:
            yield packed  # type: ignore[misc]
    elif kind == "zst":
        try:
            import zstandard
        except ImportError as error:
            raise UsageError(
                "zstandard, which packs .tar.zst, is not installed",
                hint="pip install 'edgellm[deploy]', or give the bundle a name that ends in .tar",
            ) from error
        try:
            if mode == "w":
                packer = zstandard.ZstdCompressor(level=10)
                with packer.stream_writer(stream, closefd=False) as writer:
                    yield writer
            else:
                unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
                with unpacker.stream_reader(stream, closefd=False) as reader:
                    yield io.BufferedReader(reader, CHUNK)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
    else:
        yield stream


def _first(path: Path, archive: tarfile.TarFile) -> Manifest:
    """Read the manifest and the sums, which stand first."""
    texts = []
    for wanted in (MANIFEST, SUMS):
        member = archive.next()
        if member is None or member.name != f"{FOLDER}/{wanted}" or not member.isreg():
            raise UnsafeModelError(
                f"{path}: this is no bundle: {wanted} is not where it has to stand"
            )
        if member.size > MAX_MANIFEST:
            raise UnsafeModelError(f"{path}: {wanted} has {member.size} bytes")
        reader = archive.extractfile(member)
        texts.append(reader.read() if reader is not None else b"")
    try:
        body = json.loads(texts[0])
        listed = {each["path"]: (each["sha256"], each["bytes"]) for each in body.pop("files")}
        version = body.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsafeModelError(f"{path}: its manifest cannot be read: {error}") from error
    if version != FORMAT:
        raise UnsafeModelError(
            f"{path}: its format is {version!r}, and this edgellm reads {FORMAT}",
            hint="a newer edgellm may read it",
        )
    if len(listed) > MAX_FILES:
        raise UnsafeModelError(f"{path}: it lists {len(listed)} files")
    for name, (digest, size) in listed.items():
        _check_name(path, name)
        whole = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
        if not whole or type(size) is not int or size < 0:
            raise UnsafeModelError(f"{path}: the manifest is wrong about {name}")
    manifest = _manifest(body, listed)
    if texts[1] != manifest.sums.encode():
        raise UnsafeModelError(f"{path}: {SUMS} says otherwise than {MANIFEST}")
    return manifest


def _safe(path: Path, member: tarfile.TarInfo) -> str:
    if not member.isreg():
        raise UnsafeModelError(f"{path}: {member.name!r} is no plain file")
    folder, _, name = member.name.partition("/")
    if folder != FOLDER:
        raise UnsafeModelError(f"{path}: the path {member.name[:100]!r} leads out of the bundle")
    _check_name(path, name)
    return name


def _check_name(path: Path, name: object) -> None:
    """Refuse a name that leads out of the folder, or that a shell would take for something else.

    Raises:
        UnsafeModelError: it is one.
    """
    plain = isinstance(name, str) and len(name) < 300 and _NAME.fullmatch(name)
    if not plain or set(PurePosixPath(str(name)).parts) & {".", ".."}:
        raise UnsafeModelError(f"{path}: the path {str(name)[:100]!r} leads out of the bundle")
    if str(name).split("/")[-1].startswith("-"):
        raise UnsafeModelError(f"{path}: the path {str(name)[:100]!r} looks like an option")
