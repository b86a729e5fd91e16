"""Tiny checkpoints: one random model of each architecture, with tokenizers made by hand.

Nothing here uses the code under test. The same name always gives the same bytes, so that golden
files can hold what an oracle said about them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tiny_dense
import tiny_encoders
import tiny_families
import tiny_moe
from tiny_tokenizers import (
    BYTE_LEVEL,
    SETTINGS_BERT,
    SETTINGS_MODERN_BERT,
    SETTINGS_T5,
    SETTINGS_XLMR,
    SMOLLM,
    byte_level,
    modern_bert_tokenizer,
    sentencepiece,
    unigram,
    wordpiece,
)

Tensors = dict[str, np.ndarray]


# -- safetensors, written independently -----------------------------------------------------------


def write_safetensors(path: Path, tensors: Tensors, dtype: str = "F32") -> None:
    """Write float32 arrays as F64, F32, F16 or BF16."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        raw = _encode(array, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_safetensors(folder: Path) -> Tensors:
    """Read every tensor of a folder as float32; those of its subfolders with their names."""
    found: Tensors = {}
    for file in sorted(folder.rglob("*.safetensors")):
        at = "" if file.parent == folder else f"{file.parent.name}/"
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, info in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                start, stop = (8 + size + offset for offset in info["data_offsets"])
                values = _decode(data[start:stop], info["dtype"])
                found[at + name] = values.reshape(info["shape"])
    return found


def _encode(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def _decode(data: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    return np.frombuffer(data, kinds[dtype]).astype(np.float32)


# -- models ---------------------------------------------------------------------------------------


def _write(
    folder: Path,
    config: dict[str, Any],
    tensors: Tensors,
    tokenizer: dict[str, Any],
    settings: dict[str, Any],
    dtype: str,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    # Those of a folder within the folder have a file there.
    for at in {name.rpartition("/")[0] for name in tensors}:
        (folder / at).mkdir(exist_ok=True)
        of = {name: array for name, array in tensors.items() if name.rpartition("/")[0] == at}
        named = {name.rpartition("/")[2]: array for name, array in of.items()}
        write_safetensors(folder / at / "model.safetensors", named, dtype)
    return folder


SETTINGS_SPM = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
}
SETTINGS_BPE = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": {"content": "<|im_end|>", "__type": "AddedToken"},
}


def llama(
    folder: Path,
    *,
    dtype: str = "F32",
    tied: bool = False,
    bias: bool = False,
    hidden: int = 64,
    head_dim: int = 16,
    heads: int = 4,
    feed_forward: int = 96,
    rope: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 1,
    **changes: Any,
) -> Path:
    """Write a Llama with two layers and two key-value heads."""
    tokenizer = tokenizer or sentencepiece()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "vocab_size": len(tokenizer["model"]["vocab"]) + 3,  # rows without a token
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "attention_bias": bias,
        "mlp_bias": bias,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **(rope or {"rope_theta": 10000.0}),
        **changes,
    }
    rng = np.random.default_rng(seed)
    query, key = heads * head_dim, 2 * head_dim
    rows = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (feed_forward, hidden),
        "mlp.up_proj": (feed_forward, hidden),
        "mlp.down_proj": (hidden, feed_forward),
    }
    tensors = {
        "model.embed_tokens.weight": _matrix(
            rng, config["vocab_size"], hidden, 0.1 if tied else 1.0
        )
    }
    for layer in range(2):
        at = f"model.layers.{layer}."
        for name, (out, width) in rows.items():
            tensors[f"{at}{name}.weight"] = _matrix(rng, out, width, 1.5 / width**0.5)
            if bias:
                tensors[f"{at}{name}.bias"] = _matrix(rng, 1, out, 0.3)[0]
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = 1 + _matrix(rng, 1, hidden, 0.2)[0]
    tensors["model.norm.weight"] = 1 + _matrix(rng, 1, hidden, 0.2)[0]
    if not tied:
        tensors["lm_head.weight"] = _matrix(rng, config["vocab_size"], hidden, 0.5)
    return _write(folder, config, tensors, tokenizer, settings or SETTINGS_SPM, dtype)


