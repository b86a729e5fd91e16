"""Mixtral: Llama with experts, and by its name in GGUF a Llama too."""

from __future__ import annotations

from edgellm_converters.architectures.checks import note_window
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.experts import counts, has_experts
from edgellm_converters.architectures.family import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Family,
    Tensor,
)
from edgellm_converters.architectures.llama import ATTENTION, NORMS

__all__ = ["MIXTRAL"]

_AT = "block_sparse_moe."
_STACKED = _AT + "switch_mlp."

MIXTRAL = Family(
    name="llama",
    hf_names=("MixtralForCausalLM",),
    model_type="mixtral",
    claimed=has_experts,
    theta=1_000_000.0,
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("ffn_gate_inp", _AT + "gate", "experts hidden"),
        Tensor(
            "ffn_gate_exps",
            _AT + "experts.{}.w1",
            "experts feed hidden",
            mlx=_STACKED + "gate_proj",
        ),
        Tensor(
            "ffn_down_exps",
            _AT + "experts.{}.w2",
            "experts hidden feed",
            mlx=_STACKED + "down_proj",
        ),
        Tensor(
            "ffn_up_exps", _AT + "experts.{}.w3", "experts feed hidden", mlx=_STACKED + "up_proj"
        ),
        *NORMS,
    ),
    settings=counts("num_local_experts", 8, 2),
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    written={"attention_dropout": 0.0, "sliding_window": None},
    scalings=("linear", "yarn", "llama3"),
    norm=Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    names_rope=True,
    checks=(note_window,),
    reads_stored=("attention.sliding_window",),
)
