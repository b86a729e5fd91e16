"""Qwen and OLMo with experts: Qwen2-MoE, Qwen3-MoE and OLMoE.

Attention is that of the family without experts. Qwen2-MoE has one more network that every token
goes through, weighted by a gate of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgellm_converters.architectures.base import Sizes
from edgellm_converters.architectures.checks import refuse_window
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.experts import EXPERTS, counts, needs_norm
from edgellm_converters.architectures.family import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["OLMOE", "QWEN2_MOE", "QWEN3_MOE"]

_NORMS = (
    Tensor("attn_norm", "input_layernorm", "hidden"),
    Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
)
_ROUTER = Tensor("ffn_gate_inp", "mlp.gate", "experts hidden")
_WINDOW = {"use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0}
# llama.cpp has experts in every layer.
_EVERYWHERE: Mapping[str, tuple[object, ...]] = {
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([],),
}


def _expert_feed(default: int) -> Setting:
    return Setting(
        "expert_feed",
        "moe_intermediate_size",
        "expert_feed_forward_length",
        kind="integer",
        default=default,
    )


QWEN2_MOE = Family(
    name="qwen2moe",
    hf_names=("Qwen2MoeForCausalLM",),
    model_type="qwen2_moe",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        Tensor("attn_q", "self_attn.q_proj", "query hidden", bias=True),
        Tensor("attn_k", "self_attn.k_proj", "key hidden", bias=True),
        Tensor("attn_v", "self_attn.v_proj", "key hidden", bias=True),
        Tensor("attn_output", "self_attn.o_proj", "hidden query"),
        _ROUTER,
        *EXPERTS,
        Tensor("ffn_gate_inp_shexp", "mlp.shared_expert_gate", "1 hidden"),
        Tensor("ffn_gate_shexp", "mlp.shared_expert.gate_proj", "shared_feed hidden"),
        Tensor("ffn_up_shexp", "mlp.shared_expert.up_proj", "shared_feed hidden"),
        Tensor("ffn_down_shexp", "mlp.shared_expert.down_proj", "hidden shared_feed"),
        *_NORMS,
    ),
    settings=(
        *counts("num_experts", 60, 4),
        _expert_feed(1408),
        Setting(
            "shared_feed",
            "shared_expert_intermediate_size",
            "expert_shared_feed_forward_length",
            kind="integer",
            default=5632,
        ),
    ),
    fixed={
        **_EVERYWHERE,
        "hidden_act": ("silu",),
        "norm_topk_prob": (False,),
        "qkv_bias": (True,),
        "tie_word_embeddings": (False,),
    },
    written=_WINDOW,
    square=True,
    checks=(refuse_window,),
    reads=("layer_types",),
)

QWEN3_MOE = Family(
    name="qwen3moe",
    hf_names=("Qwen3MoeForCausalLM",),
    model_type="qwen3_moe",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("attn_q_norm", "self_attn.q_norm", "head"),
        Tensor("attn_k_norm", "self_attn.k_norm", "head"),
        _ROUTER,
        *EXPERTS,
        *_NORMS,
    ),
    settings=(*counts("num_experts", 128, 8), _expert_feed(768)),
    fixed={**_EVERYWHERE, "hidden_act": ("silu",), "attention_bias": (False,)},
    written=_WINDOW | {"norm_topk_prob": True},
    names_head_dim=True,
    checks=(refuse_window, needs_norm),
    reads=("layer_types",),
)


def _whole_keys(config: Values, sizes: Sizes, notes: list[str]) -> None:  # noqa: ARG001
    if sizes.heads_kv != sizes.heads:
        raise UnsupportedError(
            f"{config.path}: num_key_value_heads is {sizes.heads_kv} of {sizes.heads} heads; "
            "llama.cpp needs as many of both for olmoe"
        )


OLMOE = Family(
    name="olmoe",
    hf_names=("OlmoeForCausalLM",),
    model_type="olmoe",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("attn_q_norm", "self_attn.q_norm", "query"),
        Tensor("attn_k_norm", "self_attn.k_norm", "key"),
        _ROUTER,
        *(
            Tensor(each.gguf, each.hf, each.shape.replace("expert_feed", "feed"), mlx=each.mlx)
            for each in EXPERTS
        ),
        *_NORMS,
    ),
    settings=counts("num_experts", 64, 8),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "norm_topk_prob": (False,),
        "tie_word_embeddings": (False,),
    },
    written={"attention_dropout": 0.0},
    norm=Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    square=True,
    checks=(_whole_keys,),
)
