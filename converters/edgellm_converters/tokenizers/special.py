"""Special tokens and chat templates of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.jsonfile import read_text
from edgellm_converters.tokenizers.vocabulary import END_ROLES, END_TEXTS, SPECIAL_ROLES

__all__ = ["find_special", "find_templates", "flatten"]

MAX_TEMPLATES = 64


def find_special(
    path: Path,
    tokenizer: Mapping[str, Any],
    extra: Mapping[str, Any],
    config: Mapping[str, Any],
    ids: Mapping[str, int],
    size: int,
    notes: list[str],
) -> dict[str, Any]:
    """Find the ids of special tokens, and whether text gets a first and a last one.

    `config` is config.json, with what generation_config.json says otherwise.
    """
    special: dict[str, int] = {}
    for role in (role for role in SPECIAL_ROLES if role not in END_ROLES):
        named = extra.get(f"{role}_token")
        content = named.get("content") if isinstance(named, dict) else named
        index: object = ids.get(content) if isinstance(content, str) else None
        if index is None:
            listed = config.get(f"{role}_token_id")
            index = listed[0] if isinstance(listed, list) and listed else listed
        if _is_id(index, size):
            special[role] = index
    unknown = tokenizer["model"].get("unk_token")
    if isinstance(unknown, str) and unknown in ids:
        special.setdefault("unk", ids[unknown])
    first, last, known = _template_ends(path, tokenizer, ids)
    if first is not None:
        special.setdefault("bos", first)
    if last is not None:
        special.setdefault("eos", last)
    for role, index in (("bos", first), ("eos", last)):
        if index is not None and index != special[role]:
            raise UnsupportedError(
                f"{path}: the post_processor adds token {index}, which is not the {role} token "
                f"{special[role]}; llama.cpp can add no other"
            )
    flags = {}
    for role, index in (("bos", first), ("eos", last)):
        # transformers adds them by tokenizer_config.json where the post-processor says nothing.
        flags[f"add_{role}"] = (
            index is not None if known else extra.get(f"add_{role}_token") is True
        )
        if flags[f"add_{role}"] and role not in special:
            raise ConfigError(f"{path}: add_{role}_token is true, but no token is the {role} token")
    return {"special": special | _more_ends(config, special, ids, size, notes), **flags}


def _more_ends(
    config: Mapping[str, Any],
    special: Mapping[str, int],
    ids: Mapping[str, int],
    size: int,
    notes: list[str],
) -> dict[str, int]:
    """Find the tokens that end an answer besides eos: GGUF has room for two of them."""
    listed = config.get("eos_token_id")
    ends = listed if isinstance(listed, list) else [listed]
    known = {special.get("eos"), *(ids[text] for text in END_TEXTS if text in ids)}
    found = dict.fromkeys(index for index in ends if _is_id(index, size))
    others = [index for index in found if index not in known]
    if len(others) > len(END_ROLES):
        notes.append(
            f"of {len(others)} more tokens that end an answer, {len(END_ROLES)} have a place"
        )
    return dict(zip(END_ROLES, others, strict=False))


def _is_id(value: object, size: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


def _template_ends(
    path: Path, tokenizer: Mapping[str, Any], ids: Mapping[str, int]
) -> tuple[int | None, int | None, bool]:
    """Give the ids that the post-processor adds before and after; False if it says nothing."""
    known = False
    ends: list[int | None] = [None, None]
    for step in flatten(tokenizer.get("post_processor"), "processors"):
        kind = step.get("type")
        known = True
        if kind == "ByteLevel":
            continue
        if kind != "TemplateProcessing" or not isinstance(step.get("single"), list):
            raise UnsupportedError(
                f"{path}: a post_processor of type {kind!r:.80} is not known here"
            )
        names: list[str | None] = []
        for part in step["single"]:
            token = part.get("SpecialToken") if isinstance(part, dict) else None
            names.append(token.get("id") if isinstance(token, dict) else None)
        if None not in names or len(names) > 3 or len(names) - 1 != len([n for n in names if n]):
            raise UnsupportedError(f"{path}: the post_processor adds more than one token at an end")
        middle = names.index(None)
        for name in (name for name in names if name):
            if name not in ids:
                raise ConfigError(f"{path}: the post_processor adds {name!r:.80}, no token")
            ends[0 if names.index(name) < middle else 1] = ids[name]
        if middle > 1 or len(names) - middle > 2:
            raise UnsupportedError(f"{path}: the post_processor adds more than one token at an end")
    return ends[0], ends[1], known


def flatten(part: object, name: str) -> list[dict[str, Any]]:
    """Flatten a part of tokenizer.json, which may be a sequence, into its steps."""
    if not isinstance(part, dict):
        return []
    inner = part.get(name)
    if part.get("type") == "Sequence" and isinstance(inner, list):
        return [step for each in inner for step in flatten(each, name)]
    return [part]


def find_templates(folder: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Find the chat templates: files of their own count before tokenizer_config.json."""
    named = _named_templates(extra.get("chat_template"))
    alone = folder / "chat_template.jinja"
    files = {"default": alone} if alone.exists() else {}
    more = folder / "additional_chat_templates"
    if more.is_dir():
        files |= {file.stem: file for file in sorted(more.glob("*.jinja"))[:MAX_TEMPLATES]}
    if files:
        named = {name: read_text(file) for name, file in files.items()}
    default = named.pop("default", None)
    return {"chat_template": default, "templates": named}


def _named_templates(template: object) -> dict[str, str]:
    """Read `chat_template` of tokenizer_config.json: one text, or a list of named ones."""
    if isinstance(template, str):
        return {"default": template}
    return {
        entry["name"]: entry["template"]
        for entry in (template if isinstance(template, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }
