"""Families with experts: what tells them apart, what has no place, and how tensors are cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from edgellm_converters.architectures import Architecture, by_gguf_name, by_hf_name
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import ConfigError, ConvertersError, UnsupportedError
from edgellm_converters.jsonfile import read_object
from edgellm_converters.pipeline import convert

HERE = Path("config.json")
MIXED = [name for name in tiny.MODELS if name in {spec.name for spec in tiny.tiny_moe.FAMILIES}]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """config.json of each tiny model with experts or convolutions."""
    folder = tmp_path_factory.mktemp("configs")
    return {
        name: dict(read_object(tiny.MODELS[name](folder / name) / "config.json")) for name in MIXED
    }


def family(config: dict[str, Any]) -> Architecture:
    return by_hf_name(HERE, config["architectures"][0])


def stored(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Metadata of a file without a prefix's reader, and the shapes of its tensors."""
    architecture = family(config)
    decoder = architecture.from_config(Values(HERE, config), [])
    keys = {key: value for key, (_, value) in architecture.metadata(decoder).items()}
    return keys, {rule.gguf.name: rule.gguf.shape for rule in architecture.rules(decoder)}


def test_metadata_tells_families_of_one_name_apart(configs: dict[str, dict[str, Any]]) -> None:
    for name, config in configs.items():
        keys, _ = stored(config)
        architecture = family(config)
        assert by_gguf_name(HERE, architecture.name, keys) is architecture, name
    assert by_gguf_name(HERE, "llama").hf_names[0] == "LlamaForCausalLM"
    assert by_gguf_name(HERE, "llama", {"llama.expert_count": 0}).model_type == "llama"
    assert by_gguf_name(HERE, "llama", {"llama.expert_count": 8}).model_type == "mixtral"
    assert by_gguf_name(HERE, "deepseek2").model_type == "deepseek_v2"
    with pytest.raises(ConfigError, match="expert_count"):
        by_gguf_name(HERE, "llama", {"llama.expert_count": "8"})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixtral", {"attention_bias": True}),
        ("mixtral", {"hidden_act": "gelu"}),
        ("mixtral", {"num_local_experts": 1025}),
        ("mixtral", {"num_experts_per_tok": 5}),
        ("mixtral", {"num_experts_per_tok": 0}),
        ("qwen2-moe", {"norm_topk_prob": True}),
        ("qwen2-moe", {"decoder_sparse_step": 2}),
        ("qwen2-moe", {"mlp_only_layers": [0]}),
        ("qwen2-moe", {"qkv_bias": False}),
        ("qwen2-moe", {"tie_word_embeddings": True}),
        ("qwen2-moe", {"use_sliding_window": True}),
        ("qwen2-moe", {"head_dim": 32}),
        ("qwen3-moe", {"norm_topk_prob": False}),
        ("qwen3-moe", {"norm_topk_prob": None}),
        ("qwen3-moe", {"mlp_only_layers": [1]}),
        ("olmoe", {"norm_topk_prob": True}),
        ("olmoe", {"clip_qkv": 8.0}),
        ("olmoe", {"num_key_value_heads": 2}),
        ("granite-moe", {"hidden_act": "gelu"}),
        ("granite-moe-shared", {"shared_intermediate_size": 0}),
        ("deepseek-v2", {"topk_method": "group_limited_greedy"}),
        ("deepseek-v2", {"n_group": 2}),
        ("deepseek-v2", {"norm_topk_prob": True}),
        ("deepseek-v2", {"scoring_func": "sigmoid"}),
        ("deepseek-v2", {"moe_layer_freq": 2}),
        ("deepseek-v2", {"attention_bias": True}),
        ("deepseek-v2", {"rms_norm_eps": 1e-5}),
        ("deepseek-v2", {"num_key_value_heads": 2}),
        ("deepseek-v2", {"q_lora_rank": None}),
        ("deepseek-v2", {"num_hidden_layers": 27}),
        ("deepseek-v2-lite", {"num_hidden_layers": 12}),
        ("deepseek-v2-lite", {"rope_scaling": {"type": "yarn", "factor": 8.0}}),
        (
            "deepseek-v2-lite",
            {"rope_scaling": tiny.tiny_moe.LATENT_YARN | {"mscale": 1.0}},
        ),
        (
            "deepseek-v2-lite",
            {"rope_scaling": tiny.tiny_moe.LATENT_YARN | {"attention_factor": 1.0}},
        ),
        ("deepseek-v3", {"rope_interleave": False}),
        ("deepseek-v3", {"scoring_func": "softmax"}),
        ("deepseek-v3", {"topk_group": 4}),
        ("deepseek-v3", {"n_group": 3}),
        ("deepseek-v3", {"n_group": 8}),
        ("lfm2", {"conv_bias": True}),
        ("lfm2", {"layer_types": ["conv", "conv", "sliding_attention", "conv"]}),
        ("lfm2", {"layer_types": ["conv"]}),
        ("lfm2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("lfm2", {"head_dim": 32}),
        ("lfm2-moe", {"use_expert_bias": False}),
        ("lfm2-moe", {"norm_topk_prob": False}),
        ("lfm2-moe", {"routed_scaling_factor": 2.0}),
    ],
)
def test_what_changes_the_model_and_has_no_place_is_refused(
    name: str, changes: dict[str, Any], configs: dict[str, dict[str, Any]]
) -> None:
    """Most of these run in transformers, and would be another model in llama.cpp."""
    architecture = family(configs[name])
    architecture.from_config(Values(HERE, configs[name]), [])
    with pytest.raises((ConfigError, UnsupportedError), match=r"^config\.json: "):
        architecture.from_config(Values(HERE, configs[name] | changes), [])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixtral", {"expert_count": 1 << 31}),
        ("mixtral", {"expert_count": 1025}),
        ("mixtral", {"expert_used_count": 5}),
        ("mixtral", {"expert_weights_scale": 2.0}),
        ("qwen3-moe", {"expert_gating_func": 2}),
        ("deepseek-v2", {"expert_gating_func": 3}),
        ("deepseek-v2", {"expert_weights_norm": True}),
        ("deepseek-v2", {"expert_group_count": 4, "expert_group_used_count": 2}),
        ("deepseek-v2", {"attention.head_count_kv": 4}),
        ("deepseek-v2", {"attention.key_length": 40}),
        ("deepseek-v2", {"attention.key_length_mla": 8}),
        ("deepseek-v2", {"attention.head_count": 1 << 30}),
        ("deepseek-v2-lite", {"rope.scaling.attn_factor": 1.5}),
        ("lfm2", {"attention.head_count_kv": [0, 0, 0, 0]}),
        ("lfm2", {"attention.head_count_kv": [0, 0, 2]}),
        ("lfm2", {"attention.head_count_kv": [0, 2, 4, 0]}),
        ("lfm2", {"attention.head_count_kv": [0, 0, 2.0, 0]}),
        ("lfm2", {"attention.sliding_window": 8}),
        ("lfm2-moe", {"expert_gating_func": 1}),
    ],
)
def test_metadata_without_a_place_is_refused(
    name: str, changes: dict[str, Any], configs: dict[str, dict[str, Any]]
) -> None:
    keys, shapes = stored(configs[name])
    architecture = family(configs[name])
    at = f"{architecture.name}."
    architecture.from_metadata(Values(HERE, keys).under(at), shapes)
    keys |= {at + key: value for key, value in changes.items()}
    with pytest.raises((ConfigError, UnsupportedError)):
        architecture.from_metadata(Values(HERE, keys).under(at), shapes)


