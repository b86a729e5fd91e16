"""Reading JSON of a checkpoint: bounded, and with errors that name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgellm_converters.checkpoints.gguf_header import open_regular
from edgellm_converters.errors import ConfigError

__all__ = [
    "MAX_BYTES",
    "MAX_TOKENIZER_BYTES",
    "parse_json",
    "read_bytes",
    "read_list",
    "read_object",
    "read_text",
]

# The largest tokenizer_config.json in use has 1.2 MB, the largest tokenizer.json 34 MB.
MAX_BYTES = 8 << 20
MAX_TOKENIZER_BYTES = 48 << 20
# A value becomes a Python object of some 60 bytes, however short its text is. The largest
# tokenizer.json has a list for every 64 bytes of its text, a comma for every 25 and few objects.
BYTES_TO_AN_OBJECT = 512
BYTES_TO_A_LIST = 48
BYTES_TO_A_COMMA = 20
MAX_DEPTH = 64


def read_object(path: Path, *, most: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds one object; `most` in bytes.

    Raises:
        SourceNotFoundError: there is no such file.
        ConfigError: it is too long, no JSON, or no object.
    """
    value = _value(path, most)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the file holds no JSON object")
    return value


def read_list(path: Path, *, most: int = MAX_BYTES) -> list[Any]:
    """Read a JSON file that holds one list; see `read_object`."""
    value = _value(path, most)
    if not isinstance(value, list):
        raise ConfigError(f"{path}: the file holds no JSON list")
    return value


def read_bytes(path: Path, *, most: int) -> bytes:
    """Read a file of at most `most` bytes.

    Raises:
        SourceNotFoundError: there is no such file.
        ConfigError: it is too long.
    """
    return _read(path, most)


def read_text(path: Path, *, most: int = MAX_BYTES) -> str:
    """Read a text file of at most `most` bytes.

    Raises:
        SourceNotFoundError: there is no such file.
        ConfigError: it is too long, or not UTF-8.
    """
    try:
        return _read(path, most).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the text is not UTF-8") from None


def parse_json(text: bytes, *, most: int = MAX_BYTES) -> object:
    """Parse JSON of at most `most` bytes of UTF-8; depth and number of values are bounded.

    Raises:
        ValueError: it is no JSON, too deep, of too many values, or holds what is no character.
    """
    for sign, least in (
        (b"{", BYTES_TO_AN_OBJECT),
        (b"[", BYTES_TO_A_LIST),
        (b",", BYTES_TO_A_COMMA),
    ):
        if text.count(sign) > most // least:
            raise ValueError("it has more values than any such file")
    try:
        value = json.loads(text.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    _check_depth(value, MAX_DEPTH)
    if b"\\u" in text:
        try:
            # A half of a surrogate pair can be escaped, but is no character.
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair") from None
    return value


def _value(path: Path, most: int) -> object:
    try:
        return parse_json(_read(path, most), most=most)
    except ValueError as error:
        raise ConfigError(f"{path}: this is no JSON: {error}") from None


def _read(path: Path, most: int) -> bytes:
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if (size := os.fstat(descriptor).st_size) > most:
            raise ConfigError(f"{path}: {size} bytes, more than the {most} that are read")
        return file.read(most)


def _check_depth(value: object, left: int) -> None:
    if not left:
        raise ValueError("it is nested too deeply")
    children: Iterable[object] = ()
    if isinstance(value, dict):
        children = value.values()
    elif isinstance(value, list):
        children = value
    for child in children:
        if isinstance(child, dict | list):
            _check_depth(child, left - 1)
