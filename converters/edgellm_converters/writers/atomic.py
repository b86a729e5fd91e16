"""Targets that appear whole or not at all: written beside, synced, renamed.

Whatever ends the writing (an error, Ctrl-C, a full disk) removes what was written so far.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgellm_converters.errors import ConvertersError, OutputError

__all__ = [
    "atomic_file",
    "atomic_files",
    "atomic_folder",
    "check_place",
    "check_target",
    "require_space",
]

COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""Files of a folder beside config.json and the tensors, which another folder takes over."""
TEMPLATES = "additional_chat_templates"
"""A folder in it with chat templates by name (*.jinja), taken over too."""

# What a folder of ours may hold; a folder with anything else is not replaced.
OWN_NAMES = frozenset(
    {
        "config.json",
        "model.safetensors.index.json",
        "modules.json",
        "adapter_config.json",
        "adapters.safetensors",
        *COPIED,
    }
)
# Folders in it, those of the steps of sentence-transformers, and what they may hold.
OWN_FOLDERS = re.compile(r"\d_(Pooling|Normalize|Dense)")
OWN_NESTED = frozenset({"config.json", "model.safetensors"})


def check_place(target: Path) -> None:
    """Refuse a target without a name, or in no folder.

    Raises:
        OutputError: it is one.
    """
    if target.name in ("", "-", ".."):
        raise OutputError(f"{target}: a name is needed for what is written")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist")


def check_target(target: Path, *, folder: bool, force: bool, source: Path | None = None) -> None:
    """Refuse a target that cannot or must not be written, before any work is done.

    Raises:
        OutputError: it exists and `force` is not given, is the source, is of the other kind, holds
            files that are not ours, or its parent folder is missing.
    """
    check_place(target)
    if source is not None and target.exists() and target.samefile(source):
        raise OutputError(f"{target}: this is the source; give another name")
    if target.is_symlink() and not target.exists():
        raise OutputError(f"{target}: this is a link that leads nowhere")
    if not target.exists():
        return
    if folder:
        if not target.is_dir():
            raise OutputError(f"{target}: this is a file; a folder is to be written")
        names = sorted(entry.name for entry in target.iterdir())
        if not names:
            return
        foreign = [name for name in names if not _is_own(target / name)]
        if foreign:
            raise OutputError(
                f"{target}: the folder holds {foreign[0]!r}, which is no part of a model",
                hint="choose a folder that does not exist yet",
            )
    elif target.is_dir():
        raise OutputError(f"{target}: this is a folder; a file is to be written")
    elif not target.is_file():
        raise OutputError(f"{target}: this is no regular file")
    if not force:
        raise OutputError(f"{target}: exists already", hint="--force replaces it")


def _is_own(path: Path) -> bool:
    name = path.name
    if path.is_symlink():
        return False
    if path.is_dir():
        inside = list(path.iterdir())
        if any(entry.is_symlink() or not entry.is_file() for entry in inside):
            return False
        if name == TEMPLATES:
            return all(entry.suffix == ".jinja" for entry in inside)
        steps = OWN_FOLDERS.fullmatch(name) is not None
        return steps and all(entry.name in OWN_NESTED for entry in inside)
    shard = name.startswith("model") and name.endswith(".safetensors")
    return path.is_file() and (name in OWN_NAMES or shard)


def require_space(target: Path, size: int) -> None:
    """Refuse to begin what the disk cannot hold; `size` in bytes.

    Raises:
        OutputError: the free space of the target's disk is less, or it cannot be written at all.
    """
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{target}: the folder {target.parent} cannot be written")
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise _full(target, f"{size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")


