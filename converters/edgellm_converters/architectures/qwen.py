"""Qwen without experts: Qwen2 (Qwen1.5 and Qwen2.5 too) and Qwen3.

The graph of Llama, but for rotary halves that stay apart: rows are not reordered. Qwen2 has biases
on queries, keys and values alone, Qwen3 has none and norms each head of queries and keys.
"""

from __future__ import annotations

from edgellm_converters.architectures.checks import refuse_window
from edgellm_converters.architectures.family import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    GATED,
    HEAD,
    Family,
    Tensor,
)

__all__ = ["QWEN2", "QWEN3"]

_NORMS = (
    Tensor("attn_norm", "input_layernorm", "hidden"),
    Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
)

QWEN2 = Family(
    name="qwen2",
    hf_names=("Qwen2ForCausalLM",),
    model_type="qwen2",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        Tensor("attn_q", "self_attn.q_proj", "query hidden", bias=True),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", bias=True),
        Tensor("attn_v", "self_attn.v_proj", "key hidden", bias=True),
        Tensor("attn_output", "self_attn.o_proj", "hidden query"),
        *GATED,
        *_NORMS,
    ),
    fixed={"hidden_act": ("silu",)},
    written={"use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0},
    square=True,
    checks=(refuse_window,),
    reads=("layer_types",),
)

QWEN3 = Family(
    name="qwen3",
    hf_names=("Qwen3ForCausalLM",),
    model_type="qwen3",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("attn_q_norm", "self_attn.q_norm", "head"),
        Tensor("attn_k_norm", "self_attn.k_norm", "head"),
        *GATED,
        *_NORMS,
    ),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    written={"use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0},
    head_dim=128,
    names_head_dim=True,
    checks=(refuse_window,),
    reads=("layer_types",),
)
