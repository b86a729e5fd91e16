"""Looking after the store: removing and copying models, and checking that they are whole."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.errors import FetchError, NotFoundError, UsageError
from edgellm.models import store
from edgellm.models.catalogue import CATALOGUE

__all__ = [
    "CopiedModel",
    "Leftover",
    "RemovedModel",
    "VerifiedModel",
    "copy_model",
    "leftovers",
    "remove_models",
    "verify_models",
]

# Zero-width non-joiners are part of Persian words.
_NAME = re.compile(r"[^\W_][\w.\-\u200c ]{0,99}")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A model of the hub of which a part has come; `pull` goes on with it."""

    name: str
    bytes: int
    path: Path


@dataclass(frozen=True, slots=True)
class RemovedModel:
    """What was removed: `freed` bytes of the disk, and `kept` ones that have another name yet."""

    name: str
    freed: int
    kept: int


@dataclass(frozen=True, slots=True)
class CopiedModel:
    """A second name of a model; `linked` says that it takes no further space."""

    name: str
    path: Path
    bytes: int
    linked: bool


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """Whether a model's files are what they were when they came.

    `holds` is None where nobody has written down what they should be: such a file passed the
    safety check alone. `problem` is the sentence on what does not hold.
    """

    name: str
    path: Path
    bytes: int
    sha256: str | None
    holds: bool | None
    problem: str | None = None


def leftovers() -> list[Leftover]:
    """List what interrupted pulls have left in the store."""
    found = []
    for folder in sorted(store.models_dir().glob(f"{store.HUB}/*/*/.*{store.STAGING}")):
        label = folder.name[1 : -len(store.STAGING)].rpartition(".")[0]
        name = f"{folder.parent.parent.name}/{folder.parent.name}:{label}"
        count = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
        found.append(Leftover(name, count, folder))
    return found


def find_models(names: Sequence[str]) -> list[store.StoredModel | Leftover]:
    """Find models of the store, or what is left of an interrupted pull, by their names.

    Raises:
        NotFoundError: one is not there.
        UsageError: a name means several.
    """
    found: list[store.StoredModel | Leftover] = []
    rest = leftovers()
    for name in names:
        model = store.find(name) or next(
            (each for each in rest if each.name.casefold() == name.casefold()), None
        )
        if model is None:
            raise NotFoundError(f"no model {name} in the store", hint="see: edgellm list")
        if model not in found:
            found.append(model)
    return found


def remove_models(names: Sequence[str]) -> list[RemovedModel]:
    """Remove models from the store; nothing outside of it, and nothing if a name is wrong.

    Raises:
        NotFoundError, UsageError: as `find_models`.
        FetchError: a model is being pulled at the moment.
        OSError: it may not be removed.
    """
    return [_remove(model) for model in find_models(names)]


def _remove(model: store.StoredModel | Leftover) -> RemovedModel:
    root = store.models_dir().resolve()
    folder = model.path if isinstance(model, Leftover) else model.folder
    if folder is not None and not folder.parent.resolve().is_relative_to(root):
        raise UsageError(f"{model.name} lies outside of the store, in {folder.resolve()}")
    files = (
        [path for path in folder.rglob("*") if path.is_file()]
        if folder is not None and not folder.is_symlink()
        else [model.path]
    )
    freed = kept = 0
    for path in files:
        facts = path.lstat()
        # A link frees nothing, and neither does one of several names.
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            freed += facts.st_size
        else:
            kept += path.stat().st_size
    if isinstance(model, Leftover):
        with store.try_lock(model.path) as free:
            if not free:
                raise FetchError(f"another process is pulling {model.name}")
            shutil.rmtree(model.path)
    else:
        model.manifest_path.unlink(missing_ok=True)
        if folder is None or folder.is_symlink():
            (folder or model.path).unlink()
        else:
            shutil.rmtree(folder)
    if folder is not None and folder.parent.resolve() != root:
        for path in (folder.parent, folder.parent.parent):
            with suppress(OSError):  # not empty
                path.rmdir()
    return RemovedModel(model.name, freed, kept)


