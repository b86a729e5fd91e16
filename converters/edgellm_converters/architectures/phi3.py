"""Phi-3, Phi-3.5 and Phi-4: queries, keys and values in one matrix, gate and up in another.

Both stay together in GGUF. Long contexts have two lists of divisors for the rotary frequencies
(longrope), which GGUF holds as vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import F32, U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.checks import no_window_in_mlx, note_window
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.rope import attention_factor, original_context
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["PHI3"]

_ORIGINAL = "rope.scaling.original_context_length"


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    return {"original_context": original_context(config)}


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    known = _ORIGINAL in metadata
    return {"original_context": metadata.integer(_ORIGINAL) if known else 0}


def _more_config(decoder: Decoder) -> dict[str, object]:
    original = decoder.original_context
    return {"original_max_position_embeddings": original} if original else {}


def _more_keys(decoder: Decoder) -> Keys:
    keys: Keys = {}
    if decoder.original_context:
        keys[_ORIGINAL] = (U32, decoder.original_context)
    if decoder.scaling is not None:
        keys["rope.scaling.attn_factor"] = (F32, attention_factor(decoder.scaling))
    return keys


def _for_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:
    if decoder.scaling is not None:
        if decoder.scaling.attention_factor:
            raise UnsupportedError(
                f"mlx-lm computes the attention factor of longrope from the contexts, and cannot "
                f"be told {decoder.scaling.attention_factor:g}",
                hint="write GGUF: -o NAME.gguf",
            )
        notes.append(
            "mlx-lm takes longrope's divisors for long contexts at every length; texts of less "
            f"than {decoder.scaling.original_context} tokens come out otherwise than in "
            "transformers"
        )
    return no_window_in_mlx(decoder, notes)


PHI3 = Family(
    name="phi3",
    hf_names=("Phi3ForCausalLM",),
    model_type="phi3",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        Tensor("attn_qkv", "self_attn.qkv_proj", "qkv hidden"),
        Tensor("attn_output", "self_attn.o_proj", "hidden query"),
        Tensor("ffn_up", "mlp.gate_up_proj", "gate_up hidden"),
        Tensor("ffn_down", "mlp.down_proj", "hidden feed"),
        Tensor("attn_norm", "input_layernorm", "hidden"),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
    ),
    settings=(
        Setting(
            "sliding_window",
            "sliding_window",
            "attention.sliding_window",
            kind="integer",
            optional=True,
        ),
    ),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    written={"attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    norm=Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    partial=1.0,
    square=True,
    scalings=("longrope",),
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    for_mlx=_for_mlx,
    checks=(note_window,),
)
