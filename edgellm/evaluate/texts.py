"""Texts that a model is measured on, plain or as conversations, and how they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import NotFoundError, UsageError
from edgellm.generate.template import Message, Role

__all__ = ["MAX_TEXT_BYTES", "Text", "parse_text", "read_texts"]

MAX_TEXT_BYTES = 64 * 2**20  # a file of text; some 16 million tokens, days of work for any model
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

FORMAT_HINT = 'a line is {"messages": [{"role": "user", "content": "..."}, ...]}'


@dataclass(frozen=True, slots=True)
class Text:
    """A named text: either plain `content`, or `conversations`.

    Attributes:
        name: what reports call it; no two texts of one job have the same.
        language: a BCP 47 tag, such as `fa`; `mul` for several, `und` where nobody said, and
            `code` for programs.
        content: plain text, in which the text of a control token is text.
        conversations: messages that the model's own chat template renders.
    """

    name: str
    language: str
    content: str = ""
    conversations: tuple[tuple[Message, ...], ...] = ()

    @property
    def sha256(self) -> str:
        """The hash of what it says: of the UTF-8 content, or of the messages as one JSON line."""
        if not self.conversations:
            return hashlib.sha256(self.content.encode("utf-8")).hexdigest()
        plain = [[[m.role, m.content] for m in messages] for messages in self.conversations]
        line = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(line.encode("utf-8")).hexdigest()


def read_texts(paths: Iterable[Path]) -> tuple[Text, ...]:
    """Read files of UTF-8 text; one that ends in `.jsonl` holds a conversation in each line.

    A text is named after its file; where two files have the same name, after the whole path.

    Raises:
        NotFoundError: a file is not there.
        UsageError: a file cannot be read, is too large, empty, not UTF-8, or holds a line that is
            no conversation; or the same file is given twice.
    """
    paths = tuple(paths)
    names = [path.name for path in paths]
    texts: dict[str, Text] = {}
    for path in paths:
        name = path.name if names.count(path.name) == 1 else str(path)
        if name in texts:
            raise UsageError(f"{path} is given twice")
        texts[name] = parse_text(_read(path), name=name, language="und", where=str(path))
    return tuple(texts.values())


def parse_text(data: bytes, *, name: str, language: str, where: str) -> Text:
    """Make a text of a file's bytes; `where` names it in errors, and tells its kind by its end.

    Raises:
        UsageError: as for `read_texts`.
    """
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            hint="convert it, for example with: iconv -t UTF-8",
        ) from error
    if not content.strip():
        raise UsageError(f"{where} holds no text")
    if not where.lower().endswith(".jsonl"):
        return Text(name, language, content=content)
    # Not splitlines(): JSON may hold U+2028 and its like inside a string.
    lines = enumerate(content.split("\n"), start=1)
    return Text(
        name,
        language,
        conversations=tuple(
            _messages(line, where, number) for number, line in lines if line.strip()
        ),
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path} cannot be read: {reason}") from error
    if len(data) > MAX_TEXT_BYTES:
        raise UsageError(
            f"{path} has more than {MAX_TEXT_BYTES} bytes, the most that is read",
            hint="a few hundred kilobytes of varied text serve as well",
        )
    return data


def _messages(line: str, where: str, number: int) -> tuple[Message, ...]:
    def wrong(what: str) -> UsageError:
        return UsageError(f"{where}, line {number}: {what}", hint=FORMAT_HINT)

    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise wrong("this is not JSON") from error
    found: Any = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(found, list) or not found:
        raise wrong("there is no list of messages")
    return tuple(_message(item, wrong) for item in found)


def _message(item: Any, wrong: Callable[[str], UsageError]) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    if role not in ROLES:
        raise wrong(f"a message's role is {role!r:.60}, and must be one of {', '.join(ROLES)}")
    content = item.get("content")
    if not isinstance(content, str):
        raise wrong(f"a message of the {role} has no content that is text")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise wrong("a message holds half a surrogate pair, which is no character") from error
    return Message(role, content)
