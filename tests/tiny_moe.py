"""Tiny checkpoints of families with experts as data, as `tiny_families` has the others."""

from __future__ import annotations

from collections.abc import Callable

from tiny_families import ATTENTION, GATED, HEAD_NORMS, NORMS, QKV_BIAS, Spec

EXPERTS = {
    "mlp.experts.{}.gate_proj.weight": "expert hidden",
    "mlp.experts.{}.up_proj.weight": "expert hidden",
    "mlp.experts.{}.down_proj.weight": "hidden expert",
}
ROUTER = {"mlp.gate.weight": "experts hidden"}
SIZES = {"expert": 32, "experts": 4}


MIXTRAL = {
    "block_sparse_moe.gate.weight": "experts hidden",
    "block_sparse_moe.experts.{}.w1.weight": "feed hidden",
    "block_sparse_moe.experts.{}.w2.weight": "hidden feed",
    "block_sparse_moe.experts.{}.w3.weight": "feed hidden",
}
GRANITE = {
    "block_sparse_moe.router.layer.weight": "experts hidden",
    "block_sparse_moe.input_linear.weight": "experts gate_up hidden",
    "block_sparse_moe.output_linear.weight": "experts hidden feed",
}
GRANITE_CONFIG = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
    "logits_scaling": 6.0,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def _latent(query: bool, dense: int, bias: bool) -> Callable[[int], dict[str, str]]:
    """Give the tensors of DeepSeek's layers, of which the first ones have no experts."""
    queries = {"self_attn.q_proj.weight": "queries hidden"}
    if query:
        queries = {
            "self_attn.q_a_proj.weight": "query_latent hidden",
            "self_attn.q_a_layernorm.weight": "query_latent",
            "self_attn.q_b_proj.weight": "queries query_latent",
        }
    attention = queries | {
        "self_attn.kv_a_proj_with_mqa.weight": "key_rotated hidden",
        "self_attn.kv_a_layernorm.weight": "key_latent",
        "self_attn.kv_b_proj.weight": "pairs key_latent",
        "self_attn.o_proj.weight": "hidden values",
    }
    shared = {
        "mlp.shared_experts.gate_proj.weight": "shared hidden",
        "mlp.shared_experts.up_proj.weight": "shared hidden",
        "mlp.shared_experts.down_proj.weight": "hidden shared",
    }
    correction = {"mlp.gate.e_score_correction_bias": "experts"} if bias else {}

    def layer(number: int) -> dict[str, str]:
        network = GATED if number < dense else ROUTER | correction | EXPERTS | shared
        return attention | network | NORMS

    return layer


# Four heads of 12 + 8 values for queries and keys, and of 16 values.
LATENT = SIZES | {
    "query_latent": 40,
    "key_latent": 24,
    "queries": 4 * 20,
    "key_rotated": 24 + 8,
    "pairs": 4 * (12 + 16),
    "values": 4 * 16,
    "shared": 64,
}
LATENT_CONFIG = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "attention_bias": False,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
}
LATENT_YARN = {
    "type": "yarn",
    "factor": 8.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 16,
}


def _lfm2(number: int) -> dict[str, str]:
    norms = {"operator_norm.weight": "hidden", "ffn_norm.weight": "hidden"}
    if number % 3 == 2:
        return norms | {
            "self_attn.q_proj.weight": "query hidden",
            "self_attn.k_proj.weight": "key hidden",
            "self_attn.v_proj.weight": "key hidden",
            "self_attn.out_proj.weight": "hidden query",
            "self_attn.q_layernorm.weight": "head",
            "self_attn.k_layernorm.weight": "head",
        }
    return norms | {
        "conv.conv.weight": "hidden 1 kernel",
        "conv.in_proj.weight": "three_hidden hidden",
        "conv.out_proj.weight": "hidden hidden",
    }


def _lfm2_dense(number: int) -> dict[str, str]:
    return _lfm2(number) | {
        "feed_forward.w1.weight": "feed hidden",
        "feed_forward.w2.weight": "hidden feed",
        "feed_forward.w3.weight": "feed hidden",
    }


def _lfm2_moe(number: int) -> dict[str, str]:
    if number == 0:
        return _lfm2_dense(number)
    return _lfm2(number) | {
        "feed_forward.gate.weight": "experts hidden",
        "feed_forward.expert_bias": "experts",
        "feed_forward.experts.{}.w1.weight": "expert hidden",
        "feed_forward.experts.{}.w2.weight": "hidden expert",
        "feed_forward.experts.{}.w3.weight": "expert hidden",
    }


LFM2_ENDS = {"model.embedding_norm.weight": "hidden"}
LFM2_SIZES = SIZES | {"kernel": 3, "three_hidden": 192}

