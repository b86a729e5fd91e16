"""config.json of models that people use, as they were published: every key that says something.

Lists by layer and of rotary divisors are made here; the rest stands as in the files.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
BOOKKEEPING: Config = {
    "_name_or_path": "",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
}


def sized(layers: int, hidden: int, feed: int, heads: int, heads_kv: int) -> Config:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": feed,
        "num_attention_heads": heads,
        "num_key_value_heads": heads_kv,
    }


LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
}
LLAMA3_ROPE: Config = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA_32: Config = (
    LLAMA
    | sized(16, 2048, 8192, 32, 8)
    | {
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    }
)
MISTRAL: Config = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
PHI3: Config = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
}
LONGROPE: Config = {
    "type": "longrope",
    "short_factor": [1.0 + at / 100 for at in range(48)],
    "long_factor": [1.0 + at for at in range(48)],
}
STABLELM: Config = {
    "architectures": ["StableLmForCausalLM"],
    "model_type": "stablelm",
    "hidden_act": "silu",
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
NEOX: Config = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
}
FALCON: Config = {
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"},
    "bias": False,
    "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05,
    "parallel_attn": True,
    "vocab_size": 65024,
}
COHERE: Config = {
    "architectures": ["CohereForCausalLM"],
    "model_type": "cohere",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "vocab_size": 256000,
}
GEMMA: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 256,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
}

PUBLISHED: dict[str, Config] = {
    "Llama-2-7b": LLAMA
    | sized(32, 4096, 11008, 32, 32)
    | {
        "max_position_embeddings": 4096,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Llama-3.2-1B": LLAMA_32 | {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0},
    "Llama-3.2-1B, by transformers 5": LLAMA_32
    | {"dtype": "bfloat16", "rope_parameters": LLAMA3_ROPE | {"rope_theta": 500000.0}},
    "SmolLM2-135M": LLAMA
    | sized(30, 576, 1536, 9, 3)
    | {
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    },
    "SmolLM3-3B": sized(36, 2048, 11008, 16, 4)
    | {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9,
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "Mistral-7B-v0.3": MISTRAL
    | sized(32, 4096, 14336, 32, 8)
    | {"max_position_embeddings": 32768, "vocab_size": 32768},
    "Mistral-Nemo": MISTRAL
    | sized(40, 5120, 14336, 32, 8)
    | {"head_dim": 128, "max_position_embeddings": 131072, "vocab_size": 131072},
    "Qwen2.5-0.5B": sized(24, 896, 4864, 14, 2)
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen3-0.6B": sized(28, 1024, 3072, 16, 8)
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "gemma-2b": GEMMA
    | sized(18, 2048, 16384, 8, 1)
    | {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "hidden_act": "gelu",
        "hidden_activation": None,
        "max_position_embeddings": 8192,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "vocab_size": 256000,
    },
    "gemma-2-2b": GEMMA
    | sized(26, 2304, 9216, 8, 4)
    | {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "gemma-3-1b": GEMMA
    | sized(26, 1152, 6912, 4, 1)
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768,
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "Phi-3.5-mini": PHI3
    | sized(32, 3072, 8192, 32, 32)
    | {
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": LONGROPE,
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "Phi-4": PHI3
    | sized(40, 5120, 17920, 40, 10)
    | {
        "max_position_embeddings": 16384,
        "original_max_position_embeddings": 16384,
        "rope_scaling": None,
        "rope_theta": 250000,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "Phi-4-mini": PHI3
    | sized(32, 3072, 8192, 24, 8)
    | {
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rope_scaling": LONGROPE,
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "vocab_size": 200064,
    },
    "OLMo-1B-hf": sized(16, 2048, 8192, 16, 16)
    | {
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": 50304,
    },
    "OLMo-7B-0424-hf": sized(32, 4096, 11008, 32, 32)
    | {
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": 8.0,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
    },
    "OLMo-2-0425-1B": sized(16, 2048, 8192, 16, 16)
    | {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "pad_token_id": 100277,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "granite-3.3-2b": sized(40, 2048, 8192, 32, 8)
    | {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "hidden_act": "silu",
        "logits_scaling": 8.0,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000000.0,
        "tie_word_embeddings": True,
        "vocab_size": 49159,
    },
    "stablelm-2-1_6b": STABLELM | sized(24, 2048, 5632, 32, 32) | {"use_qkv_bias": True},
    "stablelm-2-12b": STABLELM
    | sized(40, 5120, 13824, 32, 8)
    | {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": False},
    "starcoder2-3b": sized(30, 3072, 12288, 24, 2)
    | {
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 16384,
        "mlp_type": "default",
        "norm_epsilon": 1e-05,
        "norm_type": "layer_norm",
        "residual_dropout": 0.1,
        "rope_theta": 999999.4420358813,
        "sliding_window": 4096,
        "use_bias": True,
        "vocab_size": 49152,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "distilgpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "_num_labels": 1,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 6,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "vocab_size": 50257,
    },
    "pythia-70m": NEOX
    | {
        "hidden_act": "gelu",
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "gpt-neox-20b": NEOX
    | {
        "attention_probs_dropout_prob": 0,
        "hidden_act": "gelu_fast",
        "hidden_dropout_prob": 0,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_attention_heads": 64,
        "num_hidden_layers": 44,
        "vocab_size": 50432,
    },
    "phi-2": sized(32, 2560, 10240, 32, 32)
    | {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "resid_pdrop": 0.1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 51200,
    },
    "falcon-7b": FALCON
    | {
        "hidden_size": 4544,
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
    },
    "falcon-40b": FALCON
    | {
        "hidden_size": 8192,
        "new_decoder_architecture": True,
        "num_attention_heads": 128,
        "num_hidden_layers": 60,
        "num_kv_heads": 8,
    },
    "falcon-11B": FALCON
    | {
        "activation": "gelu",
        "ff_factor": 4,
        "ffn_hidden_size": 16384,
        "hidden_size": 4096,
        "max_position_embeddings": 8192,
        "multi_query": True,
        "new_decoder_architecture": True,
        "num_attention_heads": 32,
        "num_hidden_layers": 60,
        "num_kv_heads": 8,
        "num_ln_in_parallel_attn": 1,
        "rope_scaling": None,
        "rope_theta": 500042.0,
        "tie_word_embeddings": False,
    },
    "c4ai-command-r-v01": COHERE
    | sized(40, 8192, 22528, 64, 64)
    | {
        "logit_scale": 0.0625,
        "model_max_length": 131072,
        "pretraining_tp": 1,
        "rope_theta": 8000000.0,
    },
    "c4ai-command-r-plus": COHERE
    | sized(64, 12288, 33792, 96, 8)
    | {
        "logit_scale": 0.8333333333333334,
        "model_max_length": 131072,
        "rope_theta": 75000000.0,
        "use_qk_norm": True,
    },
    "aya-23-8B": COHERE
    | sized(32, 4096, 14336, 32, 8)
    | {"logit_scale": 0.0625, "rope_theta": 10000, "use_qk_norm": False},
    "internlm2-1_8b": sized(24, 2048, 8192, 16, 8)
    | {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "attn_implementation": "eager",
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "bias": False,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "vocab_size": 92544,
    },
    "MiniCPM-2B-sft": sized(40, 2304, 5760, 36, 36)
    | {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig"},
        "dim_model_base": 256,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "scale_depth": 1.4,
        "scale_emb": 12,
        "vocab_size": 122753,
    },
    "EXAONE-3.5-2.4B": {
        "architectures": ["ExaoneForCausalLM"],
        "model_type": "exaone",
        "activation_function": "silu",
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_exaone.ExaoneConfig"},
        "embed_dropout": 0.0,
        "head_dim": 80,
        "hidden_size": 2560,
        "intermediate_size": 7168,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_layers": 30,
        "pad_token_id": 0,
        "rope_scaling": LLAMA3_ROPE | {"factor": 8.0},
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "vocab_size": 102400,
    },
    "EXAONE-4.0-1.2B": sized(30, 2048, 4096, 32, 8)
    | {
        "architectures": ["Exaone4ForCausalLM"],
        "model_type": "exaone4",
        "attention_dropout": 0.0,
        "head_dim": 64,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * 30,
        "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-05,
        "rope_scaling": LLAMA3_ROPE | {"factor": 16.0},
        "rope_theta": 1000000,
        "sliding_window": None,
        "sliding_window_pattern": None,
        "tie_word_embeddings": True,
        "vocab_size": 102400,
    },
}
