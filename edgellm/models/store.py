"""The store: a folder of models, each with a manifest that says where it came from.

A model in one file is `NAME.gguf` with `NAME.json` beside it; one that was put there by hand has no
manifest and is as good as any other. A model of the hub is a folder with its manifest beside it,
which is written last: `hub/USER/REPO/TYPE/` and `hub/USER/REPO/TYPE.json`. It is called
`USER/REPO:TYPE`, and by any part of that which no other model shares. Nothing here opens a model
file; that is `edgellm.models.check`.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from edgellm import settings
from edgellm.errors import UsageError
from edgellm.models.manifest import Manifest, ManifestFile, parse_manifest
from edgellm.models.reference import parse_hub_reference

__all__ = [
    "HUB",
    "SUFFIX",
    "Manifest",
    "ManifestFile",
    "StoredModel",
    "at",
    "clean",
    "find",
    "hub_manifest_path",
    "manifest_path",
    "models_dir",
    "new_file",
    "read_manifest",
    "staging_folders",
    "staging_path",
    "stored_models",
    "try_lock",
    "write_manifest",
]

SUFFIX = ".gguf"
HUB = "hub"
STAGING = ".staging"
# A manifest of ours has some 300 bytes, and 150 more for each file of a folder.
_MANIFEST_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the store; `manifest` is None where it was put there by hand.

    `path` is what a backend opens: a GGUF file (of several parts the first one), or a folder of
    MLX or Hugging Face.
    """

    name: str
    path: Path
    bytes: int
    manifest: Manifest | None

    @property
    def folder(self) -> Path | None:
        """The folder that holds its files and nothing else; None for a model in one file."""
        if self.manifest is None or not self.manifest.files:
            return None
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it consists of."""
        folder = self.folder
        if folder is None or self.manifest is None:
            return (self.path,)
        return tuple(folder / file.name for file in self.manifest.files)

    @property
    def manifest_path(self) -> Path:
        """Where its manifest lies, or would lie."""
        folder = self.folder
        return manifest_path(self.path) if folder is None else _beside(folder)


def models_dir() -> Path:
    """Give the folder of the models; it need not exist yet."""
    return settings.home_dir() / "models"


def manifest_path(path: Path) -> Path:
    """Name the manifest of a model in one file."""
    return path.with_suffix(".json")


def hub_manifest_path(repo: str, label: str) -> Path:
    """Name the manifest of a model of the hub; its folder has the same name without `.json`."""
    return _beside(models_dir() / HUB / repo / label)


def stored_models() -> list[StoredModel]:
    """List the models in the store by name; hidden files and half-written ones are left out."""
    found = []
    for path in _model_files():
        with suppress(OSError):  # removed meanwhile
            found.append(_stored(path))
    for path in _manifests():
        model = _stored_folder(path)
        if model is not None:
            found.append(model)
    return sorted(found, key=lambda model: model.name)


def at(path: Path) -> StoredModel | None:
    """Give the model of the store that lies at `path`; None if it lies elsewhere."""
    return next((model for model in stored_models() if model.path == path), None)


def find(name: str) -> StoredModel | None:
    """Find a model by its name, upper and lower case alike.

    `.gguf` may stand behind it. A model of the hub is found by the end of its name or by its start
    up to the type too: `repo:TYPE`, `user/repo`, `repo`. An exact match wins over one that differs
    in case, and that over a part.

    Raises:
        UsageError: the part belongs to several models.
    """
    reference = parse_hub_reference(name)
    word = str(reference) if reference else name
    bare = word[: -len(SUFFIX)] if word.lower().endswith(SUFFIX) else word
    models = stored_models()
    for same in (
        [model for model in models if model.name == bare],
        [model for model in models if model.name.casefold() == bare.casefold()],
    ):
        if same:
            return same[0]
    parts = [model for model in models if bare.casefold() in _short_names(model)]
    if len(parts) > 1:
        names = ", ".join(model.name for model in parts)
        raise UsageError(f"{name} means several models of the store", hint=f"one of: {names}")
    return parts[0] if parts else None


def _short_names(model: StoredModel) -> set[str]:
    name = model.name.casefold()
    if "/" not in name:
        return set()
    repo, _, label = name.partition(":")
    short = repo.partition("/")[2]
    files = () if model.manifest is None else model.manifest.files[:1]
    stems = {file.name.casefold().removesuffix(SUFFIX) for file in files}
    return {repo, short, f"{short}:{label}"} | {f"{repo}:{stem}" for stem in stems}


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest, or that beside a model file; None if there is none, or it is not ours."""
    if path.suffix == SUFFIX:
        path = manifest_path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MANIFEST_LIMIT + 1)
        values = json.loads(raw) if len(raw) <= _MANIFEST_LIMIT else None
    except (OSError, ValueError, RecursionError):
        return None
    return parse_manifest(values)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, or that beside a model file, atomically."""
    values = {key: value for key, value in asdict(manifest).items() if value not in (None, ())}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with new_file(manifest_path(path) if path.suffix == SUFFIX else path) as file:
        file.write(text.encode())


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `target` that takes its name when the block ends well.

    Whatever ends the block early, Ctrl-C included, removes it: nothing half-written ever has the
    final name, and what had the name before stays.
    """
    import tempfile

    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=".partial")
    except OSError as error:
        error.filename = str(target)  # a folder that cannot be written: the name it wants is told
        raise
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # see `clean`
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)  # a full disk says "No space left" and not where
        raise


def clean() -> None:
    """Remove what processes that were killed have left of single files and manifests.

    What is being written is locked by its writer, and is left alone.
    """
    folder = models_dir()
    for path in (*folder.glob(".*.partial"), *folder.glob(f"{HUB}/*/*/.*.json.*.partial")):
        with try_lock(path) as free:
            if free and path.is_file():
                path.unlink(missing_ok=True)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock a file or folder while the block runs; gives False if another process has it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have moved it away before we had the lock.
            free = os.path.samestat(os.fstat(handle), path.stat())
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def staging_path(folder: Path, key: str) -> Path:
    """Name the hidden folder in which a version (`key`) of a model is gathered."""
    return folder.with_name(f".{folder.name}.{key}{STAGING}")


def staging_folders(folder: Path) -> list[Path]:
    """Find what is gathered of any version of a model."""
    return sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*{STAGING}"))


def _model_files() -> list[Path]:
    try:
        paths = sorted(models_dir().iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        path
        for path in paths
        if path.suffix == SUFFIX and not path.name.startswith(".") and path.is_file()
    ]


def _manifests() -> list[Path]:
    """Find the manifests that may belong to folders: of copies, and of the hub."""
    folder = models_dir()
    return [
        path
        for path in (*folder.glob("*.json"), *folder.glob(f"{HUB}/*/*/*.json"))
        if not path.name.startswith(".") and path.with_name(path.name[:-5]).is_dir()
    ]


def _stored(path: Path) -> StoredModel:
    return StoredModel(path.stem, path, path.stat().st_size, read_manifest(path))


def _stored_folder(path: Path) -> StoredModel | None:
    """Give the model of a manifest beside a folder, if its files are there."""
    manifest = read_manifest(path)
    if manifest is None or not manifest.files:
        return None
    folder = path.with_name(path.name[:-5])
    if not all((folder / file.name).is_file() for file in manifest.files):
        return None
    first = manifest.files[0].name
    where = folder / first if first.lower().endswith(SUFFIX) else folder
    inside = path.parent.parent.parent == models_dir() / HUB
    name = f"{path.parent.parent.name}/{path.parent.name}:" if inside else ""
    return StoredModel(name + folder.name, where, manifest.bytes, manifest)


def _beside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")