FAMILIES = (
    Spec(
        "mixtral",
        {
            "architectures": "MixtralForCausalLM",
            "model_type": "mixtral",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        ATTENTION | MIXTRAL | NORMS,
        seed=60,
        pre="spm",
        experts=4,
        sizes=SIZES,
    ),
    Spec(
        "qwen2-moe",
        {
            "architectures": "Qwen2MoeForCausalLM",
            "model_type": "qwen2_moe",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "use_sliding_window": False,
            "sliding_window": 32,
            "decoder_sparse_step": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "norm_topk_prob": False,
        },
        ATTENTION
        | QKV_BIAS
        | ROUTER
        | EXPERTS
        | {
            "mlp.shared_expert_gate.weight": "1 hidden",
            "mlp.shared_expert.gate_proj.weight": "shared hidden",
            "mlp.shared_expert.up_proj.weight": "shared hidden",
            "mlp.shared_expert.down_proj.weight": "hidden shared",
        }
        | NORMS,
        seed=61,
        experts=4,
        sizes=SIZES | {"shared": 64},
    ),
    Spec(
        "qwen3-moe",
        {
            "architectures": "Qwen3MoeForCausalLM",
            "model_type": "qwen3_moe",
            "hidden_act": "silu",
            "head_dim": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
        ATTENTION | HEAD_NORMS | ROUTER | EXPERTS | NORMS,
        seed=62,
        head_dim=32,
        experts=8,
        sizes=SIZES | {"experts": 8},
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "olmoe",
        {
            "architectures": "OlmoeForCausalLM",
            "model_type": "olmoe",
            "hidden_act": "silu",
            "intermediate_size": 32,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "attention_bias": False,
            "clip_qkv": None,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": False,
        },
        ATTENTION
        | {"self_attn.q_norm.weight": "query", "self_attn.k_norm.weight": "key"}
        | ROUTER
        | EXPERTS
        | NORMS,
        seed=63,
        pre="dbrx",
        heads_kv=4,
        experts=4,
        sizes=SIZES,
    ),
    Spec(
        "granite-moe",
        {"architectures": "GraniteMoeForCausalLM", "model_type": "granitemoe", **GRANITE_CONFIG},
        ATTENTION | GRANITE | NORMS,
        seed=64,
        pre="smollm",
        sizes=SIZES,
        embedding=0.05,
    ),
    Spec(
        "granite-moe-shared",
        {
            "architectures": "GraniteMoeSharedForCausalLM",
            "model_type": "granitemoeshared",
            "shared_intermediate_size": 48,
            **GRANITE_CONFIG,
        },
        ATTENTION
        | GRANITE
        | {
            "shared_mlp.input_linear.weight": "shared_both hidden",
            "shared_mlp.output_linear.weight": "hidden shared",
        }
        | NORMS,
        seed=65,
        pre="smollm",
        sizes=SIZES | {"shared": 48, "shared_both": 96},
        embedding=0.05,
    ),
    # As many layers as llama.cpp wants of a model without a latent of queries.
    Spec(
        "deepseek-v2-lite",
        {
            "architectures": "DeepseekV2ForCausalLM",
            "model_type": "deepseek_v2",
            "num_key_value_heads": 4,
            "q_lora_rank": None,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "scoring_func": "softmax",
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "rope_scaling": LATENT_YARN,
            **LATENT_CONFIG,
        },
        _latent(query=False, dense=1, bias=False),
        seed=66,
        layers=26,
        embedding=4.0,
        experts=4,
        sizes=LATENT,
    ),
    Spec(
        "deepseek-v2",
        {
            "architectures": "DeepseekV2ForCausalLM",
            "model_type": "deepseek_v2",
            "num_key_value_heads": 4,
            "q_lora_rank": 40,
            "n_routed_experts": 4,
            "topk_method": "greedy",
            "scoring_func": "softmax",
            "routed_scaling_factor": 4.0,
            **LATENT_CONFIG,
        },
        _latent(query=True, dense=1, bias=False),
        seed=67,
        layers=3,
        experts=4,
        sizes=LATENT,
    ),
    Spec(
        "deepseek-v3",
        {
            "architectures": "DeepseekV3ForCausalLM",
            "model_type": "deepseek_v3",
            "num_key_value_heads": 4,
            "q_lora_rank": 40,
            "n_routed_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "rope_scaling": LATENT_YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
            **LATENT_CONFIG,
        },
        _latent(query=True, dense=1, bias=True),
        seed=68,
        layers=3,
        experts=8,
        sizes=LATENT | {"experts": 8},
    ),
    Spec(
        "lfm2",
        {
            "architectures": "Lfm2ForCausalLM",
            "model_type": "lfm2",
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "conv_L_cache": 3,
            "conv_bias": False,
            "norm_eps": 1e-5,
            "rope_theta": 1e6,
            # Adjusted to 96.
            "intermediate_size": 144,
            "block_ff_dim": 144,
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 32,
            "block_ffn_dim_multiplier": 1.0,
        },
        _lfm2_dense,
        seed=69,
        pre="llama-bpe",
        layers=4,
        ends=LFM2_ENDS,
        sizes=LFM2_SIZES,
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "lfm2-moe",
        {
            "architectures": "Lfm2MoeForCausalLM",
            "model_type": "lfm2_moe",
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "conv_L_cache": 3,
            "conv_bias": False,
            "norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_dense_layers": 1,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "use_expert_bias": True,
        },
        _lfm2_moe,
        seed=70,
        pre="llama-bpe",
        layers=4,
        ends=LFM2_ENDS,
        experts=4,
        sizes=LFM2_SIZES,
        tied=True,
        embedding=0.1,
    ),
)
