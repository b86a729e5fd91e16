"""Special tokens and chat templates of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.jsonfile import read_text
from edgellm_converters.tokenizers.vocabulary import END_ROLES, END_TEXTS, SPECIAL_ROLES

__all__ = ["MAX_TEMPLATES", "find_special", "find_templates", "flatten"]

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
    unknown_id = tokenizer["model"].get("unk_id")
    if _is_id(unknown_id, size):
        special.setdefault("unk", unknown_id)
    ends = _ends(path, tokenizer, ids)
    is_wordpiece = tokenizer["model"].get("type") == "WordPiece"
    if is_wordpiece and (ends.first is None or ends.last is None):
        raise UnsupportedError(
            f"{path}: the post_processor does not add a token before and after a text, but "
            "llama.cpp always does for WordPiece"
        )
    flags: dict[str, bool] = {}
    for role, encoder_role, index in (("bos", "cls", ends.first), ("eos", "sep", ends.last)):
        if index is not None:
            if is_wordpiece:
                special.setdefault(encoder_role, index)
            # llama.cpp has one name for both: what stands before a text is bos, after it eos.
            if index == special.get(encoder_role):
                special[role] = index
            if special.setdefault(role, index) != index:
                raise UnsupportedError(
                    f"{path}: the post_processor adds token {index}, which is not the {role} token "
                    f"{special[role]}; llama.cpp can add no other"
                )
        # transformers adds them by tokenizer_config.json where the post-processor says nothing.
        flags[f"add_{role}"] = adds = (
            index is not None if ends.known else extra.get(f"add_{role}_token") is True
        )
        if adds and role not in special:
            raise ConfigError(f"{path}: add_{role}_token is true, but no token is the {role} token")
    if ends.separators is not None and "sep" in special:
        flags["add_sep"] = ends.separators > int(ends.last is not None)
    if ends.first is None or ends.first != special.get("cls"):  # an encoder ends no answer
        special |= _more_ends(config, special, ids, size, notes)
    return {"special": special, **flags}


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


@dataclass(frozen=True, slots=True)
class _Ends:
    """The ids that a post-processor adds before and after a text.

    `known` is False if it says nothing; `separators` counts the tokens between the two texts of a
    pair, None if it is not known.
    """

    first: int | None = None
    last: int | None = None
    known: bool = False
    separators: int | None = None


def _ends(path: Path, tokenizer: Mapping[str, Any], ids: Mapping[str, int]) -> _Ends:
    found = _Ends()
    for step in flatten(tokenizer.get("post_processor"), "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":
            found = replace(found, known=True)
        elif kind in _PAIRS:
            first, last = _named(path, step.get("cls"), ids), _named(path, step.get("sep"), ids)
            found = _Ends(first, last, True, _PAIRS[kind])
        elif kind == "TemplateProcessing" and isinstance(step.get("single"), list):
            found = _Ends(
                *_template_ends(path, step["single"], ids), True, _between(step.get("pair"))
            )
        else:
            raise UnsupportedError(
                f"{path}: a post_processor of type {kind!r:.80} is not known here"
            )
    return found


# post-processors of fixed form -> the separators that they set between the texts of a pair.
_PAIRS = {"BertProcessing": 1, "RobertaProcessing": 2}


def _named(path: Path, entry: object, ids: Mapping[str, int]) -> int:
    """Give the id of an end that is written as [token, id]."""
    token = entry[0] if isinstance(entry, list) and len(entry) == 2 else None
    if not isinstance(token, str) or ids.get(token) is None:
        raise ConfigError(f"{path}: the post_processor adds {entry!r:.80}, no token")
    return ids[token]


def _template_ends(
    path: Path, single: Sequence[object], ids: Mapping[str, int]
) -> tuple[int | None, int | None]:
    ends: list[int | None] = [None, None]
    names = [_special_name(part) for part in single]
    if None not in names or len(names) > 3 or len(names) - 1 != len([n for n in names if n]):
        raise UnsupportedError(f"{path}: the post_processor adds more than one token at an end")
    middle = names.index(None)
    for at, name in enumerate(names):
        if name is None:
            continue
        if name not in ids:
            raise ConfigError(f"{path}: the post_processor adds {name!r:.80}, no token")
        ends[0 if at < middle else 1] = ids[name]
    if middle > 1 or len(names) - middle > 2:
        raise UnsupportedError(f"{path}: the post_processor adds more than one token at an end")
    return ends[0], ends[1]


def _special_name(part: object) -> str | None:
    """Give the name of a token in a template, None for a text."""
    token = part.get("SpecialToken") if isinstance(part, dict) else None
    return token.get("id") if isinstance(token, dict) else None


def _between(pair: object) -> int | None:
    """Count the tokens between the two texts of a pair's template."""
    if not isinstance(pair, list):
        return None
    texts = [at for at, part in enumerate(pair) if isinstance(part, dict) and "Sequence" in part]
    return texts[1] - texts[0] - 1 if len(texts) == 2 else None


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
