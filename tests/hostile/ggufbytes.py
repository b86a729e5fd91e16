"""Writes GGUF files byte by byte, right ones and wrong ones alike.

Independent of the reader under test and of the gguf package: the layout is written down here a
second time, from the specification.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field, replace

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B"} | {
    U64: "Q",
    I64: "q",
    F64: "d",
}
GGML_F32, GGML_F16, GGML_Q4_0, GGML_Q8_0 = 0, 1, 2, 8
# (elements in a block, bytes of a block)
BLOCKS = {GGML_F32: (1, 4), GGML_F16: (1, 2), GGML_Q4_0: (32, 18), GGML_Q8_0: (32, 34)}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def payload(kind: int, value: object) -> bytes:
    if kind == STRING:
        assert isinstance(value, str | bytes)
        return text(value)
    return struct.pack("<" + CODES[kind], value)


@dataclass
class Pair:
    key: str | bytes
    kind: int
    value: bytes  # as it stands in the file, after the type

    def build(self) -> bytes:
        return text(self.key) + struct.pack("<I", self.kind) + self.value


def pair(key: str | bytes, kind: int, value: object) -> Pair:
    return Pair(key, kind, payload(kind, value))


def array(key: str | bytes, element: int, values: list, count: int | None = None) -> Pair:
    count = len(values) if count is None else count
    body = b"".join(payload(element, value) for value in values)
    return Pair(key, ARRAY, struct.pack("<IQ", element, count) + body)


@dataclass
class Tensor:
    name: str | bytes
    dims: tuple[int, ...]  # ggml's order: columns first
    kind: int = GGML_F32
    data: bytes | None = None
    offset: int | None = None  # None: where it belongs
    n_dims: int | None = None

    def nbytes(self) -> int:
        elements = 1
        for size in self.dims:
            elements *= size
        block, size = BLOCKS[self.kind]
        return elements // block * size

    def content(self) -> bytes:
        return b"\0" * self.nbytes() if self.data is None else self.data


@dataclass
class File:
    pairs: list[Pair] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    n_tensors: int | None = None
    n_pairs: int | None = None

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        head = bytearray(self.magic + struct.pack("<IQQ", self.version, n_tensors, n_pairs))
        head += b"".join(p.build() for p in self.pairs)
        expected = 0
        for tensor in self.tensors:
            offset = expected if tensor.offset is None else tensor.offset
            n_dims = len(tensor.dims) if tensor.n_dims is None else tensor.n_dims
            head += text(tensor.name) + struct.pack("<I", n_dims)
            head += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
            head += struct.pack("<IQ", tensor.kind, offset)
            expected = self.pad(expected + len(tensor.content()))
        return bytes(head)

    def pad(self, size: int) -> int:
        return (size + self.alignment - 1) // self.alignment * self.alignment

    def build(self) -> bytes:
        out = bytearray(self.header())
        out = out.ljust(self.pad(len(out)), b"\0")
        for tensor in self.tensors:
            data = tensor.content()
            out += data.ljust(self.pad(len(data)), b"\0")
        return bytes(out)

    def last_data_byte(self) -> int:
        """The length to which the file can be cut without losing a byte of data."""
        last = self.tensors[-1]
        return len(self.build()) - (self.pad(last.nbytes()) - last.nbytes())

    def with_pair(self, new: Pair) -> File:
        """This file with one pair replaced or added."""
        kept = [p for p in self.pairs if p.key != new.key]
        return replace(self, pairs=[*kept, new])

    def without(self, key: str) -> File:
        return replace(self, pairs=[p for p in self.pairs if p.key != key])

    def with_tensor(self, name: str, /, **changes: object) -> File:
        """This file with one tensor changed."""
        assert any(t.name == name for t in self.tensors)
        tensors = [replace(t, **changes) if t.name == name else t for t in self.tensors]
        return replace(self, tensors=tensors)


EMBED, FEED, HEADS = 32, 64, 2


def spm_tokens() -> tuple[list[str], list[float], list[int]]:
    """Three control tokens, 256 bytes, some words."""
    words = ["▁", "a", "b", "c", "▁a", "ab", "▁ab", "سلام"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(words))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(words)
    return tokens, scores, kinds


def spm_vocabulary() -> list[Pair]:
    tokens, scores, kinds = spm_tokens()
    return [
        pair("tokenizer.ggml.model", STRING, "llama"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.scores", F32, scores),
        array("tokenizer.ggml.token_type", I32, kinds),
        pair("tokenizer.ggml.bos_token_id", U32, 1),
        pair("tokenizer.ggml.eos_token_id", U32, 2),
    ]


def bpe_vocabulary() -> list[Pair]:
    tokens = [f"t{index}" for index in range(20)] + ["Ġ", "a", "b", "ab"]
    return [
        pair("tokenizer.ggml.model", STRING, "gpt2"),
        pair("tokenizer.ggml.pre", STRING, "gpt-2"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.token_type", I32, [3] + [1] * (len(tokens) - 1)),
        array("tokenizer.ggml.merges", STRING, ["a b"]),
        pair("tokenizer.ggml.bos_token_id", U32, 0),
        pair("tokenizer.ggml.eos_token_id", U32, 0),
    ]


def wordpiece_vocabulary() -> list[Pair]:
    """A BERT's: control tokens, then starts of words with their sign and rests of words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "▁b", "a", "b", "▁سلام", "▁<"]
    return [
        pair("tokenizer.ggml.model", STRING, "bert"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.token_type", I32, [3] * 4 + [1] * (len(tokens) - 4)),
        pair("tokenizer.ggml.bos_token_id", U32, 2),
        pair("tokenizer.ggml.unknown_token_id", U32, 1),
        pair("tokenizer.ggml.seperator_token_id", U32, 3),
        pair("tokenizer.ggml.normalizer.lowercase", BOOL, 1),
    ]


def unigram_vocabulary(charsmap: bytes = b"") -> list[Pair]:
    """A T5's: control tokens, then pieces with their log probabilities."""
    tokens = ["<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "ab", "▁سلام", "<x>"]
    table = [array("tokenizer.ggml.precompiled_charsmap", U8, list(charsmap))] if charsmap else []
    return [
        pair("tokenizer.ggml.model", STRING, "t5"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.scores", F32, [0.0] * 3 + [-1.0 - n for n in range(7)]),
        array("tokenizer.ggml.token_type", I32, [3, 3, 2] + [1] * 6 + [4]),
        pair("tokenizer.ggml.remove_extra_whitespaces", BOOL, 1),
        *table,
    ]


def parameters() -> list[Pair]:
    return [
        pair("general.architecture", STRING, "llama"),
        pair("general.name", STRING, "tiny"),
        pair("llama.block_count", U32, 1),
        pair("llama.context_length", U32, 64),
        pair("llama.embedding_length", U32, EMBED),
        pair("llama.feed_forward_length", U32, FEED),
        pair("llama.attention.head_count", U32, HEADS),
        pair("llama.attention.head_count_kv", U32, HEADS),
        pair("llama.rope.dimension_count", U32, EMBED // HEADS),
        pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        pair("llama.rope.freq_base", F32, 10000.0),
    ]


def model(vocabulary: list[Pair] | None = None, seed: int = 0) -> File:
    """A llama with one layer that llama.cpp loads and runs, weights at random."""
    vocabulary = spm_vocabulary() if vocabulary is None else vocabulary
    (tokens,) = [p for p in vocabulary if p.key == "tokenizer.ggml.tokens"]
    (n_tokens,) = struct.unpack_from("<Q", tokens.value, 4)
    source = random.Random(seed)

    def tensor(name: str, *dims: int) -> Tensor:
        count = 1
        for size in dims:
            count *= size
        values = [1.0 if "norm" in name else source.gauss(0, 0.05) for _ in range(count)]
        return Tensor(name, dims, GGML_F32, struct.pack(f"<{count}f", *values))

    tensors = [
        tensor("token_embd.weight", EMBED, n_tokens),
        tensor("output_norm.weight", EMBED),
        tensor("blk.0.attn_norm.weight", EMBED),
        *(tensor(f"blk.0.attn_{x}.weight", EMBED, EMBED) for x in ("q", "k", "v", "output")),
        tensor("blk.0.ffn_norm.weight", EMBED),
        tensor("blk.0.ffn_gate.weight", EMBED, FEED),
        tensor("blk.0.ffn_down.weight", FEED, EMBED),
        tensor("blk.0.ffn_up.weight", EMBED, FEED),
    ]
    return File([*parameters(), *vocabulary], tensors)


def small() -> File:
    """A few pairs of every type and three small tensors: for truncation and mutation."""
    return File(
        [
            pair("general.architecture", STRING, "llama"),
            pair("llama.block_count", U32, 1),
            *(pair(f"x.of_type_{kind}", kind, 1) for kind in CODES),
            array("x.numbers", I16, [1, -2, 3]),
            array("x.flags", BOOL, [0, 1]),
            array("x.words", STRING, ["", "a", "سلام", "long " * 40]),
        ],
        [
            Tensor("a", (32, 2), GGML_Q8_0, bytes(range(68))),
            Tensor("b", (5,), GGML_F32, struct.pack("<5f", *range(5))),
            Tensor("c", (3, 1, 2), GGML_F16, struct.pack("<6e", *range(6))),
        ],
    )
