"""Reading JSON files of a checkpoint: bounded, and with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, SourceNotFoundError

__all__ = ["MAX_BYTES", "read_object"]

# The largest tokenizer.json in use (262,144 tokens) has 34 MB.
MAX_BYTES = 256 << 20


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        SourceNotFoundError: there is no such file.
        ConfigError: it is too long, no JSON, or no object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise SourceNotFoundError(f"{path}: this is a folder; a file is needed") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path}: the file is longer than {MAX_BYTES} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: this is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the file holds no JSON object")
    return value
