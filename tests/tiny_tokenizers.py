"""Tiny tokenizers made by hand, in the form of tokenizer.json that transformers writes."""

from __future__ import annotations

import base64
import struct
from itertools import pairwise
from typing import Any

TEXT = (
    "the cat sat on the mat and the hat and then the cat ran to the other side of the hall where "
    "there was a thin old man with a tin can in his hand and he said that it had rained in Spain"
)
SPACE = "\u2581"


def sentencepiece(*, prefix: bool = True, pieces: int = 90) -> dict[str, Any]:
    """A tokenizer.json as transformers writes it from a SentencePiece BPE model."""
    text = SPACE + TEXT.replace(" ", SPACE)
    learned = ["".join(pair) for pair in train(list(text), pieces)] + [SPACE * 2, SPACE * 4]
    characters = sorted(set(text + "ـپیک\u200cé\n"))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    first = len(tokens)
    tokens += [piece for piece in dict.fromkeys(learned) if len(piece) > 1] + characters
    ids = {token: index for index, token in enumerate(tokens)}
    ranked = sorted(
        (index, ids[token[:cut]], ids[token[cut:]])
        for token, index in ids.items()
        if index >= first
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    )
    merges = [[tokens[left], tokens[right]] for _, left, right in ranked]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    steps = [{"type": "Prepend", "prepend": SPACE}, replace]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    single = [bos, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "added_tokens": [added(index, tokens[index]) for index in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": steps} if prefix else replace,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": merges,
        },
    }


def byte_level(pre: list[dict[str, Any]], *, special: int = 3, pieces: int = 60) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json with these pre-tokenizers."""
    merges = train(list(TEXT.replace(" ", "Ġ")), pieces)
    # GPT-2's characters for the 256 bytes.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(len(others))]
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra>"][:special]
    tokens = [*names, *alphabet, *dict.fromkeys("".join(pair) for pair in merges)]
    return {
        "version": "1.0",
        "added_tokens": [
            added(index, name, special=name != "<extra>") for index, name in enumerate(names)
        ],
        "normalizer": None,
        "pre_tokenizer": pre[0] if len(pre) == 1 else {"type": "Sequence", "pretokenizers": pre},
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
SMOLLM = [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]


def added(index: int, content: str, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": special}


def train(symbols: list[str], count: int) -> list[tuple[str, str]]:
    """Learn merges: the most frequent pair, ties by text."""
    merges = []
    for _ in range(count):
        pairs: dict[tuple[str, str], int] = {}
        for pair in pairwise(symbols):
            if SPACE not in pair[1] and "Ġ" not in pair[1]:  # a word ends before the next space
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        joined: list[str] = []
        for symbol in symbols:
            if joined and (joined[-1], symbol) == best:
                joined[-1] += symbol
            else:
                joined.append(symbol)
        symbols = joined
    return merges


# -- ModernBERT -----------------------------------------------------------------------------------


def modern_bert_tokenizer() -> dict[str, Any]:
    """A byte-level tokenizer.json with the special tokens of ModernBERT after all others."""
    tokenizer = byte_level([BYTE_LEVEL], special=0)
    first = len(tokenizer["model"]["vocab"])
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    ids = {name: first + index for index, name in enumerate(special)}
    tokenizer["model"]["vocab"] |= ids
    tokenizer["added_tokens"] = [added(index, name) for name, index in ids.items()]
    tokenizer["added_tokens"][-1]["lstrip"] = True
    tokenizer["normalizer"] = {"type": "NFC"}
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [cls, one, sep],
        "pair": [cls, one, sep, two, sep],
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
        },
    }
    return tokenizer


SETTINGS_MODERN_BERT = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


# -- WordPiece ------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789" + "ABCDÉéİ" + "سلامدنیپکخوهـءآاًّ" + "中文한국कि"
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~؟،؛«»…–"


def wordpiece(*, lowercase: bool = True, strip_accents: bool | None = None) -> dict[str, Any]:
    """A tokenizer.json of a BERT, its special tokens first."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["[unused0]", "the", "cat", "hand", "rain", "سلام", "Spain", "spain", "که"]
    pieces = ["##ing", "##ed", "##an", "##ها", "##ی", "##12"]
    letters = list(dict.fromkeys(LETTERS))
    tokens = [*special, *words, *pieces, *letters, *(f"##{letter}" for letter in letters), *SIGNS]
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    first, last = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    second = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    single = [first, {"Sequence": {"id": "A", "type_id": 0}}, last]
    return {
        "version": "1.0",
        "added_tokens": [added(index, name) for index, name in enumerate(special)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + second,
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]}
                for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }


