"""StarCoder2: biases everywhere, layer norms, a GELU network without a gate."""

from __future__ import annotations

from edgellm_converters.architectures.checks import note_window
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import EMBEDDING, HEAD, Family, Tensor

__all__ = ["STARCODER2"]

STARCODER2 = Family(
    name="starcoder2",
    hf_names=("Starcoder2ForCausalLM",),
    model_type="starcoder2",
    ends=(EMBEDDING, Tensor("output_norm", "model.norm", "hidden", bias=True), HEAD),
    layer=(
        Tensor("attn_q", "self_attn.q_proj", "query hidden", bias=True),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", bias=True),
        Tensor("attn_v", "self_attn.v_proj", "key hidden", bias=True),
        Tensor("attn_output", "self_attn.o_proj", "hidden query", bias=True),
        Tensor("ffn_up", "mlp.c_fc", "feed hidden", bias=True),
        Tensor("ffn_down", "mlp.c_proj", "hidden feed", bias=True),
        Tensor("attn_norm", "input_layernorm", "hidden", bias=True),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden", bias=True),
    ),
    fixed={
        "hidden_act": ("gelu_pytorch_tanh",),
        "use_bias": (True,),
        "mlp_type": ("default",),
        "norm_type": ("layer_norm",),
    },
    written={"attention_dropout": 0.0, "embedding_dropout": 0.0, "residual_dropout": 0.0},
    norm=Norm("norm_epsilon", "attention.layer_norm_epsilon", 1e-5),
    square=True,
    tied=True,
    checks=(note_window,),
    reads_stored=("attention.sliding_window",),
)
