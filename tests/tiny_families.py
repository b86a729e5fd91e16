"""Tiny checkpoints of further families as data: what `tiny.family` writes.

Names, shapes and configurations are those that transformers gives these classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

ATTENTION = {
    "self_attn.q_proj.weight": "query hidden",
    "self_attn.k_proj.weight": "key hidden",
    "self_attn.v_proj.weight": "key hidden",
    "self_attn.o_proj.weight": "hidden query",
}
QKV_BIAS = {
    "self_attn.q_proj.bias": "query",
    "self_attn.k_proj.bias": "key",
    "self_attn.v_proj.bias": "key",
}
GATED = {
    "mlp.gate_proj.weight": "feed hidden",
    "mlp.up_proj.weight": "feed hidden",
    "mlp.down_proj.weight": "hidden feed",
}
NORMS = {"input_layernorm.weight": "hidden", "post_attention_layernorm.weight": "hidden"}
HEAD_NORMS = {"self_attn.q_norm.weight": "head", "self_attn.k_norm.weight": "head"}


@dataclass(frozen=True)
class Spec:
    """A tiny model. `layer` and `ends` are tensors with their shapes as names of sizes, or figures.

    Norms are around 1, or around 0 where the family adds the 1 itself (`plus_one`). `pre` is the
    tokenizer: "spm", "spm-prefix" or the name of a split of byte-level BPE. A name with "{}" stands
    for as many tensors as there are `experts`. `layer` may be a function of the layer's number.
    `plain` tells that `config` holds all keys, because the family has names of its own for them;
    `sizes` are further names of sizes. Names that end in one of `transposed` are of matrices whose
    rows are inputs. `files` are JSON files beside the usual ones. `left_out` are tensors that a
    conversion leaves out, and `blank` those of which it blanks so many first rows; `now` gives the
    name that a tensor has after it. `gguf` is the name of its architecture there, `gated` whether
    its network has a gate.
    """

    name: str
    config: dict[str, Any]
    layer: dict[str, str] | Callable[[int], dict[str, str]]
    seed: int
    blocks: str = "model.layers.{}."
    embed: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"
    plain: bool = False
    experts: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    ends: dict[str, str] = field(default_factory=lambda: {"model.norm.weight": "hidden"})
    pre: str = "qwen2"
    tied: bool = False
    layers: int = 2
    head_dim: int = 16
    heads_kv: int = 2
    plus_one: bool = False
    embedding: float = 1.0
    output: float = 0.5
    files: dict[str, object] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    blank: dict[str, int] = field(default_factory=dict)
    now: Callable[[str], str] = str
    gguf: str = ""
    gated: bool = False


NORM_BIAS = {"input_layernorm.bias": "hidden", "post_attention_layernorm.bias": "hidden"}
LAYER_NORM = {"model.norm.weight": "hidden", "model.norm.bias": "hidden"}
FUSED = {
    "self_attn.qkv_proj.weight": "qkv hidden",
    "self_attn.o_proj.weight": "hidden query",
    "mlp.gate_up_proj.weight": "gate_up hidden",
    "mlp.down_proj.weight": "hidden feed",
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.25, 1.5, 1.75],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.5],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

FAMILIES = (
    Spec(
        "qwen2",
        {
            "architectures": "Qwen2ForCausalLM",
            "model_type": "qwen2",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "use_sliding_window": False,
            "sliding_window": 32,
        },
        ATTENTION | QKV_BIAS | GATED | NORMS,
        seed=20,
    ),
    Spec(
        "qwen2-tied-yarn",
        {
            "architectures": "Qwen2ForCausalLM",
            "model_type": "qwen2",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "rope_scaling": YARN,
        },
        ATTENTION | QKV_BIAS | GATED | NORMS,
        seed=21,
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "qwen3",
        {
            "architectures": "Qwen3ForCausalLM",
            "model_type": "qwen3",
            "head_dim": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "attention_bias": False,
        },
        ATTENTION | HEAD_NORMS | GATED | NORMS,
        seed=22,
        head_dim=32,
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "gemma",
        {
            "architectures": "GemmaForCausalLM",
            "model_type": "gemma",
            "hidden_act": "gelu",
            "hidden_activation": None,
            "head_dim": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
        },
        ATTENTION | GATED | NORMS,
        seed=23,
        pre="spm",
        tied=True,
        head_dim=32,
        heads_kv=1,
        plus_one=True,
        embedding=0.05,
    ),
    Spec(
        "gemma2",
        {
            "architectures": "Gemma2ForCausalLM",
            "model_type": "gemma2",
            "hidden_activation": "gelu_pytorch_tanh",
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            # Low caps and a short window, so that leaving them out would show.
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
            "sliding_window": 8,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
        },
        ATTENTION
        | GATED
        | NORMS
        | {
            "pre_feedforward_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
        seed=34,
        pre="spm",
        tied=True,
        layers=3,
        head_dim=32,
        plus_one=True,
        embedding=0.02,
    ),
    Spec(
        "phi3",
        {
            "architectures": "Phi3ForCausalLM",
            "model_type": "phi3",
            "hidden_act": "silu",
            "original_max_position_embeddings": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "rope_scaling": None,
            "sliding_window": 2047,
        },
        FUSED | NORMS,
        seed=25,
        pre="spm-prefix",
    ),
    # Three quarters of a head of 16 are rotated: six frequencies. llama.cpp takes the list for long
    # contexts where its own context is longer than the trained one, transformers where the text is.
    Spec(
        "phi3-longrope-short",
        {
            "architectures": "Phi3ForCausalLM",
            "model_type": "phi3",
            "partial_rotary_factor": 0.75,
            "max_position_embeddings": 2048,
            "original_max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "rope_scaling": LONGROPE,
            "sliding_window": None,
        },
        FUSED | NORMS,
        seed=26,
        pre="spm-prefix",
    ),
    Spec(
        "phi3-longrope-long",
        {
            "architectures": "Phi3ForCausalLM",
            "model_type": "phi3",
            "partial_rotary_factor": 0.75,
            "max_position_embeddings": 512,
            "original_max_position_embeddings": 4,
            "rms_norm_eps": 1e-5,
            "rope_parameters": LONGROPE | {"rope_theta": 1e4, "attention_factor": 1.125},
            "sliding_window": None,
        },
        FUSED | NORMS,
        seed=27,
        pre="spm-prefix",
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "phi3-longrope-plain",
        {
            "architectures": "Phi3ForCausalLM",
            "model_type": "phi3",
            "partial_rotary_factor": 0.75,
            "max_position_embeddings": 128,
            "original_max_position_embeddings": 8,
            "rms_norm_eps": 1e-5,
            "rope_parameters": LONGROPE | {"rope_theta": 1e4},
            "sliding_window": None,
        },
        FUSED | NORMS,
        seed=36,
        pre="spm-prefix",
    ),
    # Five layers, so that one does not rotate and one after it does.
    Spec(
        "smollm3",
        {
            "architectures": "SmolLM3ForCausalLM",
            "model_type": "smollm3",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "no_rope_layers": [1, 1, 1, 0, 1],
            "no_rope_layer_interval": 4,
            "use_sliding_window": False,
            "layer_types": ["full_attention"] * 5,
        },
        ATTENTION | GATED | NORMS,
        seed=28,
        pre="llama-bpe",
        tied=True,
        layers=5,
        embedding=0.1,
    ),
    Spec(
        "olmo2",
        {
            "architectures": "Olmo2ForCausalLM",
            "model_type": "olmo2",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e5,
            "attention_bias": False,
        },
        ATTENTION
        | GATED
        | {
            "self_attn.q_norm.weight": "query",
            "self_attn.k_norm.weight": "key",
            "post_attention_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
        seed=29,
        pre="dbrx",
    ),
    Spec(
        "granite",
        {
            "architectures": "GraniteForCausalLM",
            "model_type": "granite",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0625,
            "logits_scaling": 8.0,
            "attention_bias": True,
            "mlp_bias": True,
        },
        ATTENTION
        | QKV_BIAS
        | {"self_attn.o_proj.bias": "hidden"}
        | GATED
        | {
            "mlp.gate_proj.bias": "feed",
            "mlp.up_proj.bias": "feed",
            "mlp.down_proj.bias": "hidden",
        }
        | NORMS,
        seed=30,
        pre="smollm",
        embedding=0.05,
    ),
    Spec(
        "stablelm",
        {
            "architectures": "StableLmForCausalLM",
            "model_type": "stablelm",
            "hidden_act": "silu",
            "layer_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.25,
            "use_qkv_bias": True,
            "qk_layernorm": False,
            "use_parallel_residual": False,
        },
        ATTENTION | QKV_BIAS | GATED | NORMS | NORM_BIAS,
        seed=31,
        ends=LAYER_NORM,
    ),
    Spec(
        "stablelm-parallel",
        {
            "architectures": "StableLmForCausalLM",
            "model_type": "stablelm",
            "layer_norm_eps": 1e-5,
            "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "use_parallel_residual": True,
        },
        ATTENTION | GATED | {"input_layernorm.weight": "hidden", "input_layernorm.bias": "hidden"},
        seed=32,
        ends=LAYER_NORM,
        pre="dbrx",
    ),
    Spec(
        "starcoder2",
        {
            "architectures": "Starcoder2ForCausalLM",
            "model_type": "starcoder2",
            "hidden_act": "gelu_pytorch_tanh",
            "norm_epsilon": 1e-5,
            "rope_theta": 1e5,
            "use_bias": True,
            "sliding_window": None,
        },
        ATTENTION
        | QKV_BIAS
        | {"self_attn.o_proj.bias": "hidden"}
        | {
            "mlp.c_fc.weight": "feed hidden",
            "mlp.c_fc.bias": "feed",
            "mlp.c_proj.weight": "hidden feed",
            "mlp.c_proj.bias": "hidden",
        }
        | NORMS
        | NORM_BIAS,
        seed=33,
        ends=LAYER_NORM,
        pre="smollm",
    ),
    Spec(
        "ernie4_5",
        {
            "architectures": "Ernie4_5ForCausalLM",
            "model_type": "ernie4_5",
            "hidden_act": "silu",
            "head_dim": 32,
            "rms_norm_eps": 1e-5,
            "rope_theta": 5e5,
            "use_bias": False,
        },
        ATTENTION | GATED | NORMS,
        seed=37,
        pre="spm-prefix",
        head_dim=32,
    ),
)
