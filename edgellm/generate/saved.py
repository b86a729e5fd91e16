"""Conversations on disk: JSON files in the store's folder, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgellm.errors import EdgellmError, NotFoundError, UsageError
from edgellm.generate.held import TEMPORARIES, held_temporary, remove_abandoned
from edgellm.generate.template import Message, Role
from edgellm.settings import home_dir

__all__ = [
    "LAST",
    "Listed",
    "SavedSession",
    "is_saved",
    "list_sessions",
    "load_session",
    "save_session",
    "session_names",
]

LAST = "last"  # the name of a conversation that nobody gave one
VERSION = 1
MAX_BYTES = 64_000_000
NAME = re.compile(r"[^\W_][\w.\-\u200c]{0,99}")


@dataclass(frozen=True, slots=True)
class SavedSession:
    """A conversation as it lies on disk.

    Attributes:
        model: the reference that it was with; None for the default model.
        system: the system prompt; None for the template's own.
        messages: all that was said: questions and answers in turns.
        summary: what stands for the turns that the model no longer sees; None for nothing.
        forgotten: how many turns (a question and its answer) the model no longer sees, from the
            first on.
        adapters: the LoRA adapters that it was with: each one's file or folder, and its scale.
    """

    model: str | None
    system: str | None
    messages: tuple[Message, ...]
    summary: str | None = None
    forgotten: int = 0
    adapters: tuple[tuple[str, float], ...] = ()


def sessions_dir() -> Path:
    """Give the folder of saved conversations."""
    return home_dir() / "sessions"


def session_names() -> list[str]:
    """Give the names of the saved conversations, the newest first."""
    try:
        files = [entry for entry in sessions_dir().glob("*.json") if entry.is_file()]
        files.sort(key=lambda entry: (-entry.stat().st_mtime_ns, entry.name))
    except OSError:
        return []
    return [entry.stem for entry in files if NAME.fullmatch(entry.stem)]


@dataclass(frozen=True, slots=True)
class Listed:
    """A saved conversation in a list.

    Attributes:
        name: what it is saved as.
        changed: when, in seconds since 1970.
        turns: the number of its questions; None where the file is no conversation.
        begins: its first question; empty if there is none.
    """

    name: str
    changed: float
    turns: int | None
    begins: str


def list_sessions(limit: int) -> list[Listed]:
    """Give the saved conversations that were changed last, the newest first."""
    found = []
    for name in session_names()[:limit]:
        try:
            changed = _path(name).stat().st_mtime
            messages = load_session(name).messages
        except (OSError, NotFoundError):  # it was removed just now
            continue
        except EdgellmError:
            found.append(Listed(name, changed, None, ""))
            continue
        begins = messages[0].content if messages else ""
        found.append(Listed(name, changed, len(messages) // 2, begins))
    return found


def is_saved(name: str) -> bool:
    """Say whether a conversation of that name is there.

    Raises:
        UsageError: the name is not one word.
    """
    return _path(name).is_file()


def save_session(name: str, session: SavedSession) -> Path:
    """Write a conversation under a name, replacing one of the same name; gives the path.

    Raises:
        UsageError: the name is not one word of letters, digits, `.`, `-` and `_`.
        OSError: the folder cannot be written.
    """
    path = _path(name)
    body: dict[str, object] = {
        "version": VERSION,
        "model": session.model,
        "system": session.system,
        "messages": [_as_dict(message) for message in session.messages],
    }
    if session.forgotten:
        body |= {"summary": session.summary, "forgotten": session.forgotten}
    if session.adapters:
        body["adapters"] = [{"path": path, "scale": scale} for path, scale in session.adapters]
    # Lone surrogates (from a terminal that is not UTF-8) cannot be written: they are replaced.
    text = json.dumps(body, ensure_ascii=False, indent=1).encode("utf-8", "replace")
    try:
        _write(path, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def _as_dict(message: Message) -> dict[str, str]:
    body = {"role": str(message.role), "content": message.content}
    if message.thinking:
        body["thinking"] = message.thinking
    return body


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent.glob(TEMPORARIES))
    # The file is readable for its owner alone: a conversation is private.
    with held_temporary(path) as temporary:
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def load_session(name: str) -> SavedSession:
    """Read a conversation.

    Raises:
        UsageError: the name is not one word.
        NotFoundError: there is no such conversation.
        EdgellmError: the file is not a conversation.
    """
    path = _path(name)
    if not path.is_file():
        known = session_names()
        hint = f"saved: {', '.join(known[:10])}" if known else "nothing is saved yet"
        raise NotFoundError(f"no conversation is saved as {name!r}", hint=hint)
    if path.stat().st_size > MAX_BYTES:
        raise EdgellmError(f"{path}: too large for a saved conversation")
    try:
        body = json.loads(path.read_text("utf-8"))
        return _parse(body)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EdgellmError(f"{path}: not a saved conversation ({error})") from error


def _parse(body: object) -> SavedSession:
    if not isinstance(body, dict) or body.get("version") != VERSION:
        raise ValueError(f"its version is not {VERSION}")
    model, system = body["model"], body["system"]
    if not isinstance(model, str | None) or not isinstance(system, str | None):
        raise TypeError("model and system must be texts")
    messages = []
    for message in body["messages"]:
        role, content = message["role"], message["content"]
        if role not in get_args(Role) or not isinstance(content, str):
            raise ValueError("a message has a role and a text")
        thinking = message.get("thinking", "")
        if not isinstance(thinking, str):
            raise TypeError("thinking must be a text")
        messages.append(Message(role, content, thinking=thinking))
    # A conversation is questions with their answers, in turns.
    if [m.role for m in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise ValueError("its messages are not questions and answers in turns")
    summary, forgotten = body.get("summary"), body.get("forgotten", 0)
    if not isinstance(summary, str | None):
        raise TypeError("summary must be a text")
    if type(forgotten) is not int or not 0 <= forgotten <= len(messages) // 2:
        raise ValueError("forgotten is a number of its turns")
    adapters = [(one["path"], one["scale"]) for one in body.get("adapters", [])]
    if any(
        not isinstance(path, str) or type(scale) not in (int, float) for path, scale in adapters
    ):
        raise TypeError("an adapter has a path and a scale")
    return SavedSession(
        model,
        system,
        tuple(messages),
        summary if forgotten else None,
        forgotten,
        tuple((path, float(scale)) for path, scale in adapters),
    )


def _path(name: str) -> Path:
    """Give the file of a name; a name can never lead out of the folder."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a conversation",
            hint="letters, digits, '.', '-' and '_', beginning with a letter or digit",
        )
    return sessions_dir() / f"{name}.json"
