"""OLMo 1: Llama with layer norms that have no weights, its queries, keys and values clipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import Transform
from edgellm_converters.architectures.common import LAYER_NORM, shortest
from edgellm_converters.architectures.family import (
    EMBEDDING,
    GATED,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["OLMO"]

EPSILON = LAYER_NORM.epsilon  # transformers has no key for it


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    if shortest(metadata.number(LAYER_NORM.gguf)) != EPSILON:
        raise UnsupportedError(
            f"{metadata.path}: {metadata.prefix}{LAYER_NORM.gguf} is "
            f"{metadata.raw(LAYER_NORM.gguf)!r:.60}, but OLMo has {EPSILON} in transformers"
        )
    return {}


OLMO = Family(
    name="olmo",
    hf_names=("OlmoForCausalLM",),
    model_type="olmo",
    in_mlx=False,  # mlx-lm knows the layout before transformers had the class
    ends=(EMBEDDING, HEAD),
    layer=(
        Tensor("attn_q", "self_attn.q_proj", "query hidden", Transform.ROPE),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", Transform.ROPE),
        Tensor("attn_v", "self_attn.v_proj", "key hidden"),
        Tensor("attn_output", "self_attn.o_proj", "hidden query"),
        *GATED,
    ),
    settings=(Setting("clip_qkv", "clip_qkv", "attention.clamp_kqv", optional=True),),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,), LAYER_NORM.config: (EPSILON,)},
    written={"attention_dropout": 0.0},
    norm=LAYER_NORM,
    square=True,
    read_stored=_read_stored,
)
