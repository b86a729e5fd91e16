"""Phi-1, Phi-1.5 and Phi-2: both halves at once after one norm, part of each head rotated."""

from __future__ import annotations

from edgellm_converters.architectures.checks import no_scaling_in_mlx
from edgellm_converters.architectures.common import LAYER_NORM
from edgellm_converters.architectures.family import EMBEDDING, Family, Tensor

__all__ = ["PHI2"]

PHI2 = Family(
    name="phi2",
    hf_names=("PhiForCausalLM",),
    model_type="phi",
    ends=(
        EMBEDDING,
        Tensor("output_norm", "model.final_layernorm", "hidden", bias=True),
        Tensor("output", "lm_head", "vocabulary hidden", bias=True),
    ),
    layer=(
        Tensor("attn_q", "self_attn.q_proj", "query hidden", bias=True),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", bias=True),
        Tensor("attn_v", "self_attn.v_proj", "key hidden", bias=True),
        Tensor("attn_output", "self_attn.dense", "hidden query", bias=True),
        Tensor("ffn_up", "mlp.fc1", "feed hidden", bias=True),
        Tensor("ffn_down", "mlp.fc2", "hidden feed", bias=True),
        Tensor("attn_norm", "input_layernorm", "hidden", bias=True),
    ),
    fixed={
        "hidden_act": ("gelu_new", "gelu_pytorch_tanh"),
        "qk_layernorm": (False,),
        "tie_word_embeddings": (False,),
    },
    written={"attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    norm=LAYER_NORM,
    partial=0.5,
    square=True,
    for_mlx=no_scaling_in_mlx,
)
