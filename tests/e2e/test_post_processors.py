"""The ends that post-processors add, in each of their forms, for one text and for a pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import tiny_tokenizers as tiny
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from token_check import TEXTS, random_texts, ways, write_folder

FIRST, LAST = "<|im_start|>", "<|im_end|>"
SPECIAL = (FIRST, LAST, "<|endoftext|>")
ENCODER = {"cls_token": FIRST, "sep_token": LAST, "pad_token": "<|endoftext|>"}
DECODER = {"bos_token": FIRST, "eos_token": LAST}


def part(name: str, at: int = 0) -> dict[str, Any]:
    kind = "Sequence" if name in "AB" else "SpecialToken"
    return {kind: {"id": name, "type_id": at}}


def template(single: str, pair: str) -> dict[str, Any]:
    """A template in words: "[ A ]" has the first token, a text and the last one."""
    names = {"[": FIRST, "]": LAST, "?": "<|endoftext|>", "A": "A", "B": "B"}
    ids = {FIRST: 1, LAST: 2, "<|endoftext|>": 0}
    return {
        "type": "TemplateProcessing",
        "single": [part(names[word]) for word in single.split()],
        "pair": [part(names[word]) for word in pair.split()],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in ids.items()},
    }


def processing(kind: str) -> dict[str, Any]:
    more = {"trim_offsets": True, "add_prefix_space": False} if kind.startswith("Roberta") else {}
    return {"type": kind, "cls": [FIRST, 1], "sep": [LAST, 2], **more}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "processors": list(steps)}


# post-processor, settings, (add_bos, add_eos, add_sep)
FORMS: dict[str, tuple[dict[str, Any], dict[str, str], tuple[bool, bool, bool | None]]] = {
    "none": (tiny.BYTE_LEVEL, DECODER, (False, False, None)),
    "RoBERTa": (processing("RobertaProcessing"), ENCODER, (True, True, True)),
    "BERT": (processing("BertProcessing"), ENCODER, (True, True, False)),
    "a template of an encoder": (template("[ A ]", "[ A ] B ]"), ENCODER, (True, True, False)),
    "two separators": (template("[ A ]", "[ A ] ] B ]"), ENCODER, (True, True, True)),
    "the first alone": (template("[ A", "[ A [ B"), DECODER, (True, False, None)),
    "the last alone": (template("A ]", "A ] B ]"), DECODER, (False, True, None)),
    "after bytes": (
        sequence(tiny.BYTE_LEVEL, template("[ A", "[ A [ B")),
        DECODER,
        (True, False, None),
    ),
    "one token at both ends": (
        template("[ A [", "[ A [ [ B ["),
        {"bos_token": FIRST, "eos_token": FIRST},
        (True, True, None),
    ),
}


def write(folder: Path, post: dict[str, Any], settings: dict[str, str]) -> tuple[Path, int]:
    tokenizer = tiny.byte_level(tiny.SMOLLM) | {"post_processor": post}
    return write_folder(folder, tokenizer, settings), len(tokenizer["model"]["vocab"])


@pytest.mark.parametrize("form", FORMS)
def test_ends_are_the_same_everywhere(form: str, tmp_path: Path) -> None:
    post, settings, flags = FORMS[form]
    folder, size = write(tmp_path / "hf", post, settings)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with ways(folder, size, tmp_path) as found:
        found.compare(original, TEXTS + random_texts(SPECIAL))
        vocabulary = found.vocabulary
        assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.add_sep) == flags
        pair = original.encode("the cat", "the hat").ids
        assert found.rebuilt.encode("the cat", "the hat").ids == pair
        if form != "the last alone":  # as a decoder's texts follow each other, each with its ends
            assert found.bare.encode("the cat", "the hat").ids == pair


@pytest.mark.parametrize(
    ("post", "settings", "words"),
    [
        (template("? A", "? A B"), DECODER, "adds token 0, which is not the bos token 1"),
        (template("A ?", "A B ?"), DECODER, "adds token 0, which is not the eos token 2"),
        (template("[ [ A", "A B"), DECODER, "more than one token at an end"),
        (template("[ A ] ]", "A B"), DECODER, "more than one token at an end"),
        (sequence({"type": "Odd"}), DECODER, "'Odd'"),
    ],
)
def test_ends_that_llama_cpp_cannot_add(
    post: dict[str, Any], settings: dict[str, str], words: str, tmp_path: Path
) -> None:
    folder, size = write(tmp_path / "hf", post, settings)
    with pytest.raises(UnsupportedError, match=words):
        read_vocabulary(folder, {}, size, [])


def test_an_encoder_s_ends_count_before_the_ids_of_config_json(tmp_path: Path) -> None:
    """transformers writes bos and eos ids of its defaults into the config.json of encoders."""
    post, settings, _ = FORMS["a template of an encoder"]
    folder, size = write(tmp_path / "hf", post, settings)
    vocabulary = read_vocabulary(folder, {"bos_token_id": 0, "eos_token_id": 9}, size, [])
    assert vocabulary.special == {"bos": 1, "cls": 1, "eos": 2, "sep": 2, "pad": 0}


def test_roles_of_the_older_file_beside_the_settings(tmp_path: Path) -> None:
    folder, size = write(tmp_path / "hf", tiny.BYTE_LEVEL, {"eos_token": LAST})
    roles = {"eos_token": "<|endoftext|>", "mask_token": {"content": FIRST, "lstrip": True}}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    vocabulary = read_vocabulary(folder, {}, size, [])
    assert vocabulary.special == {"eos": 2, "mask": 1}
