"""Tiny checkpoints of dense decoders whose layout is not Llama's, as data: see `tiny_families`."""

from __future__ import annotations

from typing import Any

from tiny_families import (
    ATTENTION,
    GATED,
    HEAD_NORMS,
    LAYER_NORM,
    NORM_BIAS,
    NORMS,
    QKV_BIAS,
    Spec,
)

GPT2_CONFIG = {
    "architectures": "GPT2LMHeadModel",
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 128,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 128,
}
GPT2_LAYER = {
    "attn.c_attn.weight": "hidden qkv",
    "attn.c_attn.bias": "qkv",
    "attn.c_proj.weight": "hidden hidden",
    "attn.c_proj.bias": "hidden",
    "mlp.c_fc.weight": "hidden feed",
    "mlp.c_fc.bias": "feed",
    "mlp.c_proj.weight": "feed hidden",
    "mlp.c_proj.bias": "hidden",
    "ln_1.weight": "hidden",
    "ln_1.bias": "hidden",
    "ln_2.weight": "hidden",
    "ln_2.bias": "hidden",
}
CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
NEOX_LAYER = (
    NORMS
    | NORM_BIAS
    | {
        "attention.query_key_value.weight": "qkv hidden",
        "attention.query_key_value.bias": "qkv",
        "attention.dense.weight": "hidden hidden",
        "attention.dense.bias": "hidden",
        "mlp.dense_h_to_4h.weight": "feed hidden",
        "mlp.dense_h_to_4h.bias": "feed",
        "mlp.dense_4h_to_h.weight": "hidden feed",
        "mlp.dense_4h_to_h.bias": "hidden",
    }
)
NEOX_CONFIG = {
    "architectures": "GPTNeoXForCausalLM",
    "model_type": "gpt_neox",
    "hidden_act": "gelu",
    "intermediate_size": 256,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
}
NEOX_ENDS = {
    "gpt_neox.final_layer_norm.weight": "hidden",
    "gpt_neox.final_layer_norm.bias": "hidden",
}
FALCON_CONFIG = {
    "architectures": "FalconForCausalLM",
    "model_type": "falcon",
    "activation": "gelu",
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "bias": False,
    "hidden_size": 64,
    "layer_norm_epsilon": 1e-5,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "parallel_attn": True,
}
FALCON_LAYER = {
    "self_attention.query_key_value.weight": "qkv hidden",
    "self_attention.dense.weight": "hidden hidden",
    "mlp.dense_h_to_4h.weight": "feed hidden",
    "mlp.dense_4h_to_h.weight": "hidden feed",
}
FALCON: dict[str, Any] = {
    "plain": True,
    "blocks": "transformer.h.{}.",
    "embed": "transformer.word_embeddings.weight",
    "ends": {"transformer.ln_f.weight": "hidden", "transformer.ln_f.bias": "hidden"},
    "sizes": {"feed": 256},
    "pre": "smollm",
}
COHERE_CONFIG = {
    "architectures": "CohereForCausalLM",
    "model_type": "cohere",
    "attention_bias": False,
    "hidden_act": "silu",
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "rope_theta": 10000.0,
}
COHERE_LAYER = ATTENTION | GATED | {"input_layernorm.weight": "hidden"}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


