"""EmbeddingGemma: Gemma 3 whose tokens see those after them, with dense layers after pooling.

The window is around every token. Its size is that of config.json, which transformers halves while
it reads it, as llama.cpp does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgellm_converters.architectures.base import Decoder, Sizes, Transform
from edgellm_converters.architectures.checks import local_theta, period
from edgellm_converters.architectures.family import Tensor
from edgellm_converters.architectures.gemma3 import (
    GEMMA3,
    LOCAL_THETA,
    PATTERN,
    QUERY_SCALAR,
    WINDOWS,
    layer_types,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["GEMMA_EMBEDDING"]


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    if not config.flag("use_bidirectional_attention", False):
        raise UnsupportedError(
            f"{config.path}: use_bidirectional_attention is not true, but Gemma3TextModel in GGUF "
            "sees the tokens after each one too"
        )
    scale = config.number("query_pre_attn_scalar", QUERY_SCALAR)
    if scale != sizes.head_dim:
        raise UnsupportedError(
            f"{config.path}: query_pre_attn_scalar is {scale:g}; llama.cpp takes the head size, "
            f"{sizes.head_dim}"
        )
    return {
        "rope_theta_local": local_theta(config, "rope_local_base_freq", LOCAL_THETA),
        "sliding_pattern": period(config, sizes.layers, PATTERN),
    }


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {
        "query_pre_attn_scalar": decoder.head_dim,
        "sliding_window_pattern": decoder.sliding_pattern,
        "layer_types": layer_types(decoder),
    }


GEMMA_EMBEDDING = replace(
    GEMMA3,
    name="gemma-embedding",
    hf_names=("Gemma3TextModel",),
    blocks="layers.{}.",
    ends=(
        Tensor("token_embd", "embed_tokens", "vocabulary hidden"),
        Tensor("output_norm", "norm", "hidden", Transform.PLUS_ONE),
    ),
    after=(
        Tensor("dense_2", "2_Dense/linear", "dense hidden", when="dense"),
        Tensor("dense_3", "3_Dense/linear", "hidden dense", when="dense"),
    ),
    settings=WINDOWS,
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "use_bidirectional_attention": (True,),
    },
    in_mlx=False,
    pools=True,
    densifies=True,
    # llama.cpp has no causal mask here, whatever this one says.
    reads_stored=("attention.sliding_window_pattern", "attention.causal"),
    read=_read,
    more_config=_more_config,
)
