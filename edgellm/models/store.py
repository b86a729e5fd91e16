"""The store: a folder of `NAME.gguf` files, each with a `NAME.json` manifest beside it.

A model that was put into the folder by hand has no manifest and is as good as any other. Nothing
here opens a model file; that is `edgellm.models.check`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from edgellm import settings

__all__ = [
    "SUFFIX",
    "Manifest",
    "StoredModel",
    "find",
    "models_dir",
    "new_file",
    "read_manifest",
    "stored_models",
    "write_manifest",
]

SUFFIX = ".gguf"
# A manifest of ours has some 300 bytes; a larger file is not one.
_MANIFEST_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a model that was pulled; `bytes` and `sha256` are the model file's."""

    name: str
    title: str
    licence: str
    source: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the store; `manifest` is None where it was put there by hand."""

    name: str
    path: Path
    bytes: int
    manifest: Manifest | None


def models_dir() -> Path:
    """Give the folder of the models; it need not exist yet."""
    return settings.home_dir() / "models"


def stored_models() -> list[StoredModel]:
    """List the models in the store by name; hidden files and half-written ones are left out."""
    found = []
    for path in _model_files():
        with suppress(OSError):  # removed meanwhile
            found.append(_stored(path))
    return found


def find(name: str) -> StoredModel | None:
    """Find a model by its name, with or without `.gguf`, upper and lower case alike.

    An exact match wins over one that differs in case.
    """
    wanted = name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
    near = [path for path in _model_files() if path.stem.casefold() == wanted.casefold()]
    exact = [path for path in near if path.stem == wanted]
    for path in exact or near:
        with suppress(OSError):
            return _stored(path)
    return None


def read_manifest(path: Path) -> Manifest | None:
    """Read the manifest beside a model file; None if there is none, or it is not one of ours."""
    try:
        with path.with_suffix(".json").open("rb") as file:
            raw = file.read(_MANIFEST_LIMIT + 1)
        values = json.loads(raw) if len(raw) <= _MANIFEST_LIMIT else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    known = {field.name: values.get(field.name) for field in fields(Manifest)}
    size = known.pop("bytes")
    if type(size) is not int or not all(isinstance(value, str) for value in known.values()):
        return None
    return Manifest(bytes=size, **{key: str(value) for key, value in known.items()})


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest beside a model file, atomically."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    with new_file(path.with_suffix(".json")) as file:
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


def _stored(path: Path) -> StoredModel:
    return StoredModel(path.stem, path, path.stat().st_size, read_manifest(path))