def gemma3(folder: Path, *, dtype: str = "F32", seed: int = 2, **changes: Any) -> Path:
    """Write a Gemma 3 with three layers, the second of which sees the whole context."""
    tokenizer = sentencepiece(prefix=False)
    hidden, head_dim, heads, feed_forward = 64, 32, 4, 96
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": head_dim,
        "vocab_size": len(tokenizer["model"]["vocab"]),
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": head_dim,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **changes,
    }
    rng = np.random.default_rng(seed)
    query, key = heads * head_dim, head_dim
    # Small, so that a tied head does not just say the last token again.
    tensors = {"model.embed_tokens.weight": _matrix(rng, config["vocab_size"], hidden, 0.02)}
    for layer in range(3):
        at = f"model.layers.{layer}."
        for name, out, width in (
            ("self_attn.q_proj", query, hidden),
            ("self_attn.k_proj", key, hidden),
            ("self_attn.v_proj", key, hidden),
            ("self_attn.o_proj", hidden, query),
            ("mlp.gate_proj", feed_forward, hidden),
            ("mlp.up_proj", feed_forward, hidden),
            ("mlp.down_proj", hidden, feed_forward),
        ):
            tensors[f"{at}{name}.weight"] = _matrix(rng, out, width, 1.5 / width**0.5)
        for name, size in (
            ("self_attn.q_norm", head_dim),
            ("self_attn.k_norm", head_dim),
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
            ("pre_feedforward_layernorm", hidden),
            ("post_feedforward_layernorm", hidden),
        ):
            tensors[f"{at}{name}.weight"] = _matrix(rng, 1, size, 0.2)[0]
    tensors["model.norm.weight"] = _matrix(rng, 1, hidden, 0.2)[0]
    return _write(folder, config, tensors, tokenizer, SETTINGS_SPM, dtype)


