"""What passes as a container and would still harm llama.cpp."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.models.check import check_model_file, inspect_model_file
from edgellm_converters.errors import CorruptFileError, UnsupportedError
from hostile import ggufbytes as g
from tiny_tokenizers import charsmap

MODEL = g.model()
BPE = g.model(g.bpe_vocabulary())
TOKENS, SCORES, KINDS = g.spm_tokens()


def with_pair(key: str, kind: int, value: object) -> g.File:
    return MODEL.with_pair(g.pair(key, kind, value))


def with_tokens(tokens: list[str | bytes], kinds: list[int] | None = None) -> g.File:
    """The model with other tokens; its embedding fits, scores and types do where not given."""
    count = len(tokens)
    kinds = kinds or (KINDS + [1] * count)[:count]
    file = MODEL.with_pair(g.array("tokenizer.ggml.tokens", g.STRING, tokens))
    file = file.with_pair(g.array("tokenizer.ggml.scores", g.F32, [0.0] * count))
    file = file.with_pair(g.array("tokenizer.ggml.token_type", g.I32, kinds))
    return file.with_tensor("token_embd.weight", dims=(g.EMBED, count), data=None)


def of(architecture: str, **keys: int) -> g.File:
    """The same model under the name of another architecture."""
    pairs = [replace(p, key=p.key.replace("llama.", f"{architecture}.")) for p in MODEL.pairs]
    file = replace(MODEL, pairs=pairs)
    file = file.with_pair(g.pair("general.architecture", g.STRING, architecture))
    for key, value in keys.items():
        file = file.with_pair(g.pair(f"{architecture}.{key.replace('__', '.')}", g.U32, value))
    return file


def gemma(**keys: int) -> g.File:
    return of("gemma3", **keys)


def low_alignment() -> g.File:
    """Aligned to 8 by its own word, so that the first tensor is off the 32 of native code."""
    file = replace(MODEL.with_pair(g.pair("general.alignment", g.U32, 8)), alignment=8)
    while len(file.header()) % 32 in (0, *range(25, 32)):
        file = file.with_pair(g.pair("x" * (1 + len(file.pairs)), g.U8, 0))
    return file


WORDPIECE = g.model(g.wordpiece_vocabulary())
CHARSMAP = charsmap({"a": "A", "\n": " ", "\t": " ", "é": "e", "ﷲ": "الله"})
UNIGRAM = g.model(g.unigram_vocabulary(CHARSMAP))
NODES = 4 + int.from_bytes(CHARSMAP[:4], "little")  # where the replacements begin


def with_charsmap(data: bytes) -> g.File:
    return UNIGRAM.with_pair(g.array("tokenizer.ggml.precompiled_charsmap", g.U8, list(data)))


def with_node(index: int, value: int) -> g.File:
    at = 4 + 4 * index
    return with_charsmap(CHARSMAP[:at] + value.to_bytes(4, "little") + CHARSMAP[at + 4 :])


def with_pieces(tokens: list[str], base: g.File = UNIGRAM) -> g.File:
    """Another vocabulary of normal tokens; scores and embedding fit."""
    count = len(tokens)
    file = base.with_pair(g.array("tokenizer.ggml.tokens", g.STRING, tokens))
    file = file.with_pair(g.array("tokenizer.ggml.scores", g.F32, [0.0] * count))
    file = file.with_pair(g.array("tokenizer.ggml.token_type", g.I32, [1] * count))
    return file.with_tensor("token_embd.weight", dims=(g.EMBED, count), data=None)


# What llama.cpp would crash on, or worse, with a WordPiece or a Unigram tokenizer.
ENCODERS: dict[str, tuple[g.File, str]] = {
    "WordPiece without its unknown token": (
        WORDPIECE.without("tokenizer.ggml.unknown_token_id"),
        "needs tokenizer.ggml.unknown_token_id",
    ),
    "WordPiece without its first token, which no flag turns off": (
        WORDPIECE.without("tokenizer.ggml.bos_token_id").with_pair(
            g.pair("tokenizer.ggml.add_bos_token", g.BOOL, 0)
        ),
        "needs tokenizer.ggml.bos_token_id",
    ),
    "WordPiece without its separator": (
        WORDPIECE.without("tokenizer.ggml.seperator_token_id").with_pair(
            g.pair("tokenizer.ggml.add_sep_token", g.BOOL, 0)
        ),
        "needs tokenizer.ggml.seperator_token_id",
    ),
    "WordPiece with a byte token": (
        WORDPIECE.with_pair(g.array("tokenizer.ggml.token_type", g.I32, [3] * 4 + [6] * 6)),
        "byte tokens",
    ),
    "a flag of the normalizer as a number": (
        WORDPIECE.with_pair(g.pair("tokenizer.ggml.normalizer.lowercase", g.U32, 1)),
        "not bool",
    ),
    "a WordPiece token of 2000 bytes": (
        WORDPIECE.with_pair(
            g.array("tokenizer.ggml.tokens", g.STRING, ["x" * 2000, *map(str, range(9))])
        ),
        "2000 bytes",
    ),
    "Unigram without scores": (UNIGRAM.without("tokenizer.ggml.scores"), "no tokenizer.ggml.sc"),
    "Unigram without its unknown token": (with_pieces(["a", "b"]), "no room"),
    "Unigram whose first token is not there": (
        UNIGRAM.with_pair(g.pair("tokenizer.ggml.add_bos_token", g.BOOL, 1)),
        "asks for a token",
    ),
    "a Unigram token of a megabyte": (with_pieces(["a", "b", "c", "x" * (1 << 20)]), "1048576 b"),
    "a charsmap of two bytes": (with_charsmap(b"ab"), "2 bytes"),
    "a charsmap without replacements": (with_charsmap(CHARSMAP[:NODES]), "array of"),
    "a charsmap whose array is longer than it": (
        with_charsmap(b"\xff\xff\xff\x7f" + CHARSMAP[4:]),
        "array of 2147483647 bytes",
    ),
    "a charsmap with half a node": (with_charsmap(b"\x05\0\0\0" + bytes(9)), "array of 5 bytes"),
    "a charsmap that does not end": (with_charsmap(CHARSMAP[:-1] + b"x"), "does not end"),
    "a charsmap that begins outside": (with_node(0, 1 << 30), "leads from node 0 out"),
    "a charsmap that leads outside": (with_node(97, 97 | 1 << 30), "leads from node 97 out"),
    "a charsmap that leads far outside": (with_node(97, 97 | 1 << 30 | 1 << 9), "from node 97 out"),
    "a charsmap with too few nodes": (
        with_charsmap((400).to_bytes(4, "little") + CHARSMAP[4:404] + CHARSMAP[NODES:]),
        "out of its 100 nodes",
    ),
    "a replacement outside": (
        with_node(97 ^ int.from_bytes(CHARSMAP[392:396], "little") >> 10, 1 << 31 | 99),
        "beyond its end",
    ),
    "a charsmap of words": (
        UNIGRAM.with_pair(g.array("tokenizer.ggml.precompiled_charsmap", g.STRING, ["a"])),
        "not array of uint8",
    ),
}

CASES: dict[str, tuple[g.File, str]] = {
    **ENCODERS,
    "part of a split model": (with_pair("split.count", g.U16, 2), "no split.no"),
    "architecture missing": (MODEL.without("general.architecture"), "no general.architecture"),
    "architecture a number": (with_pair("general.architecture", g.U32, 1), "short name"),
    "architecture an array": (
        MODEL.with_pair(g.array("general.architecture", g.STRING, ["llama"])),
        "short name",
    ),
    "architecture empty": (with_pair("general.architecture", g.STRING, ""), "short name"),
    "architecture of odd letters": (with_pair("general.architecture", g.STRING, "%s%n"), "plain"),
    "name a number": (with_pair("general.name", g.U32, 1), "general.name is of type uint32"),
    "file type a string": (with_pair("general.file_type", g.STRING, "1"), "not uint32"),
    "template an array": (
        MODEL.with_pair(g.array("tokenizer.chat_template", g.STRING, ["a"])),
        "not string",
    ),
    "no layers": (with_pair("llama.block_count", g.U32, 0), "not from 1 to 512"),
    "513 layers": (with_pair("llama.block_count", g.U32, 513), "not from 1 to 512"),
    "2^32-1 layers": (with_pair("llama.block_count", g.U32, 2**32 - 1), "not from 1 to 512"),
    "layers missing": (MODEL.without("llama.block_count"), "no llama.block_count"),
    "layers of type u64": (with_pair("llama.block_count", g.U64, 1), "uint64, not uint32"),
    "layers of type f32": (with_pair("llama.block_count", g.F32, 1.0), "not uint32"),
    "context 0": (with_pair("llama.context_length", g.U32, 0), "context_length is 0"),
    "context 2^31": (with_pair("llama.context_length", g.U32, 1 << 31), "context_length"),
    "embedding 2^32-1": (with_pair("llama.embedding_length", g.U32, 2**32 - 1), "embedding"),
    "vocab_size 2^32-1": (with_pair("llama.vocab_size", g.U32, 2**32 - 1), "vocab_size"),
    "heads that do not share": (
        with_pair("llama.attention.head_count_kv", g.U32, 3),
        "no multiple of head_count_kv",
    ),
    "heads for the wrong layers": (
        MODEL.with_pair(g.array("llama.attention.head_count", g.U32, [2, 2])),
        "2 values for 1 layers",
    ),
    "heads of type i16": (
        MODEL.with_pair(g.array("llama.attention.head_count", g.I16, [2])),
        "not uint32",
    ),
    "heads negative": (
        MODEL.with_pair(g.array("llama.attention.head_count", g.I32, [-2])),
        "head_count is -2",
    ),
    "no heads in an array": (
        MODEL.with_pair(g.array("llama.attention.head_count", g.I32, [])),
        "array of 0 values",
    ),
    "key and value lengths differ": (
        with_pair("llama.attention.value_length", g.U32, 8),
        "value_length 8 differ",
    ),
    "gemma's key and value lengths differ": (gemma(attention__value_length=8), "differ"),
    "odd rotation": (with_pair("llama.rope.dimension_count", g.U32, 15), "odd number"),
    "rotation longer than a head": (gemma(rope__dimension_count=18), "more than a head"),
    "rotation of half a head": (with_pair("llama.rope.dimension_count", g.U32, 8), "not a head's"),
    "half a head of another that asserts it": (
        of("qwen3vl", rope__dimension_count=8),
        "not a head's",
    ),
    "no rotation": (gemma(rope__dimension_count=0), "dimension_count is 0"),
    "a window of 2^30": (gemma(attention__sliding_window=1 << 30), "sliding_window is"),
    "a window for no layer": (gemma(attention__sliding_window_pattern=1), "no layer"),
    "a window for no layer in an array": (
        gemma(attention__sliding_window=8).with_pair(
            g.array("gemma3.attention.sliding_window_pattern", g.BOOL, [0, 1])
        ),
        "no layer",
    ),
    "dense layers that do not meet": (
        of(
            "gemma-embedding",
            dense_2_feat_in=g.EMBED,
            dense_2_feat_out=8,
            dense_3_feat_in=9,
            dense_3_feat_out=g.EMBED,
        ),
        "do not lead to",
    ),
    "dense layers that lead elsewhere": (of("gemma-embedding", dense_3_feat_out=8), "do not lead"),
    "dense layers without tensors": (
        of(
            "gemma-embedding",
            dense_2_feat_in=g.EMBED,
            dense_2_feat_out=8,
            dense_3_feat_in=8,
            dense_3_feat_out=g.EMBED,
        ),
        "the tensors of dense layers differ",
    ),
    "one dense layer alone": (
        replace(
            of("gemma-embedding"),
            tensors=[*MODEL.tensors, g.Tensor("dense_2.weight", (g.EMBED, 8))],
        ),
        "the tensors of dense layers differ",
    ),
    "a network of two halves without a gate": (
        of("modern-bert").with_pair(g.pair("modern-bert.hidden_activation", g.STRING, "relu")),
        "hidden_activation is 'relu'",
    ),
    "heads that are not as wide as the model": (
        of("modern-bert", attention__key_length=32, attention__value_length=32),
        "are not embedding_length",
    ),
    "unknown rope scaling": (with_pair("llama.rope.scaling.type", g.STRING, "x"), "not one of"),
    "negative epsilon": (
        with_pair("llama.attention.layer_norm_rms_epsilon", g.F32, -1.0),
        "out of its range",
    ),
    "epsilon NaN": (
        with_pair("llama.attention.layer_norm_rms_epsilon", g.F32, float("nan")),
        "out of its range",
    ),
    "frequency 0": (with_pair("llama.rope.freq_base", g.F32, 0.0), "out of its range"),
    "some factor infinite": (with_pair("llama.logit_scale", g.F32, float("inf")), "finite"),
    "some size 2^32-1": (with_pair("llama.ssm.state_size", g.U32, 2**32 - 1), "more than"),
    "1025 experts": (with_pair("llama.expert_count", g.U32, 1025), "expert_count"),
    "experts that nothing uses": (with_pair("llama.expert_count", g.U32, 8), "used_count is 0"),
    "experts used of none": (with_pair("llama.expert_used_count", g.U32, 2), "2 of 0"),
    "groups without experts": (with_pair("llama.expert_group_count", g.U32, 2), "divide"),
    "all layers predict": (with_pair("llama.nextn_predict_layers", g.U32, 1), "none of 1"),
    "no causal mask": (with_pair("llama.attention.causal", g.BOOL, 0), "causal"),
    "tokenizer missing": (MODEL.without("tokenizer.ggml.model"), "no tokenizer.ggml.model"),
    "tokenizer a number": (with_pair("tokenizer.ggml.model", g.U32, 1), "not a string"),
    "tokens missing": (MODEL.without("tokenizer.ggml.tokens"), "no tokenizer.ggml.tokens"),
    "tokens of type u8": (
        MODEL.with_pair(g.array("tokenizer.ggml.tokens", g.U8, [1])),
        "array of uint8, not array of string",
    ),
    "no tokens": (MODEL.with_pair(g.array("tokenizer.ggml.tokens", g.STRING, [])), "0 tokens"),
    "tokens a string": (with_pair("tokenizer.ggml.tokens", g.STRING, "<s>"), "not array"),
    "scores too few": (MODEL.with_pair(g.array("tokenizer.ggml.scores", g.F32, [0.0])), "1 val"),
    "scores of type f64": (
        MODEL.with_pair(g.array("tokenizer.ggml.scores", g.F64, SCORES)),
        "not array of float32",
    ),
    "score NaN": (
        MODEL.with_pair(g.array("tokenizer.ggml.scores", g.F32, [*SCORES[1:], float("nan")])),
        "not a number",
    ),
    "types too few": (MODEL.with_pair(g.array("tokenizer.ggml.token_type", g.I32, [1])), "1 val"),
    "types of type u32": (
        MODEL.with_pair(g.array("tokenizer.ggml.token_type", g.U32, KINDS)),
        "not array of int32",
    ),
    "token twice": (with_tokens([*TOKENS, "a"]), "'a' twice (again at 267)"),
    "token twice but for a NUL": (with_tokens([*TOKENS, "a\0b"]), "'a' twice"),
    "token twice by its stand-in": (with_tokens([*TOKENS, "", "[EMPTY_267]"]), "twice"),
    "byte token <0x-1>": (
        with_tokens([*TOKENS, "<0x-1>"], [*KINDS, 6]),
        "malformed byte token '<0x-1>'",
    ),
    "normal token <0x-1>": (with_tokens([*TOKENS, "<0x-1>"]), "malformed byte token"),
    "byte token of two letters": (with_tokens([*TOKENS, "zz"], [*KINDS, 6]), "malformed byte"),
    "empty byte token": (with_tokens([*TOKENS, ""], [*KINDS, 6]), "malformed byte token"),
    "byte token missing": (
        with_tokens([t for t in TOKENS if t != "<0xD8>"], [1] * (len(TOKENS) - 1)),
        "no token <0xD8>",
    ),
    "id out of range": (with_pair("tokenizer.ggml.eos_token_id", g.U32, 267), "267 tokens"),
    "id of type i32": (with_pair("tokenizer.ggml.eos_token_id", g.I32, 2), "not uint32"),
    "flag of type u8": (with_pair("tokenizer.ggml.add_bos_token", g.U8, 1), "not bool"),
    "separator that is not there": (with_pair("tokenizer.ggml.add_sep_token", g.BOOL, 1), "asks"),
    "merges missing": (BPE.without("tokenizer.ggml.merges"), "no tokenizer.ggml.merges"),
    "merges of type u32": (
        BPE.with_pair(g.array("tokenizer.ggml.merges", g.U32, [1])),
        "not array of string",
    ),
    "no tensors": (replace(MODEL, tensors=[]), "no tensors"),
    "norm as Q8_0": (
        MODEL.with_tensor("output_norm.weight", kind=g.GGML_Q8_0, data=None),
        "not F32",
    ),
    "norm as F16": (MODEL.with_tensor("blk.0.attn_norm.weight", kind=g.GGML_F16, data=None), "F16"),
    "tensors off native alignment": (low_alignment(), "native code needs"),
}


@pytest.mark.parametrize("case", CASES)
def test_harmful_model_gives_one_sentence(case: str, tmp_path: Path) -> None:
    file, words = CASES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(file.build())
    with pytest.raises(CorruptFileError) as caught:
        check_model_file(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


UNSUPPORTED = {
    "no vocabulary": with_pair("tokenizer.ggml.model", g.STRING, "none"),
    "unknown tokenizer": with_pair("tokenizer.ggml.model", g.STRING, "rwkv"),
    "integer weights": replace(
        MODEL,
        tensors=[*MODEL.tensors, g.Tensor("blk.0.x.weight", (8, 4), 26, b"\0" * 128)],
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_model_that_cannot_be_run_is_unsupported(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(g.BLOCKS, 26, (1, 4))
    path = tmp_path / "bad.gguf"
    path.write_bytes(UNSUPPORTED[case].build())
    with pytest.raises(UnsupportedError):
        check_model_file(path)
    inspect_model_file(path)


GOOD = {
    "SentencePiece": MODEL,
    "byte-level BPE": BPE,
    "WordPiece": WORDPIECE,
    "Unigram": UNIGRAM,
    "Unigram without a charsmap": g.model(g.unigram_vocabulary()),
    "one more token": with_tokens([*TOKENS, "new"]),
    "an empty token": with_tokens([*TOKENS, ""]),
    "heads for each layer": MODEL.with_pair(g.array("llama.attention.head_count", g.I32, [2])),
    "bytes as themselves": with_tokens(["\n" if t == "<0x0A>" else t for t in TOKENS], [1] * 267),
    "no separator": with_pair("tokenizer.ggml.seperator_token_id", g.U32, 2**32 - 1),
    "gemma": gemma(attention__sliding_window=8, attention__sliding_window_pattern=6),
    "nemotron turns half of a head": of("nemotron", rope__dimension_count=8),
    "minimax turns half of a head": of("minimax-m2", rope__dimension_count=8),
    "no attention in the first layer": of("nemotron_h", attention__key_length=16).with_pair(
        g.array("nemotron_h.attention.head_count", g.I32, [0])
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_good_model_passes(case: str, tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(GOOD[case].build())
    assert len(check_model_file(path).tensors) == len(MODEL.tensors)


def test_whole_numbers_that_a_model_looks_up_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(g.BLOCKS, 26, (1, 4))
    table = g.Tensor("blk.0.ffn_gate_tid2eid.weight", (2, 8), 26, b"\0" * 64)
    (tmp_path / "good.gguf").write_bytes(replace(MODEL, tensors=[*MODEL.tensors, table]).build())
    check_model_file(tmp_path / "good.gguf")


def test_vocabulary_alone_can_be_read_about(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(replace(MODEL, tensors=[]).without("llama.block_count").build())
    assert inspect_model_file(path).tensors == ()


def test_truncated_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    whole = MODEL.build()
    path.write_bytes(whole)
    lengths = [*range(MODEL.last_data_byte() - 1, len(MODEL.header()), -997)]
    lengths += [*range(len(MODEL.header()), -1, -13)]
    for length in lengths:
        os.truncate(path, length)
        with pytest.raises(CorruptFileError):
            check_model_file(path)


def test_every_scalar_of_a_wrong_type_is_refused(tmp_path: Path) -> None:
    """llama.cpp reads each by one type; the check must not be laxer."""
    path = tmp_path / "bad.gguf"
    for pair in g.parameters():
        for kind in (g.U8, g.U16, g.I64, g.F64, g.BOOL):
            value = struct.pack("<" + g.CODES[kind], 1)
            path.write_bytes(MODEL.with_pair(g.Pair(pair.key, kind, value)).build())
            with pytest.raises(CorruptFileError):
                check_model_file(path)


def test_check_does_without_numpy() -> None:
    """It runs before every answer, and numpy alone takes longer than the check."""
    code = "import sys, edgellm.models.check; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
