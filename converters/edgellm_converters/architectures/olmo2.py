"""OLMo 2: norms after each half instead of before, and over all queries and keys of a token."""

from __future__ import annotations

from edgellm_converters.architectures.checks import refuse_window
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

__all__ = ["OLMO2"]

OLMO2 = Family(
    name="olmo2",
    hf_names=("Olmo2ForCausalLM",),
    model_type="olmo2",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("attn_q_norm", "self_attn.q_norm", "query"),
        Tensor("attn_k_norm", "self_attn.k_norm", "key"),
        Tensor("post_attention_norm", "post_attention_layernorm", "hidden"),
        *GATED,
        Tensor("post_ffw_norm", "post_feedforward_layernorm", "hidden"),
    ),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "tie_word_embeddings": (False,),
    },
    written={"attention_dropout": 0.0},
    norm=Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    square=True,
    checks=(refuse_window,),
    reads=("layer_types",),
)
