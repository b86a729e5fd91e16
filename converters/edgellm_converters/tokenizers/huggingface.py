"""tokenizer.json, tokenizer_config.json and the token ids of config.json -> a `Vocabulary`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellm_converters.checkpoints.safetensors import inside
from edgellm_converters.errors import ConfigError, SourceNotFoundError, UnsupportedError
from edgellm_converters.jsonfile import MAX_TOKENIZER_BYTES, read_object
from edgellm_converters.tokenizers.bpe import read_bpe
from edgellm_converters.tokenizers.layout import write_layout
from edgellm_converters.tokenizers.parts import Parts, note_flags, read_added
from edgellm_converters.tokenizers.pieces import bpe_settings, read_pieces, tokenizer_of
from edgellm_converters.tokenizers.special import find_special, find_templates
from edgellm_converters.tokenizers.spmodel import FILES, SentencePieceModel, read_model
from edgellm_converters.tokenizers.unigram import read_unigram, unigram_words
from edgellm_converters.tokenizers.vocabulary import Vocabulary
from edgellm_converters.tokenizers.wordpiece import from_vocab_txt, read_wordpiece

__all__ = ["read_vocabulary"]


def read_vocabulary(
    folder: Path, config: Mapping[str, Any], size: int, notes: list[str]
) -> Vocabulary:
    """Read the tokenizer of a Hugging Face folder.

    Args:
        folder: holds tokenizer.json (or an older form: a SentencePiece model, vocab.txt), and
            tokenizer_config.json where there is one.
        config: the content of config.json, for the ids of special tokens; those of
            generation_config.json come before.
        size: the rows of the token embedding; ids without a token are filled up.
        notes: takes sentences on what llama.cpp does otherwise.

    Raises:
        SourceNotFoundError: there is no tokenizer.
        CorruptFileError: a SentencePiece model is damaged.
        ConfigError: a value is missing or of a wrong kind.
        UnsupportedError: a tokenizer that GGUF or llama.cpp cannot express.
    """
    extra: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (file := folder / name).exists():
            extra |= read_object(file)
    path, tokenizer, pieces = _tokenizer(folder, extra)
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{path}: model is no object")
    kind = model.get("type", "BPE")
    if kind not in _READERS:
        raise UnsupportedError(
            f"{path}: a tokenizer of type {kind!r:.80} is not known here",
            hint=f"known are: {', '.join(_READERS)}",
        )
    words = _words(path, model)
    added, dropped = read_added(path, tokenizer, size)
    if dropped:
        notes.append(f"{dropped} added tokens beyond the {size} rows of the embedding are left out")
    if (highest := max(words.values(), default=-1)) >= size:
        raise ConfigError(f"{path}: token id {highest} is beyond the {size} rows of the embedding")
    note_flags(added, notes)
    by_id = {token.index: token for token in added}
    ids = words | {a.content: a.index for a in added}
    generation = folder / "generation_config.json"
    ending = read_object(generation) if generation.exists() else {}
    if pieces is not None:
        extra = bpe_settings(pieces, extra)
    common = find_special(path, tokenizer, extra, dict(config) | ending, ids, size, notes)
    common |= find_templates(folder, extra)
    parts = Parts(path, tokenizer, words, by_id, size, notes)
    if pieces is not None:
        return replace(read_pieces(parts, pieces, extra), **common, layout=None)
    layout = write_layout(_without(tokenizer, dropped, size))
    return replace(_READERS[kind](parts), **common, layout=layout)


_READERS = {"BPE": read_bpe, "WordPiece": read_wordpiece, "Unigram": read_unigram}


def _tokenizer(
    folder: Path, settings: Mapping[str, Any]
) -> tuple[Path, dict[str, Any], SentencePieceModel | None]:
    """Read tokenizer.json, or build it from an older form of the tokenizer.

    The third is a SentencePiece model of BPE, whose scores say more than a tokenizer.json can.
    """
    path = folder / "tokenizer.json"
    if path.exists():
        return path, read_object(inside(folder, path.name), most=MAX_TOKENIZER_BYTES), None
    for name in FILES:
        if (older := folder / name).exists():
            model = read_model(older)
            return older, tokenizer_of(older, model, settings), model if model.is_bpe else None
    if (older := folder / "vocab.txt").exists():
        return older, from_vocab_txt(older, settings), None
    raise _no_tokenizer(folder)


def _words(path: Path, model: Mapping[str, Any]) -> dict[str, int]:
    """Check the vocabulary and give it by token."""
    if model.get("type") == "Unigram":
        return unigram_words(path, model.get("vocab"))
    words = model.get("vocab")
    if not isinstance(words, dict) or not words:
        raise ConfigError(f"{path}: model.vocab is no object with tokens")
    for word, index in words.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ConfigError(f"{path}: the token {word!r:.80} has the id {index!r:.80}")
    if len(set(words.values())) != len(words):
        raise ConfigError(f"{path}: two tokens of model.vocab have one id")
    return words


def _without(tokenizer: Mapping[str, Any], dropped: int, size: int) -> dict[str, Any]:
    """Leave added tokens beyond the embedding out of what the layout keeps."""
    if not dropped:
        return dict(tokenizer)
    kept = [token for token in tokenizer["added_tokens"] if token["id"] < size]
    return dict(tokenizer) | {"added_tokens": kept}


def _no_tokenizer(folder: Path) -> SourceNotFoundError:
    """Make the error for a folder without tokenizer.json, which may have another form of it."""
    hint = "it belongs to the model: fetch the whole folder"
    for other in ("vocab.json", "tekken.json", "tiktoken.model"):
        if (folder / other).exists():
            hint = (
                f"there is {other}; write the new form with transformers: "
                "AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)"
            )
    return SourceNotFoundError(f"{folder}: there is no tokenizer.json in this folder", hint=hint)
