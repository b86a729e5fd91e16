"""MiniCPM: Llama with its embedding, each half and the logits multiplied.

config.json says how by the number of layers, and by the width of the model that the settings of
training were found on; GGUF has the factors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgellm_converters.architectures.base import F32, Decoder, Keys, Sizes
from edgellm_converters.architectures.common import shortest
from edgellm_converters.architectures.family import EMBEDDING, FINAL_NORM, HEAD, Family
from edgellm_converters.architectures.llama import LAYER
from edgellm_converters.architectures.values import Values

__all__ = ["MINICPM"]

# mlx-lm always has a head, which is a second embedding where both are one.
HEAD_OF_MLX = replace(EMBEDDING, mlx="lm_head", when="tied")
SCALES = ("embedding_scale", "residual_scale", "logit_scale")


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    return {
        "embedding_scale": config.number("scale_emb", 1.0),
        "residual_scale": shortest(config.number("scale_depth", 1.0) / math.sqrt(sizes.layers)),
        "logit_scale": shortest(sizes.hidden / config.number("dim_model_base", 1.0)),
    }


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    return {key: shortest(metadata.number(key)) for key in SCALES}


def _more_config(decoder: Decoder) -> dict[str, object]:
    depth, width = math.sqrt(decoder.layers), decoder.hidden
    return {
        "scale_emb": decoder.embedding_scale,
        "scale_depth": _plainest(decoder.residual_scale * depth, lambda x: x / depth),
        "dim_model_base": _plainest(width / decoder.logit_scale, lambda x: width / x),
    }


def _plainest(value: float, back: Callable[[float], float]) -> float:
    """Round as far as the factor in float32 that `back` makes of it stays the same."""
    wanted = np.float32(back(value))
    for digits in range(16):
        rounded = round(value, digits)
        if rounded > 0 and np.float32(back(rounded)) == wanted:
            return int(rounded) if rounded == int(rounded) else rounded
    return value


def _more_keys(decoder: Decoder) -> Keys:
    return {key: (F32, getattr(decoder, key)) for key in SCALES}


def _for_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:  # noqa: ARG001
    # Were it true, mlx-lm would leave the logits without their factor.
    return {"tie_word_embeddings": None} if decoder.tied else {}


MINICPM = Family(
    name="minicpm",
    hf_names=("MiniCPMForCausalLM",),
    model_type="minicpm",
    ends=(EMBEDDING, FINAL_NORM, HEAD, HEAD_OF_MLX),
    for_mlx=_for_mlx,
    layer=LAYER,
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    scalings=("linear",),
    square=True,
    tied=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    reads=("scale_emb", "scale_depth", "dim_model_base"),
    reads_stored=SCALES,
)
