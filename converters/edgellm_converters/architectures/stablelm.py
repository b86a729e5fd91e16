"""StableLM 2: layer norms with biases, a share of each head rotated, both halves at once or not.

StableLM 2 12B norms each head of queries and keys with weights of its own: a vector for each head,
which GGUF stacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import BOOL, Decoder, Keys, Sizes
from edgellm_converters.architectures.checks import no_scaling_in_mlx
from edgellm_converters.architectures.common import LAYER_NORM
from edgellm_converters.architectures.family import (
    EMBEDDING,
    GATED,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values

__all__ = ["STABLELM"]


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    return {"parallel": config.flag("use_parallel_residual", False)}


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    # llama.cpp goes by the norm, not by the key.
    return {"parallel": "blk.0.ffn_norm.weight" not in shapes}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"use_parallel_residual": decoder.parallel}


def _more_keys(decoder: Decoder) -> Keys:
    return {"use_parallel_residual": (BOOL, decoder.parallel)}


STABLELM = Family(
    name="stablelm",
    hf_names=("StableLmForCausalLM",),
    model_type="stablelm",
    ends=(EMBEDDING, Tensor("output_norm", "model.norm", "hidden", bias=True), HEAD),
    layer=(
        Tensor("attn_q", "self_attn.q_proj", "query hidden", bias="attention_bias"),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", bias="attention_bias"),
        Tensor("attn_v", "self_attn.v_proj", "key hidden", bias="attention_bias"),
        Tensor("attn_output", "self_attn.o_proj", "hidden query"),
        Tensor("attn_q_norm", "self_attn.q_layernorm.norms.{}", "heads head", when="head_norms"),
        Tensor("attn_k_norm", "self_attn.k_layernorm.norms.{}", "heads_kv head", when="head_norms"),
        *GATED,
        Tensor("attn_norm", "input_layernorm", "hidden", bias=True),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden", bias=True, when="!parallel"),
    ),
    settings=(
        Setting(
            "attention_bias",
            "use_qkv_bias",
            kind="flag",
            default=False,
            tensor="blk.0.attn_q.bias",
        ),
        Setting(
            "head_norms",
            "qk_layernorm",
            kind="flag",
            default=False,
            tensor="blk.0.attn_q_norm.weight",
        ),
    ),
    fixed={
        "hidden_act": ("silu",),
        "tie_word_embeddings": (False,),
    },
    written={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    norm=LAYER_NORM,
    partial=0.25,
    square=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    for_mlx=no_scaling_in_mlx,
    reads=("use_parallel_residual",),
    reads_stored=("use_parallel_residual",),
)
