"""Models whose classes are not in transformers, as the Llama that computes the same.

Weights that are one matrix there are cut apart, and factors on the way are multiplied into weights,
by plain numpy: from the published modelling files, not from the code under test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tiny

Config = dict[str, Any]


def as_llama(folder: Path, target: Path) -> Path | None:
    """Write the Llama of a folder into another; None if transformers has the folder's class."""
    config = json.loads((folder / "config.json").read_text())
    change = _CHANGES.get(config["architectures"][0])
    if change is None:
        return None
    tensors = tiny.read_safetensors(folder)
    usual = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    tensors = change(config, tensors)
    (target / "config.json").write_text(json.dumps(config | usual))
    tiny.write_safetensors(target / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, target)
    return target


def with_usual_keys(folder: Path, target: Path) -> Path:
    """Copy a Nomic-BERT with the keys that transformers reads; give other folders as they are.

    transformers knows the published tensors by name, but not the keys of config.json.
    """
    config = json.loads((folder / "config.json").read_text())
    if config["architectures"] != ["NomicBertModel"] or "hidden_size" in config:
        return folder
    shutil.copytree(folder, target, dirs_exist_ok=True)
    usual = {
        "hidden_size": config["n_embd"],
        "intermediate_size": config["n_inner"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "layer_norm_eps": config["layer_norm_epsilon"],
        "max_position_embeddings": config["max_trained_positions"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rotary_emb_base"]},
    }
    (target / "config.json").write_text(json.dumps(config | usual))
    return target


def _internlm2(config: Config, tensors: tiny.Tensors) -> tiny.Tensors:
    """Each group of the one matrix has its queries, then a key, then a value."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    groups = config["num_key_value_heads"]
    config["rope_scaling"] = None  # a dynamic one begins beyond max_position_embeddings
    names = {
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "tok_embeddings": "embed_tokens",
    }
    found = {}
    for name, array in tensors.items():
        if "wqkv" in name:
            # (groups, queries of a group + 2, size of a head, hidden)
            cut = array.reshape(groups, heads // groups + 2, hidden // heads, hidden)
            for letter, part in (("q", cut[:, :-2]), ("k", cut[:, -2]), ("v", cut[:, -1])):
                key = name.replace("attention.wqkv", f"self_attn.{letter}_proj")
                found[key] = part.reshape(-1, hidden)
            continue
        for old, new in names.items():
            name = name.replace(f".{old}.", f".{new}.")
        found["lm_head.weight" if name == "output.weight" else name] = array
    return found


def _minicpm(config: Config, tensors: tiny.Tensors) -> tiny.Tensors:
    """The embedding, what is added by each half, and what the head sees are multiplied."""
    embedding = tensors["model.embed_tokens.weight"]
    half = np.float32(config["scale_depth"] / config["num_hidden_layers"] ** 0.5)
    before_head = np.float32(config["dim_model_base"] / config["hidden_size"])
    found = {
        name: array * half if name.endswith(("o_proj.weight", "down_proj.weight")) else array
        for name, array in tensors.items()
    }
    found["model.embed_tokens.weight"] = embedding * np.float32(config["scale_emb"])
    found["lm_head.weight"] = tensors.get("lm_head.weight", embedding) * before_head
    config["tie_word_embeddings"] = False
    return found


def _exaone(config: Config, tensors: tiny.Tensors) -> tiny.Tensors:
    """EXAONE 3 is Llama by other names."""
    config["num_hidden_layers"] = config.pop("num_layers")
    config["rms_norm_eps"] = config.pop("layer_norm_epsilon")
    config["hidden_act"] = config.pop("activation_function")
    names = {
        "transformer.wte.": "model.embed_tokens.",
        "transformer.ln_f.": "model.norm.",
        "transformer.h.": "model.layers.",
        ".ln_1.": ".input_layernorm.",
        ".ln_2.": ".post_attention_layernorm.",
        ".attn.attention.out_proj.": ".self_attn.o_proj.",
        ".attn.attention.": ".self_attn.",
        ".c_fc_0.": ".gate_proj.",
        ".c_fc_1.": ".up_proj.",
        ".c_proj.": ".down_proj.",
    }
    found = {}
    for name, array in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = array
    return found


_CHANGES: dict[str, Callable[[Config, tiny.Tensors], tiny.Tensors]] = {
    "InternLM2ForCausalLM": _internlm2,
    "MiniCPMForCausalLM": _minicpm,
    "ExaoneForCausalLM": _exaone,
}