def copy_model(name: str, new_name: str, *, force: bool = False) -> CopiedModel:
    """Give a model of the store a second name; its bytes are shared where the disk can do that.

    Args:
        name: what it is called now.
        new_name: one word of letters, digits, `.`, `-`, `_`.
        force: replace a model that has the new name already.

    Raises:
        NotFoundError: there is no such model.
        UsageError: the new name is none, or is taken.
    """
    from edgellm.models.download import link_or_copy

    model = store.find(name)
    if model is None:
        raise NotFoundError(f"no model {name} in the store", hint="see: edgellm list")
    word = new_name[: -len(store.SUFFIX)] if new_name.lower().endswith(store.SUFFIX) else new_name
    if not _NAME.fullmatch(word) or word.casefold() in CATALOGUE:
        raise UsageError(
            f"{new_name!r} cannot be the name of a copy",
            hint="a name is letters, digits, `.`, `-` and `_`, and none of a built-in model",
        )
    taken = [each for each in store.stored_models() if each.name.casefold() == word.casefold()]
    if taken and (taken[0].path == model.path or not force):
        raise UsageError(f"there is a model {taken[0].name} already", hint="replace it: --force")
    for each in taken:
        _remove(each)
    manifest = model.manifest
    if len(model.files) == 1 and model.path.is_file():
        path = store.models_dir() / f"{word}{store.SUFFIX}"
        targets = [path]
        kept = replace(manifest, name=word, files=()) if manifest else None
        kept_path = store.manifest_path(path)
    else:
        folder = store.models_dir() / word
        targets = [folder / file.name for file in manifest.files] if manifest else []
        path = targets[0] if model.path.is_file() else folder
        kept = replace(manifest, name=word) if manifest else None
        kept_path = folder.with_name(f"{word}.json")
    for source, target in zip(model.files, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source.resolve(), target)
    if kept is not None:
        store.write_manifest(kept_path, kept)
    linked = all(
        source.stat().st_ino == target.stat().st_ino
        for source, target in zip(model.files, targets, strict=True)
    )
    return CopiedModel(word, path, model.bytes, linked)


def verify_models(
    names: Sequence[str] = (), *, progress: Callable[[str, int, int], None] | None = None
) -> list[VerifiedModel]:
    """Hash the files of models (by default of all) and compare with what the manifests say.

    Raises:
        NotFoundError, UsageError: as `find_models`; also for a file outside of the store.
    """
    for name in names:
        if store.find(name) is None and Path(name).exists():
            raise UsageError(
                f"{name} is not in the store, so that nobody knows what its sha256 should be",
                hint=f"a receipt in it is checked by: edgellm verify {name} --receipt",
            )
    report = progress or (lambda _what, _done, _total: None)
    chosen = find_models(names) if names else store.stored_models()
    return [_verify(model, report) for model in chosen if isinstance(model, store.StoredModel)]


def _verify(model: store.StoredModel, report: Callable[[str, int, int], None]) -> VerifiedModel:
    from edgellm.models.check import inspect_model_file
    from edgellm.models.download import sha256_of
    from edgellm_converters.errors import ConvertersError

    manifest = model.manifest
    found = None
    problem = None
    try:
        if manifest is None:
            inspect_model_file(model.path)
        elif not manifest.files:
            found = sha256_of(model.path, f"checking {model.name}", report)
            if found != manifest.sha256:
                problem = f"{model.path} has the sha256 {found}, not {manifest.sha256}"
        else:
            found = manifest.sha256
            for path, file in zip(model.files, manifest.files, strict=True):
                digest = sha256_of(path, f"checking {model.name} {file.name}", report)
                if digest != file.sha256:
                    found = digest if len(manifest.files) == 1 else None
                    problem = f"{path} has the sha256 {digest}, not {file.sha256}"
                    break
    except (ConvertersError, OSError) as error:
        problem = str(error)
    holds = False if problem else (None if manifest is None else True)
    return VerifiedModel(model.name, model.path, model.bytes, found, holds, problem)