def test_keys_and_values_of_latent_attention_are_cut_head_by_head(tmp_path: Path) -> None:
    """As DeepSeek's paper has it: the rows of a head make its keys first, then its values."""
    folder = tiny.MODELS["deepseek-v2"](tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    pairs = tiny.read_safetensors(folder)["model.layers.1.self_attn.kv_b_proj.weight"]
    heads = pairs.reshape(4, 12 + 16, 24)
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        keys = file.raw("blk.1.attn_k_b.weight").view(np.float32).reshape(4, 24, 12)
        values = file.raw("blk.1.attn_v_b.weight").view(np.float32).reshape(4, 16, 24)
    assert np.array_equal(keys, heads[:, :12].swapaxes(1, 2))
    assert np.array_equal(values, heads[:, 12:])


def test_experts_of_granite_are_cut_into_gate_and_upper_matrix(tmp_path: Path) -> None:
    folder = tiny.MODELS["granite-moe"](tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    both = tiny.read_safetensors(folder)["model.layers.0.block_sparse_moe.input_linear.weight"]
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        gate = file.raw("blk.0.ffn_gate_exps.weight").view(np.float32).reshape(4, 96, 64)
        up = file.raw("blk.0.ffn_up_exps.weight").view(np.float32).reshape(4, 96, 64)
    assert np.array_equal(np.concatenate([gate, up], axis=1), both)


@pytest.mark.parametrize("name", ["mixtral", "granite-moe", "deepseek-v3"])
def test_an_expert_that_is_missing_or_misshapen_is_named(name: str, tmp_path: Path) -> None:
    folder = tiny.MODELS[name](tmp_path / "hf")
    tensors = tiny.read_safetensors(folder)
    last = next(key for key in reversed(tensors) if "experts" in key or "output_linear" in key)
    for change in (None, tensors[last][..., :-1]):
        rest = {key: value for key, value in tensors.items() if key != last}
        changed = rest if change is None else rest | {last: np.ascontiguousarray(change)}
        tiny.write_safetensors(folder / "model.safetensors", changed)
        with pytest.raises(ConvertersError, match=last.replace(".", r"\.")):
            convert(folder, tmp_path / "x.gguf")


def test_the_inner_size_of_lfm2_is_adjusted_as_the_file_asks() -> None:
    config = {
        "architectures": ["Lfm2ForCausalLM"],
        "hidden_size": 1024,
        "num_hidden_layers": 3,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 300,
        "max_position_embeddings": 128,
        "full_attn_idxs": [1],
        "block_ff_dim": 6656,
        "block_multiple_of": 256,
    }
    architecture = family(config)
    decoder = architecture.from_config(Values(HERE, config), [])
    assert (decoder.feed_forward, decoder.attention_layers) == (4608, (1,))  # LFM2-350M's
    assert architecture.config(decoder)["block_auto_adjust_ff_dim"] is False
    plain = config | {"block_auto_adjust_ff_dim": False}
    again = architecture.from_config(Values(HERE, plain), [])
    assert again == replace(decoder, feed_forward=6656)
