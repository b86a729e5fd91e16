"""What of a tokenizer.json GGUF has no key for, kept as one JSON text under a key of our own.

The normalizer, pre-tokenizer, post-processor and decoder in the form that the model's makers chose,
and the matching flags of added tokens. A GGUF of another program lacks the key; then
`edgellm_converters.tokenizers.rebuild` writes the form that says what llama.cpp does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from edgellm_converters.jsonfile import parse_json

__all__ = ["KEY", "PARTS", "read_layout", "write_layout"]

KEY = "edgellm.tokenizer.layout"
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MODEL_FLAGS = (
    *("unk_token", "fuse_unk", "byte_fallback", "ignore_merges"),
    *("continuing_subword_prefix", "max_input_chars_per_word"),
)
MAX_CHARACTERS = 1 << 20


def write_layout(tokenizer: Mapping[str, Any]) -> str:
    """Take out of a tokenizer.json what is kept: all but words and merges."""
    model = tokenizer["model"]
    kept: dict[str, object] = {part: tokenizer.get(part) for part in PARTS}
    kept["normalizer"] = _with_table(kept["normalizer"], "")
    kept["model"] = {name: model[name] for name in MODEL_FLAGS if name in model}
    kept["added_tokens"] = [
        {"id": token["id"], "content": token["content"]}
        | {flag: bool(token.get(flag, False)) for flag in FLAGS}
        for token in tokenizer.get("added_tokens") or []
    ]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def _with_table(normalizer: object, table: str) -> object:
    """Write a normalizer with this table of replacements, which GGUF has a key for."""
    if not isinstance(normalizer, dict):
        return normalizer
    steps = normalizer.get("normalizers")
    if isinstance(steps, list):
        return normalizer | {"normalizers": [_with_table(step, table) for step in steps]}
    if normalizer.get("type") == "Precompiled":
        return normalizer | {"precompiled_charsmap": table}
    return normalizer


def read_layout(text: str | None, size: int, charsmap: bytes = b"") -> dict[str, Any] | None:
    """Read a layout back, None if there is none or it does not fit a vocabulary of `size` ids.

    `charsmap` is the table of replacements, for a normalizer that has one.

    The text comes from a file that anyone may have edited: a layout of a wrong form is passed over
    rather than believed.
    """
    if text is None or len(text) > MAX_CHARACTERS:
        return None
    if not charsmap and '"Precompiled"' in text:
        return None
    try:
        layout = parse_json(text.encode())
    except ValueError:
        return None
    if not isinstance(layout, dict) or not isinstance(layout.get("model"), dict):
        return None
    added = layout.get("added_tokens")
    if not isinstance(added, list) or not all(_is_added(token, size) for token in added):
        return None
    if not all(layout.get(part) is None or isinstance(layout[part], dict) for part in PARTS):
        return None
    table = base64.b64encode(charsmap).decode()
    layout["normalizer"] = _with_table(layout.get("normalizer"), table)
    known = {*PARTS, "model", "added_tokens"}
    return {key: value for key, value in layout.items() if key in known}


def _is_added(token: object, size: int) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and isinstance(token.get("id"), int)
        and 0 <= token["id"] < size
        and all(isinstance(token.get(flag), bool) for flag in FLAGS)
    )
