"""ERNIE 4.5, the dense ones: Llama whose rotary positions pair neighbouring rows."""

from __future__ import annotations

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

__all__ = ["ERNIE4_5"]

ERNIE4_5 = Family(
    name="ernie4_5",
    hf_names=("Ernie4_5ForCausalLM",),
    model_type="ernie4_5",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        # Rows 2i and 2i + 1 are rotated together on both sides: nothing to reorder.
        *ATTENTION,
        *GATED,
        Tensor("attn_norm", "input_layernorm", "hidden"),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
    ),
    # llama.cpp has one activation and no biases here; another value would be another model.
    fixed={"hidden_act": ("silu",), "use_bias": (False,)},
    norm=Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    theta=500_000.0,
    head_dim=128,
    tied=True,
    names_head_dim=True,
    scalings=(),
)