@contextmanager
def atomic_file(target: Path, *, force: bool) -> Iterator[Path]:
    """Give the path of a temporary file that becomes `target` when the block ends well.

    Raises:
        OutputError: the file cannot be written, or the target appeared meanwhile.
    """
    with atomic_files((target,), force=force) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(targets: Sequence[Path], *, force: bool) -> Iterator[list[Path]]:
    """Give temporary files that become `targets` (of one folder) when the block ends well.

    What ends the process while they get their names leaves them without the first one: nothing
    that looks whole.

    Raises:
        OutputError: a file cannot be written, or a target appeared meanwhile.
    """
    with _mapped(targets[0]):
        temporaries: list[Path] = []
        try:
            for target in targets:
                # Noted before it is there, so that an interruption in between leaves nothing.
                name = f"{_hidden(target)}{secrets.token_hex(6)}.partial"
                temporaries.append(target.with_name(name))
                os.close(os.open(temporaries[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            yield temporaries
            for temporary in temporaries:
                _sync(temporary)
                temporary.chmod(0o666 & ~_umask())
            if not force:
                _refuse_existing(targets)
            if len(targets) == 1:
                temporaries[0].replace(targets[0])
            else:
                _give_names(temporaries, targets)
        except BaseException:
            for temporary in temporaries:
                with suppress(OSError):
                    temporary.unlink()
            raise
        _sync(targets[0].parent)


def _refuse_existing(targets: Sequence[Path]) -> None:
    for target in targets:
        if target.exists():
            raise OutputError(f"{target}: exists already", hint="--force replaces it")


def _give_names(temporaries: Sequence[Path], targets: Sequence[Path]) -> None:
    """Rename several files, the first one last; what they replace comes back if that fails.

    Between the steps the first name is nobody's, so that old and new parts never look like one
    model.
    """
    # What is noted before it is done can be undone whenever it is interrupted.
    aside: list[tuple[Path, Path]] = []
    named: list[Path] = []
    try:
        for temporary, target in zip(temporaries, targets, strict=True):
            if target.exists() or target.is_symlink():
                old = temporary.with_suffix(".old")
                aside.append((old, target))
                target.replace(old)
        for temporary, target in reversed(list(zip(temporaries, targets, strict=True))):
            named.append(target)
            temporary.replace(target)
    except BaseException:
        for target in named:
            target.unlink(missing_ok=True)
        for old, target in reversed(aside):
            with suppress(FileNotFoundError):
                old.replace(target)
        raise
    for old, _ in aside:
        with suppress(OSError):
            old.unlink()


@contextmanager
def atomic_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` when the block ends well.

    Raises:
        OutputError: it cannot be written, or the target appeared meanwhile.
    """
    with _mapped(target):
        # A link to a folder stays: what it leads to is replaced.
        target = target.resolve() if target.is_symlink() else target
        temporary = Path(tempfile.mkdtemp(".partial", _hidden(target), target.parent))
        try:
            yield temporary
            for entry in (*temporary.rglob("*"), temporary):
                entry.chmod((0o777 if entry.is_dir() else 0o666) & ~_umask())
                _sync(entry)
            check_target(target, folder=True, force=force)
            _swap(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(target.parent)


def _swap(temporary: Path, target: Path) -> None:
    """Put the finished folder in the place of the old one, if there is an old one."""
    if not target.exists() or not any(target.iterdir()):
        temporary.replace(target)
        return
    if _exchange(temporary, target):
        shutil.rmtree(temporary, ignore_errors=True)
        return
    # Between the two renames there is no target; what ends the process there leaves both folders.
    old = Path(tempfile.mkdtemp(".old", _hidden(target), target.parent))
    target.replace(old)
    try:
        temporary.replace(target)
    except BaseException:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    library = ctypes.CDLL(None)
    first, second = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    if hasattr(library, "renameat2"):  # Linux; the folders of absolute paths are not looked at
        exchange = 2  # RENAME_EXCHANGE
        return bool(library.renameat2(-1, first, -1, second, exchange) == 0)
    if hasattr(library, "renamex_np"):  # macOS
        swap = 2  # RENAME_SWAP
        return bool(library.renamex_np(first, second, swap) == 0)
    return False


def _hidden(target: Path) -> str:
    """Give the start of a temporary name: short, since the target's may be as long as can be."""
    return f".{target.name[:40]}."


@contextmanager
def _mapped(target: Path) -> Iterator[None]:
    """Turn what the operating system says into one sentence that names the target."""
    import errno

    try:
        yield
    except OSError as error:
        if isinstance(error, ConvertersError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(target, "the disk is full") from error
        reason = error.strerror or str(error)
        raise OutputError(f"{target}: cannot be written: {reason}") from error


def _full(target: Path, why: str) -> OutputError:
    return OutputError(
        f"{target}: not enough room: {why}",
        hint="nothing was left behind; make room or choose another disk",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
