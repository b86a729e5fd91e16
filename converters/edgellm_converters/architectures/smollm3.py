"""SmolLM3: Llama without biases, in which each fourth layer does not rotate queries and keys."""

from __future__ import annotations

from typing import Any

from edgellm_converters.architectures.base import Decoder, Sizes, Transform
from edgellm_converters.architectures.checks import refuse_window
from edgellm_converters.architectures.family import (
    EMBEDDING,
    FINAL_NORM,
    GATED,
    HEAD,
    Family,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["SMOLLM3"]

STEP = 4  # has no key in GGUF


def _rotates(layers: int, step: int = STEP) -> list[int]:
    return [int((layer + 1) % step != 0) for layer in range(layers)]


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    listed = config.raw("no_rope_layers")
    if listed is None:
        listed = _rotates(sizes.layers, config.integer("no_rope_layer_interval", STEP))
    if listed != _rotates(sizes.layers):
        raise UnsupportedError(
            f"{config.path}: no_rope_layers or no_rope_layer_interval asks for other layers than "
            f"each {STEP}th, and llama.cpp cannot be told"
        )
    return {}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"no_rope_layers": _rotates(decoder.layers), "no_rope_layer_interval": STEP}


SMOLLM3 = Family(
    name="smollm3",
    hf_names=("SmolLM3ForCausalLM",),
    model_type="smollm3",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        # Rows are reordered in layers without rotation too: products of both stay the same.
        Tensor("attn_q", "self_attn.q_proj", "query hidden", Transform.ROPE),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", Transform.ROPE),
        Tensor("attn_v", "self_attn.v_proj", "key hidden"),
        Tensor("attn_output", "self_attn.o_proj", "hidden query"),
        *GATED,
        Tensor("attn_norm", "input_layernorm", "hidden"),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
    ),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    written={"use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0},
    theta=2_000_000.0,
    tied=True,
    names_rope=True,
    read=_read,
    more_config=_more_config,
    checks=(refuse_window,),
    reads=("layer_types", "no_rope_layers", "no_rope_layer_interval"),
)