SETTINGS_BERT = {
    "tokenizer_class": "BertTokenizer",
    **{f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")},
}


# -- Unigram --------------------------------------------------------------------------------------


def charsmap(replacements: dict[str, str]) -> bytes:
    """SentencePiece's table of replacements: a double array with a block of 256 for each prefix.

    From a node at n with base b, the byte c leads to n ^ b ^ c; its replacement's place in the text
    that follows the array stands at n ^ b.
    """
    keys = {key.encode(): value.encode() + b"\0" for key, value in replacements.items()}
    prefixes = sorted({key[:end] for key in keys for end in range(len(key) + 1)})
    block = {prefix: 256 * number for number, prefix in enumerate(prefixes)}  # b"" first, at 0
    nodes = [0] * (256 * len(prefixes))
    for prefix in prefixes[1:]:
        at = block[prefix[:-1]] ^ prefix[-1]
        nodes[at] |= prefix[-1] | (at ^ block[prefix]) << 10
    text = b""
    for key, value in keys.items():
        nodes[block[key[:-1]] ^ key[-1]] |= 1 << 8
        nodes[block[key]] = len(text) | 1 << 31
        text += value
    array = b"".join(node.to_bytes(4, "little") for node in nodes)
    return len(array).to_bytes(4, "little") + array + text


REPLACED = {
    **dict.fromkeys(("\n", "\t", "\r", "\u00a0", "\u3000"), " "),
    **{"ﷲ": "الله", "ﻻ": "لا", "½": "1/2", "Ａ": "A", "ك": "ک", "\u200b": ""},
}


def unigram(kind: str = "t5", *, table: bool = True) -> dict[str, Any]:
    """A tokenizer.json of a T5 or, with `kind` "xlm-r", of an XLM-RoBERTa."""
    words = ["the", "cat", "sat", "hand", "rain", "سلام", "Spain", "که", "کتاب", "12"]
    parts = ["ing", "ed", "an", "th", "ها", "ی", "in", "\u0300", "😀"]
    letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyzABCDEÉ0123456789.,!?'()=-سلامدنیپکخوهـآ،")
    pieces = [SPACE, *(SPACE + word for word in words), *words, *parts, *letters]
    ids: dict[str, float] = dict.fromkeys(pieces, 0.0)
    # Log probabilities, those of longer pieces higher; each exact in float32.
    ids = {piece: -12.0 + 1.5 * len(piece) - n / 64 for n, piece in enumerate(ids)}
    if kind == "t5":
        before, after = ["<pad>", "</s>", "<unk>"], ["<extra_id_1>", "<extra_id_0>"]
    else:
        before, after = ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]
    tokens = [*((name, 0.0) for name in before), *ids.items(), *((name, 0.0) for name in after)]
    places = {token: index for index, (token, _) in enumerate(tokens)}
    ends = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>")]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [*ends[:1], text, *ends[1:]] if kind == "xlm-r" else [text, ends[1]]
    between = ends[1:] if kind == "xlm-r" else []
    names = [name for name in ("<s>", "</s>") if name in places]
    data = base64.b64encode(charsmap(REPLACED)).decode()
    words_step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"}
    return {
        "version": "1.0",
        "added_tokens": [added(places[name], name) for name in (*before, *after)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": data} if table else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, words_step],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, *between, {"Sequence": {"id": "B", "type_id": 0}}, ends[1]],
            "special_tokens": {
                name: {"id": name, "ids": [places[name]], "tokens": [name]} for name in names
            },
        },
        "decoder": words_step,
        "model": {
            "type": "Unigram",
            "unk_id": places["<unk>"],
            "vocab": [list(entry) for entry in tokens],
            "byte_fallback": False,
        },
    }


SETTINGS_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SETTINGS_XLMR = {
    **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
    **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
}


# -- SentencePiece's own file ---------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A number of a protocol buffer: seven bits a byte, the lowest first; negative as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """A field: its number and wire type, then a varint, a float32 or bytes with their length."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_file(
    pieces: list[tuple[str, float, int]],
    *,
    bpe: bool = False,
    table: bytes = b"",
    prefix: bool = True,
    merges: bool = True,
    **trainer: int,
) -> bytes:
    """A SentencePiece model; `trainer` are numbers of fields of its TrainerSpec, as "f40=2"."""
    out = b""
    for text, score, kind in pieces:
        piece = field(1, text.encode()) + field(2, float(score))
        out += field(1, piece + (field(3, kind) if kind != 1 else b""))
    spec = field(3, 2 if bpe else 1)
    spec += b"".join(field(int(name[1:]), value) for name, value in trainer.items())
    preparation = field(1, b"nmt_nfkc") + (field(2, table) if table else b"")
    preparation += field(3, int(prefix)) + field(4, int(merges))
    return out + field(2, spec) + field(3, preparation)


def unigram_model(kind: str) -> bytes:
    """The model file behind `unigram(kind)`."""
    vocabulary = unigram(kind)["model"]["vocab"]
    table = charsmap(REPLACED)
    if kind == "t5":
        pieces = [(text, score, 1) for text, score in vocabulary[3:-2]]
        special = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
        return model_file(special + pieces, table=table, f40=2, f41=-1, f42=1, f43=0)
    pieces = [(text, score, 1) for text, score in vocabulary[4:-1]]
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    return model_file(special + pieces, table=table)


def bpe_model(*, prefix: bool = True) -> bytes:
    """The model file behind `sentencepiece(prefix=prefix)`."""
    ids = sentencepiece(prefix=prefix)["model"]["vocab"]
    pieces = [
        (text, 0.0 if index < 259 else 259.0 - index, (2, 3, 3)[index] if index < 3 else 1)
        for text, index in ids.items()
    ]
    pieces = [(t, s, 6 if 3 <= n < 259 else k) for n, (t, s, k) in enumerate(pieces)]
    return model_file(pieces, bpe=True, prefix=prefix, merges=False, f35=1)