FAMILIES = (
    Spec(
        "gpt2",
        GPT2_CONFIG,
        GPT2_LAYER,
        seed=40,
        plain=True,
        blocks="transformer.h.{}.",
        embed="transformer.wte.weight",
        ends={
            "transformer.wpe.weight": "128 hidden",
            "transformer.ln_f.weight": "hidden",
            "transformer.ln_f.bias": "hidden",
        },
        sizes={"feed": 256},
        heads_kv=4,
        transposed=CONV1D,
        pre="smollm",
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "gptneox",
        NEOX_CONFIG,
        NEOX_LAYER,
        seed=41,
        blocks="gpt_neox.layers.{}.",
        embed="gpt_neox.embed_in.weight",
        head="embed_out.weight",
        ends=NEOX_ENDS,
        sizes={"feed": 256},
        heads_kv=4,
        pre="smollm",
    ),
    Spec(
        "gptneox-sequential",
        NEOX_CONFIG | {"use_parallel_residual": False, "rotary_pct": 1.0},
        NEOX_LAYER,
        seed=42,
        blocks="gpt_neox.layers.{}.",
        embed="gpt_neox.embed_in.weight",
        head="embed_out.weight",
        ends=NEOX_ENDS,
        sizes={"feed": 256},
        heads_kv=4,
        pre="smollm",
    ),
    Spec(
        "phi2",
        {
            "architectures": "PhiForCausalLM",
            "model_type": "phi",
            "hidden_act": "gelu_new",
            "intermediate_size": 256,
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.4,
            "qk_layernorm": False,
            "rope_scaling": None,
            "rope_theta": 10000.0,
        },
        {name: shape for name, shape in (NORMS | NORM_BIAS).items() if "input" in name}
        | {
            "self_attn.q_proj.weight": "query hidden",
            "self_attn.k_proj.weight": "key hidden",
            "self_attn.v_proj.weight": "key hidden",
            **QKV_BIAS,
            "self_attn.dense.weight": "hidden hidden",
            "self_attn.dense.bias": "hidden",
            "mlp.fc1.weight": "feed hidden",
            "mlp.fc1.bias": "feed",
            "mlp.fc2.weight": "hidden feed",
            "mlp.fc2.bias": "hidden",
        },
        seed=43,
        ends={
            "model.final_layernorm.weight": "hidden",
            "model.final_layernorm.bias": "hidden",
            "lm_head.bias": "vocabulary",
        },
        sizes={"feed": 256},
        heads_kv=4,
        pre="smollm",
    ),
    # Falcon 7B's form, then 40B's and 11B's.
    Spec(
        "falcon",
        FALCON_CONFIG | {"multi_query": True, "new_decoder_architecture": False, "num_kv_heads": 1},
        FALCON_LAYER | {"input_layernorm.weight": "hidden", "input_layernorm.bias": "hidden"},
        seed=44,
        heads_kv=1,
        tied=True,
        embedding=0.1,
        **FALCON,
    ),
    Spec(
        "falcon-two-norms",
        FALCON_CONFIG | {"new_decoder_architecture": True, "num_kv_heads": 2},
        FALCON_LAYER
        | {
            "ln_attn.weight": "hidden",
            "ln_attn.bias": "hidden",
            "ln_mlp.weight": "hidden",
            "ln_mlp.bias": "hidden",
        },
        seed=45,
        tied=True,
        embedding=0.1,
        **FALCON,
    ),
    Spec(
        "falcon-grouped",
        FALCON_CONFIG
        | {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "rope_theta": 500042.0,
            "tie_word_embeddings": False,
        },
        FALCON_LAYER | {"input_layernorm.weight": "hidden", "input_layernorm.bias": "hidden"},
        seed=46,
        **FALCON,
    ),
    Spec(
        "olmo",
        {
            "architectures": "OlmoForCausalLM",
            "model_type": "olmo",
            "attention_bias": False,
            # Low, so that leaving it out would show.
            "clip_qkv": 0.75,
            "hidden_act": "silu",
            "rope_scaling": None,
            "rope_theta": 10000.0,
        },
        ATTENTION | GATED,
        seed=47,
        ends={},
        pre="dbrx",
    ),
    Spec(
        "cohere",
        COHERE_CONFIG | {"use_qk_norm": False},
        COHERE_LAYER,
        seed=48,
        pre="llama-bpe",
        tied=True,
        embedding=0.1,
    ),
    # llama.cpp looks for the norms of heads in models of 64 layers.
    Spec(
        "cohere-head-norms",
        COHERE_CONFIG | {"use_qk_norm": True},
        COHERE_LAYER
        | {"self_attn.q_norm.weight": "4 head", "self_attn.k_norm.weight": "heads_kv head"},
        seed=49,
        sizes={"heads_kv": 2},
        layers=64,
        pre="llama-bpe",
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "internlm2",
        {
            "architectures": "InternLM2ForCausalLM",
            "model_type": "internlm2",
            "bias": False,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "rope_theta": 1000000,
        },
        {
            "attention.wqkv.weight": "qkv hidden",
            "attention.wo.weight": "hidden query",
            "feed_forward.w1.weight": "feed hidden",
            "feed_forward.w3.weight": "feed hidden",
            "feed_forward.w2.weight": "hidden feed",
            "attention_norm.weight": "hidden",
            "ffn_norm.weight": "hidden",
        },
        seed=50,
        embed="model.tok_embeddings.weight",
        head="output.weight",
        pre="spm",
    ),
    Spec(
        "minicpm",
        {
            "architectures": "MiniCPMForCausalLM",
            "model_type": "minicpm",
            "dim_model_base": 24,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "scale_depth": 1.4,
            "scale_emb": 12,
        },
        ATTENTION | GATED | NORMS,
        seed=51,
        pre="spm",
        tied=True,
        embedding=0.05,
    ),
    Spec(
        "exaone",
        {
            "architectures": "ExaoneForCausalLM",
            "model_type": "exaone",
            "activation_function": "silu",
            "head_dim": 16,
            "hidden_size": 64,
            "intermediate_size": 96,
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_layers": 2,
            "rope_scaling": LLAMA3_ROPE,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
        {
            "ln_1.weight": "hidden",
            "attn.attention.q_proj.weight": "query hidden",
            "attn.attention.k_proj.weight": "key hidden",
            "attn.attention.v_proj.weight": "key hidden",
            "attn.attention.out_proj.weight": "hidden query",
            "ln_2.weight": "hidden",
            "mlp.c_fc_0.weight": "feed hidden",
            "mlp.c_fc_1.weight": "feed hidden",
            "mlp.c_proj.weight": "hidden feed",
        },
        seed=52,
        plain=True,
        blocks="transformer.h.{}.",
        embed="transformer.wte.weight",
        ends={"transformer.ln_f.weight": "hidden"},
        pre="smollm",
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "exaone4",
        {
            "architectures": "Exaone4ForCausalLM",
            "model_type": "exaone4",
            "head_dim": 16,
            "hidden_act": "silu",
            "layer_types": ["full_attention"] * 2,
            "rms_norm_eps": 1e-5,
            "rope_scaling": LLAMA3_ROPE,
            "rope_theta": 10000.0,
            "sliding_window": None,
            "sliding_window_pattern": None,
        },
        ATTENTION
        | HEAD_NORMS
        | GATED
        | {
            "post_attention_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
        seed=53,
        pre="smollm",
        tied=True,
        embedding=0.1,
    ),
    Spec(
        "stablelm-head-norms",
        {
            "architectures": "StableLmForCausalLM",
            "model_type": "stablelm",
            "hidden_act": "silu",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.25,
            "qk_layernorm": True,
            "rope_theta": 10000,
            "use_parallel_residual": True,
            "use_qkv_bias": False,
        },
        ATTENTION
        | GATED
        | {"input_layernorm.weight": "hidden", "input_layernorm.bias": "hidden"}
        | {f"self_attn.q_layernorm.norms.{head}.weight": "head" for head in range(4)}
        | {f"self_attn.k_layernorm.norms.{head}.weight": "head" for head in range(2)},
        seed=54,
        ends=LAYER_NORM,
        pre="dbrx",
    ),
)
