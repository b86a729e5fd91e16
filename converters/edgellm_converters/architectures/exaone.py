"""EXAONE 3 and 4. 3 is Llama by names of its own, its rotary layout that of Hugging Face.

EXAONE 4 norms each head of queries and keys, and has a norm after each half instead of before.
The one with 64 layers lets some of them see a window only; that is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    GATED,
    HEAD,
    Family,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["EXAONE", "EXAONE4"]

LAYERS_WITH_WINDOW = 64


def _more_keys(decoder: Decoder) -> Keys:
    return {"rope.dimension_count": (U32, decoder.rotary)}


def _more_keys_4(decoder: Decoder) -> Keys:
    return {"vocab_size": (U32, decoder.vocabulary)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"layer_types": ["full_attention"] * decoder.layers}


def _refuse_window(config: Values, sizes: Sizes, notes: list[str]) -> None:  # noqa: ARG001
    # Where there is a window, layers that see the whole context do not rotate; absent means 4096.
    if config.raw("sliding_window") is not None or "sliding_window" not in list(config):
        raise UnsupportedError(
            f"{config.path}: sliding_window is {config.raw('sliding_window') or 4096!r:.60}; "
            "an EXAONE 4 with a window is not known here"
        )
    _refuse_layers(config, sizes.layers)


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    _refuse_layers(metadata, metadata.integer("block_count"))
    return {}


def _refuse_layers(values: Values, layers: int) -> None:
    if layers == LAYERS_WITH_WINDOW:
        raise UnsupportedError(
            f"{values.path}: llama.cpp takes an EXAONE 4 of {layers} layers for one with a window"
        )


EXAONE = Family(
    name="exaone",
    hf_names=("ExaoneForCausalLM",),
    model_type="exaone",
    blocks="transformer.h.{}.",
    names={"num_hidden_layers": "num_layers"},
    ends=(
        Tensor("token_embd", "transformer.wte", "vocabulary hidden"),
        Tensor("output_norm", "transformer.ln_f", "hidden"),
        HEAD,
    ),
    layer=(
        Tensor("attn_q", "attn.attention.q_proj", "query hidden"),
        Tensor("attn_k", "attn.attention.k_proj", "key hidden"),
        Tensor("attn_v", "attn.attention.v_proj", "key hidden"),
        Tensor("attn_output", "attn.attention.out_proj", "hidden query"),
        Tensor("ffn_gate", "mlp.c_fc_0", "feed hidden"),
        Tensor("ffn_up", "mlp.c_fc_1", "feed hidden"),
        Tensor("ffn_down", "mlp.c_proj", "hidden feed"),
        Tensor("attn_norm", "ln_1", "hidden"),
        Tensor("ffn_norm", "ln_2", "hidden"),
    ),
    fixed={
        "activation_function": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
    },
    written={"attention_dropout": 0.0, "embed_dropout": 0.0},
    norm=Norm("layer_norm_epsilon", "attention.layer_norm_rms_epsilon", 1e-5),
    scalings=("linear", "yarn", "llama3"),
    square=True,
    tied=True,
    more_keys=_more_keys,
)

EXAONE4 = Family(
    name="exaone4",
    hf_names=("Exaone4ForCausalLM",),
    model_type="exaone4",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("attn_q_norm", "self_attn.q_norm", "head"),
        Tensor("attn_k_norm", "self_attn.k_norm", "head"),
        Tensor("post_attention_norm", "post_attention_layernorm", "hidden"),
        *GATED,
        Tensor("post_ffw_norm", "post_feedforward_layernorm", "hidden"),
    ),
    fixed={"hidden_act": ("silu",)},
    written={"attention_dropout": 0.0, "sliding_window": None, "sliding_window_pattern": None},
    norm=Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    scalings=("linear", "yarn", "llama3"),
    square=True,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys_4,
    checks=(_refuse_window,),
)
