"""A SentencePiece model file -> what a tokenizer.json of it would say, or a `Vocabulary`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.jsonfile import read_object
from edgellm_converters.tokenizers.parts import FILLER_SCORE, Parts, fill
from edgellm_converters.tokenizers.sentencepiece import SPECIAL_SCORE
from edgellm_converters.tokenizers.spmodel import SentencePieceModel
from edgellm_converters.tokenizers.unigram import unigram_parts
from edgellm_converters.tokenizers.vocabulary import TokenType, Vocabulary, check_unique

__all__ = ["bpe_settings", "read_pieces", "tokenizer_of"]

_EXTRA_IDS = 100  # of transformers' T5Tokenizer where tokenizer_config.json names no number
_XLM_R = ("<s>", "<pad>", "</s>", "<unk>")


def tokenizer_of(
    path: Path, model: SentencePieceModel, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the tokenizer.json that transformers makes of a model file.

    `settings` is the content of tokenizer_config.json; its class tells what is added to the pieces.

    Raises:
        ConfigError: added tokens are not of their form.
        UnsupportedError: a class that changes text or pieces in a way not known here.
    """
    kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if not kind and path.name != "tokenizer.model":
        kind = "T5Tokenizer" if path.name == "spiece.model" else "XLMRobertaTokenizer"
    is_t5, is_xlm_r = kind in ("T5Tokenizer", "MT5Tokenizer"), kind == "XLMRobertaTokenizer"
    if path.name != "tokenizer.model" and not is_t5 and not is_xlm_r:
        raise UnsupportedError(
            f"{path}: tokenizer_class is {kind!r:.80}, of which a {path.name} says too little",
            hint="write tokenizer.json with transformers: AutoTokenizer.from_pretrained(FOLDER, "
            "use_fast=True).save_pretrained(FOLDER)",
        )
    pieces, scores, types = model.pieces, model.scores, model.types
    unknown, ends = model.unknown, ("", "")
    if is_xlm_r:
        # fairseq's numbers: four tokens of its own for SentencePiece's three, and one at the end.
        pieces, scores = [*_XLM_R, *pieces[3:], "<mask>"], [0.0] * 4 + scores[3:] + [0.0]
        types = [int(TokenType.CONTROL)] * 4 + types[3:] + [int(TokenType.CONTROL)]
        unknown, ends = _XLM_R.index("<unk>"), ("<s>", "</s>")
    elif is_t5:
        ends = ("", model.pieces[model.eos] if model.eos >= 0 else "</s>")
    added = {
        index: _added(index, piece, special=what != TokenType.USER_DEFINED)
        for index, (piece, what) in enumerate(zip(pieces, types, strict=True))
        if what in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    }
    if is_t5:
        count = settings.get("extra_ids", _EXTRA_IDS)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
            raise ConfigError(f"{path}: extra_ids is {count!r:.80} in tokenizer_config.json")
        for number in range(count):
            index = len(pieces) + count - 1 - number
            added[index] = _added(index, f"<extra_id_{number}>", special=True)
    added |= _more_added(path.parent, settings)
    # Makers give pieces that they left unused a new name; it is the added token that counts.
    renamed = {index: token.get("content") for index, token in added.items()}
    pieces = [str(renamed.get(index) or piece) for index, piece in enumerate(pieces)]
    check_unique(path, pieces)
    words = {piece: index for index, piece in enumerate(pieces)}
    if model.is_bpe:
        tokenizer: dict[str, Any] = {
            "model": {"type": "BPE", "vocab": words, "unk_token": pieces[unknown]}
        }
    else:
        tokenizer = unigram_parts(
            model.charsmap, prefix=model.add_dummy_prefix, merges=model.remove_extra_whitespaces
        )
        tokenizer["model"] = {
            "type": "Unigram",
            "vocab": [list(entry) for entry in zip(pieces, scores, strict=True)],
            "unk_id": unknown,
            "byte_fallback": model.byte_fallback,
        }
    tokenizer["added_tokens"] = [added[index] for index in sorted(added)]
    if any(ends):
        tokenizer["post_processor"] = _ends(ends, words, pair=is_xlm_r)
    return tokenizer


def _ends(ends: tuple[str, str], ids: Mapping[str, int], *, pair: bool) -> dict[str, Any]:
    first, last = ([{"SpecialToken": {"id": name, "type_id": 0}}] if name else [] for name in ends)
    single = [*first, {"Sequence": {"id": "A", "type_id": 0}}, *last]
    second = [*(last if pair else []), {"Sequence": {"id": "B", "type_id": 0}}, *last]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + second,
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ends if name in ids
        },
    }


def _more_added(folder: Path, settings: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Read added tokens that stand beside a model file."""
    found: dict[int, dict[str, Any]] = {}
    file = folder / "added_tokens.json"
    for content, index in (read_object(file) if file.exists() else {}).items():
        if isinstance(index, bool) or not isinstance(index, int):
            raise ConfigError(f"{file}: the token {content!r:.80} has the id {index!r:.80}")
        found[index] = _added(index, content, special=False)
    listed = settings.get("added_tokens_decoder")
    for index, entry in (listed if isinstance(listed, dict) else {}).items():
        if not isinstance(entry, dict) or not index.isascii() or not index.isdecimal():
            raise ConfigError(f"{folder}: added_tokens_decoder has the id {index!r:.80}")
        found[int(index[:10])] = entry | {"id": int(index[:10])}
    return found


def _added(index: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": special}


# -- BPE ------------------------------------------------------------------------------------------


def bpe_settings(model: SentencePieceModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Complete tokenizer_config.json as transformers' LlamaTokenizer does, and its kin."""
    named = {
        f"{role}_token": model.pieces[index]
        for role, index in (("bos", model.bos), ("eos", model.eos), ("pad", model.pad))
        if index >= 0
    }
    return {"add_bos_token": model.bos >= 0, "add_eos_token": False} | named | dict(settings)


def read_pieces(parts: Parts, model: SentencePieceModel, settings: Mapping[str, Any]) -> Vocabulary:
    """Give the vocabulary of a BPE model: llama.cpp merges by the very scores that it holds.

    Raises:
        UnsupportedError: there are no pieces for bytes.
    """
    absent = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in parts.words]
    if absent:
        raise UnsupportedError(
            f"{parts.path}: there is no piece for {absent[0]}; llama.cpp needs those of all bytes"
        )
    if model.charsmap:
        parts.notes.append(
            "the table of replacements is left out: llama.cpp tokenizes text as it comes"
        )
    if model.remove_extra_whitespaces:
        parts.notes.append("spaces in a row are one in the source; llama.cpp keeps them all")
    tokens, types = fill(parts, unknown=model.unknown, spaces=True)
    scores = [FILLER_SCORE] * parts.size
    for index in range(parts.size):
        if index < len(model.pieces):
            scores[index] = model.scores[index]
            if index not in parts.added:
                types[index] = model.types[index]
        elif index in parts.added:
            scores[index] = SPECIAL_SCORE
    prefix = settings.get("add_prefix_space")
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        types=types,
        scores=scores,
        add_space_prefix=prefix if isinstance(prefix, bool) else model.add_dummy_prefix,
    )