def family(folder: Path, spec: tiny_families.Spec, *, dtype: str = "F32", **changes: Any) -> Path:
    """Write the model that a row of `tiny_families` describes."""
    hidden, feed_forward, heads = 64, 96, 4
    tokenizer, settings = _tokenizer(spec.pre)
    usual = {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": spec.heads_kv,
        "max_position_embeddings": 128,
        "tie_word_embeddings": spec.tied,
    }
    config = {
        "architectures": [spec.config["architectures"]],
        **({} if spec.plain else usual),
        "vocab_size": len(tokenizer["model"]["vocab"]) + 3,  # rows without a token
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **{key: value for key, value in spec.config.items() if key != "architectures"},
        **changes,
    }
    query, key = heads * spec.head_dim, spec.heads_kv * spec.head_dim
    sizes = {
        "hidden": hidden,
        "query": query,
        "key": key,
        "qkv": query + 2 * key,
        "head": spec.head_dim,
        "feed": feed_forward,
        "gate_up": 2 * feed_forward,
        "vocabulary": config["vocab_size"],
        **spec.sizes,
    }
    shapes = {spec.embed: "vocabulary hidden"}
    for layer in range(spec.layers):
        at = spec.blocks.format(layer)
        tensors_of = spec.layer(layer) if callable(spec.layer) else spec.layer
        shapes |= {at + name: shape for name, shape in tensors_of.items()}
    shapes |= spec.ends
    if not spec.tied:
        shapes[spec.head] = "vocabulary hidden"
    rng = np.random.default_rng(spec.seed)
    tensors: Tensors = {}
    scale = {spec.embed: spec.embedding, spec.head: spec.output}
    for pattern, words in shapes.items():
        shape = [int(word) if word.isdigit() else sizes[word] for word in words.split()]
        count = spec.experts if "{}" in pattern else 1
        for name in (pattern.format(number) for number in range(count)):
            if len(shape) > 1:
                inputs = (
                    shape[0] if spec.transposed and name.endswith(spec.transposed) else shape[-1]
                )
                width = scale.get(name, 1.5 / inputs**0.5)
                rows = int(np.prod(shape[:-1]))
                tensors[name] = _matrix(rng, rows, shape[-1], width).reshape(shape)
            elif name.endswith((".bias", ".beta")):
                tensors[name] = _matrix(rng, 1, shape[0], 0.3)[0]
            else:
                around = 0 if spec.plus_one else 1
                tensors[name] = around + _matrix(rng, 1, shape[0], 0.2)[0]
    _write(folder, config, tensors, tokenizer, settings, dtype)
    for name, content in spec.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def _tokenizer(pre: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give tokenizer.json and tokenizer_config.json by the name of a way to split."""
    if pre.startswith("spm"):
        return sentencepiece(prefix=pre == "spm-prefix"), SETTINGS_SPM
    if pre == "wordpiece":
        return wordpiece(), SETTINGS_BERT
    if pre == "t5":
        return unigram(), SETTINGS_T5
    if pre == "xlmr":
        return unigram("xlm-r"), SETTINGS_XLMR
    if pre == "roberta":
        return tiny_encoders.roberta_tokenizer(), tiny_encoders.SETTINGS_ROBERTA
    if pre == "modern-bert":
        return modern_bert_tokenizer(), SETTINGS_MODERN_BERT
    if pre == "smollm":
        return byte_level(SMOLLM), SETTINGS_BPE
    expression = {
        "qwen2": tiny_families.QWEN2_SPLIT,
        "llama-bpe": tiny_families.LLAMA3_SPLIT,
        "dbrx": tiny_families.LLAMA3_SPLIT,
    }[pre]
    split = {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }
    tokenizer = byte_level([split, BYTE_LEVEL | {"use_regex": False}])
    if pre == "llama-bpe":
        tokenizer["model"]["ignore_merges"] = True
    return tokenizer, SETTINGS_BPE


def _matrix(rng: np.random.Generator, rows: int, columns: int, scale: float) -> np.ndarray:
    # Multiples of 2^-12: exact in float16 and, but for the largest, in 1 + w.
    values = np.round(rng.standard_normal((rows, columns)) * scale * 4096) / 4096
    return values.astype(np.float16).astype(np.float32)


LLAMA3_ROPE = {
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}

YARN_ROPE = {
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 1.3,
    },
}

# name -> what writes that checkpoint into a folder; golden files go by these names.
MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": llama,
    "llama-tied-bias": lambda folder: llama(folder, tied=True, bias=True, seed=3),
    "llama-wide-heads": lambda folder: llama(folder, head_dim=32, seed=4),
    "llama-3-rope": lambda folder: llama(folder, rope=LLAMA3_ROPE, seed=5),
    "llama-linear-rope": lambda folder: llama(
        folder,
        rope={"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 20000.0},
        seed=6,
    ),
    "llama-yarn-rope": lambda folder: llama(folder, rope=YARN_ROPE, seed=10),
    "llama-rope-parameters": lambda folder: llama(
        folder, rope={"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, seed=7
    ),
    "llama-bpe": lambda folder: llama(
        folder, tokenizer=byte_level(SMOLLM), settings=SETTINGS_BPE, seed=8
    ),
    "mistral": lambda folder: llama(
        folder,
        architectures=["MistralForCausalLM"],
        model_type="mistral",
        sliding_window=None,
        seed=9,
    ),
    "gemma3": gemma3,
    **{
        spec.name: partial(family, spec=spec)
        for spec in (*tiny_families.FAMILIES, *tiny_dense.FAMILIES, *tiny_moe.FAMILIES)
    },
}

# Embedding models: what is compared is vectors, not logits.
ENCODERS: dict[str, Callable[[Path], Path]] = {
    spec.name: partial(family, spec=spec) for spec in tiny_encoders.ENCODERS
}
# Models of an encoder and a decoder.
TRANSLATORS: dict[str, Callable[[Path], Path]] = {
    spec.name: partial(family, spec=spec) for spec in tiny_encoders.TRANSLATORS
}
