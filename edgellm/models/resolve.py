"""From what a person types for a model to the path of its file.

A reference is a path, a name in the store (such as `user/repo:TYPE`), or a built-in name; without
one the default model applies. Nothing is fetched here, so it needs no network. This module is
imported by every command, so it imports nothing heavy.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from pathlib import Path

from edgellm.errors import NotFoundError, UsageError
from edgellm.models import store
from edgellm.models.catalogue import CATALOGUE, DEFAULT_MODEL
from edgellm.models.reference import parse_hub_reference

__all__ = ["is_model_reference", "resolve"]

_ADDRESS = re.compile(r"[a-z]+://", re.IGNORECASE)
_MAGIC = b"GGUF"


def resolve(reference: str | None = None, *, folders: bool = False) -> Path:
    """Find the model that `reference` means; None means the default model.

    A bare word and `user/repo[:TYPE]` are looked up in the store first and in the current folder
    after that, so that a file that happens to lie there cannot take the place of a model; `./` in
    front makes either a path.

    Args:
        reference: a path, a name in the store (with or without `.gguf`), an address of a model on
            the Hugging Face hub that is in the store, or a built-in name.
        folders: accept any folder, and not only one with a config.json (Hugging Face, MLX).

    Raises:
        NotFoundError: there is no such model; its hint says what to do about it.
        UsageError: it means several models of the store.
    """
    text = DEFAULT_MODEL if reference is None else reference
    if not text.strip():
        raise NotFoundError("the name of the model is empty", hint="see: edgellm list")
    stored = None
    if not _has_separator(text) or parse_hub_reference(text):
        stored = store.find(text)
    path = stored.path if stored else Path(text)
    if stored is None and text.startswith("~"):
        path = Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser fails on unknown users
    mode = _mode(path)
    if mode is None:
        raise _not_found(text, path, folders=folders)
    if stat.S_ISDIR(mode):
        if folders or _is_checkpoint(path):
            return path
        raise NotFoundError(f"{text} is a folder, not a model file", hint=_use_of_folder(path))
    if not stat.S_ISREG(mode):
        raise NotFoundError(f"{text} is not a regular file")
    return path


def is_model_reference(text: str) -> bool:
    """Tell whether the only word of `edgellm run WORD` means a model, and not a prompt.

    True for a name in the store, a built-in name, an existing GGUF file or model folder, and for
    what can only have been meant as one of those (a path or `*.gguf` that is not there, a misspelt
    name), so that a person gets an error about the model and not an answer about its name.
    """
    if not text or "\n" in text or len(text) > 4096:
        return False
    if _in_store(text) or text.casefold() in CATALOGUE:
        return True
    if _is_gguf(Path(text)) or _is_checkpoint(Path(text)):
        return True
    if any(character.isspace() for character in text):
        return False
    if text.lower().endswith(store.SUFFIX) or text.startswith(("./", "../", "~/")):
        return True
    if text.startswith("/") and text.count("/") > 1:
        return True
    # "hello" and "TCP/IP" are prompts; "smollm2", "gemma3-270" and "user/repo-1B" want a hint
    like_a_name = bool(re.search(r"[\d-]", text))
    return like_a_name and bool(parse_hub_reference(text) or _near(text))


def _in_store(text: str) -> bool:
    try:
        return store.find(text) is not None
    except UsageError:  # it means several
        return True


def _not_found(text: str, path: Path, *, folders: bool) -> NotFoundError:
    name = text.casefold()
    if name in CATALOGUE:
        return NotFoundError(
            f"the model {name} is not in the store yet", hint=f"edgellm pull {name}"
        )
    near = _near(text)
    if near:
        return NotFoundError(f"no model {text}", hint=f"did you mean {near[0]}?")
    reference = parse_hub_reference(text)
    if reference is None and _ADDRESS.match(text):
        return NotFoundError(
            f"no file {text}, and this is no address of a model on the Hugging Face hub",
            hint="download the GGUF file and give its path",
        )
    if reference is not None:
        return NotFoundError(
            f"no file {text}, and the model {reference} is not in the store",
            hint=f"if it is one of the Hugging Face hub: edgellm pull {text}",
        )
    if _has_separator(text):
        what = "file or folder" if folders else "file"
        return NotFoundError(f"no {what} {text}", hint=_nearest_path(path))
    what = "model, file or folder" if folders else "model or file"
    return NotFoundError(f"no {what} {text}", hint="see what is there: edgellm list")


def _nearest_path(path: Path) -> str | None:
    """Say what of a path is there: not even its folder, or a name like its own."""
    try:
        names = os.listdir(path.parent)  # noqa: PTH208  names, not paths, are compared
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no folder {path.parent}"
    except (OSError, ValueError):  # not to be read, or no possible name
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else None


def _use_of_folder(folder: Path) -> str:
    """Say how to come to a model file from a folder."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        names = []
    if "adapter_config.json" in names:
        return "it holds a LoRA adapter: edgellm convert MODEL --lora ADAPTER -o merged.gguf"
    inside = [folder / name for name in names if name.lower().endswith(store.SUFFIX)]
    return f"there is {inside[0]} in it" if inside else "give the path of a GGUF file"


def _near(text: str) -> list[str]:
    names = sorted({*CATALOGUE, *(model.name for model in store.stored_models())})
    by_fold = {name.casefold(): name for name in names}
    word = text.casefold().removesuffix(store.SUFFIX)
    starts = [name for name in by_fold if len(word) > 3 and name.startswith(word)]
    near = difflib.get_close_matches(word, by_fold, n=3, cutoff=0.75)
    return [by_fold[name] for name in (*starts, *near)]


def _has_separator(text: str) -> bool:
    return "/" in text or os.sep in text or text.startswith("~")


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def _is_checkpoint(path: Path) -> bool:
    return _mode(path / "config.json") is not None


def _is_gguf(path: Path) -> bool:
    mode = _mode(path)
    if mode is None or not stat.S_ISREG(mode):
        return False
    if path.suffix.lower() == store.SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
