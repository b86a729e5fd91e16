"""Llama and what shares its graph: LlamaForCausalLM, MistralForCausalLM.

Rotary attention with grouped heads, RMS norms before each half, a gated SiLU network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import Sizes, Transform
from edgellm_converters.architectures.checks import note_window
from edgellm_converters.architectures.family import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = [
    "ATTENTION",
    "BIASES",
    "LAYER",
    "LLAMA",
    "NORMS",
    "SETTINGS",
    "read_biases",
    "read_stored_biases",
]

ATTENTION = (
    Tensor("attn_q", "self_attn.q_proj", "query hidden", Transform.ROPE, bias="attention_bias"),
    Tensor("attn_k", "self_attn.k_proj", "key hidden", Transform.ROPE, bias="attention_bias"),
    Tensor("attn_v", "self_attn.v_proj", "key hidden", bias="attention_bias"),
    Tensor("attn_output", "self_attn.o_proj", "hidden query", bias="output_bias"),
)
NORMS = (
    Tensor("attn_norm", "input_layernorm", "hidden"),
    Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
)
LAYER = (
    *ATTENTION,
    Tensor("ffn_gate", "mlp.gate_proj", "feed hidden", bias="mlp_bias"),
    Tensor("ffn_up", "mlp.up_proj", "feed hidden", bias="mlp_bias"),
    Tensor("ffn_down", "mlp.down_proj", "hidden feed", bias="mlp_bias"),
    *NORMS,
)
BIASES = Setting(
    "attention_bias", "attention_bias", kind="flag", default=False, tensor="blk.0.attn_q.bias"
)
SETTINGS = (
    BIASES,
    Setting("mlp_bias", "mlp_bias", kind="flag", default=False, tensor="blk.0.ffn_gate.bias"),
)


def read_biases(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    """Hugging Face has one key for the biases of all four matrices of attention."""
    return {"output_bias": config.flag("attention_bias", False)}


def read_stored_biases(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read the bias of the attention's output off the tensors; check the size of the vocabulary."""
    bias = "blk.0.attn_output.bias" in shapes
    if bias != ("blk.0.attn_q.bias" in shapes):
        raise UnsupportedError(
            f"{metadata.path}: biases on some attention matrices alone have no Hugging Face "
            "Llama form"
        )
    rows = shapes["token_embd.weight"][0]
    if metadata.integer("vocab_size", rows) != rows:
        raise ConfigError(
            f"{metadata.path}: {metadata.prefix}vocab_size is {metadata.raw('vocab_size')}, but "
            f"token_embd.weight has {rows} rows"
        )
    return {"output_bias": bias}


LLAMA = Family(
    name="llama",
    hf_names=("LlamaForCausalLM", "MistralForCausalLM"),
    model_type="llama",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=LAYER,
    settings=SETTINGS,
    fixed={"hidden_act": ("silu",)},
    written={"attention_dropout": 0.0},
    scalings=("linear", "yarn", "llama3"),
    names_rope=True,
    read=read_biases,
    read_stored=read_stored_biases,
    checks=(note_window,),
    # llama.cpp's Llama has no window, whatever the file says.
    reads_stored=("attention.sliding_window",),
)
