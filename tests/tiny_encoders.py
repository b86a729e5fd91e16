"""Tiny embedding models as data: what `tiny.family` writes, with the files of their pooling.

Names, shapes and configurations are those that transformers gives these classes.
"""

from __future__ import annotations

from typing import Any

from tiny_families import ATTENTION, GATED, HEAD_NORMS, NORMS, Spec
from tiny_tokenizers import BYTE_LEVEL, added, byte_level


def modules(mode: str, *, normalize: bool = True, size: int = 64) -> dict[str, object]:
    """The files of sentence-transformers for a pooling, such as "mean_tokens"."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    if normalize:
        kinds["2_Normalize"] = "Normalize"
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    return {
        "modules.json": [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, (path, kind) in enumerate(kinds.items())
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": size,
            **{f"pooling_mode_{name}": name == mode for name in modes},
        },
    }


def roberta_tokenizer() -> dict[str, Any]:
    """A byte-level tokenizer.json with the special tokens of RoBERTa around each text."""
    tokenizer = byte_level([BYTE_LEVEL], special=0)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *tokenizer["model"]["vocab"]]
    tokenizer["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    tokenizer["added_tokens"] = [added(index, name) for index, name in enumerate(special)]
    tokenizer["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    return tokenizer


SETTINGS_ROBERTA = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


def both(name: str, shape: str) -> dict[str, str]:
    """A matrix and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape.split()[0]}


BERT_ENDS = {
    "embeddings.position_embeddings.weight": "positions hidden",
    "embeddings.token_type_embeddings.weight": "types hidden",
    **both("embeddings.LayerNorm", "hidden"),
}
BERT_LAYER = {
    **both("attention.self.query", "hidden hidden"),
    **both("attention.self.key", "hidden hidden"),
    **both("attention.self.value", "hidden hidden"),
    **both("attention.output.dense", "hidden hidden"),
    **both("attention.output.LayerNorm", "hidden"),
    **both("intermediate.dense", "feed hidden"),
    **both("output.dense", "hidden feed"),
    **both("output.LayerNorm", "hidden"),
}
POOLER = both("pooler.dense", "hidden hidden")
BERT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}


def old_names(tensors: dict[str, str], prefix: str = "") -> dict[str, str]:
    """The names of BERT's first files: gamma and beta, and "bert." before all."""
    found = {}
    for name, shape in tensors.items():
        norm = "LayerNorm" in name
        new = name.replace(".weight", ".gamma").replace(".bias", ".beta") if norm else name
        found[prefix + new] = shape
    return found


def new_names(name: str) -> str:
    """The name that BERT's files have now for one of `old_names`."""
    name = name.removeprefix("bert.")
    return name.replace(".gamma", ".weight").replace(".beta", ".bias")


PREDICTIONS = (
    both("cls.predictions.transform.dense", "hidden hidden")
    | old_names(both("cls.predictions.transform.LayerNorm", "hidden"))
    | {"cls.predictions.bias": "vocabulary"}
)
ROBERTA = BERT | {
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 130,
    "type_vocab_size": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
POSITIONS = {"embeddings.position_embeddings.weight": 2}

ENCODERS: tuple[Spec, ...] = (
    Spec(
        "bert",
        BERT
        | {
            "architectures": "BertModel",
            "model_type": "bert",
            "max_position_embeddings": 128,
            "type_vocab_size": 2,
        },
        BERT_LAYER,
        seed=40,
        blocks="encoder.layer.{}.",
        embed="embeddings.word_embeddings.weight",
        ends=BERT_ENDS | POOLER,
        sizes={"positions": 128, "types": 2},
        pre="wordpiece",
        plain=True,
        tied=True,
        gguf="bert",
        files=modules("mean_tokens"),
        left_out=tuple(POOLER),
    ),
    Spec(
        "bert-old-names",
        BERT
        | {
            "architectures": "BertForMaskedLM",
            "model_type": "bert",
            "max_position_embeddings": 128,
            "type_vocab_size": 2,
        },
        old_names(BERT_LAYER),
        seed=41,
        blocks="bert.encoder.layer.{}.",
        embed="bert.embeddings.word_embeddings.weight",
        ends=old_names(BERT_ENDS, "bert.") | PREDICTIONS,
        sizes={"positions": 128, "types": 2},
        pre="wordpiece",
        plain=True,
        tied=True,
        gguf="bert",
        files=modules("cls_token", normalize=False),
        left_out=tuple(new_names(name) for name in PREDICTIONS),
        now=new_names,
    ),
    Spec(
        "roberta",
        ROBERTA | {"architectures": "RobertaModel", "model_type": "roberta"},
        BERT_LAYER,
        seed=42,
        blocks="encoder.layer.{}.",
        embed="embeddings.word_embeddings.weight",
        ends=BERT_ENDS | POOLER,
        sizes={"positions": 130, "types": 1},
        pre="roberta",
        plain=True,
        tied=True,
        gguf="bert",
        files=modules("lasttoken"),
        left_out=tuple(POOLER),
        blank=POSITIONS,
    ),
    Spec(
        "xlm-roberta",
        ROBERTA | {"architectures": "XLMRobertaModel", "model_type": "xlm-roberta"},
        BERT_LAYER,
        seed=43,
        blocks="roberta.encoder.layer.{}.",
        embed="roberta.embeddings.word_embeddings.weight",
        ends={f"roberta.{name}": shape for name, shape in BERT_ENDS.items()}
        | {"roberta.embeddings.position_ids": "positions"},
        sizes={"positions": 130, "types": 1},
        pre="xlmr",
        plain=True,
        tied=True,
        gguf="bert",
        files=modules("cls_token"),
        left_out=("embeddings.position_ids",),
        blank=POSITIONS,
        now=lambda name: name.removeprefix("roberta."),
    ),
)


# -- Nomic-BERT -----------------------------------------------------------------------------------

NOMIC_LAYER = {
    "attn.Wqkv.weight": "qkv hidden",
    "attn.out_proj.weight": "hidden hidden",
    **both("norm1", "hidden"),
    "mlp.fc11.weight": "feed hidden",
    "mlp.fc12.weight": "feed hidden",
    "mlp.fc2.weight": "hidden feed",
    **both("norm2", "hidden"),
}
NOMIC: dict[str, Any] = {
    "architectures": "NomicBertModel",
    "model_type": "nomic_bert",
    "n_embd": 64,
    "n_inner": 96,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "activation_function": "swiglu",
    "layer_norm_epsilon": 1e-12,
    "type_vocab_size": 2,
    "causal": False,
    "prenorm": False,
    "parallel_block": False,
    "use_rms_norm": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
}
ENCODERS += (
    Spec(
        "nomic-bert",
        NOMIC,
        NOMIC_LAYER,
        seed=53,
        blocks="encoder.layers.{}.",
        embed="embeddings.word_embeddings.weight",
        ends={
            "embeddings.token_type_embeddings.weight": "types hidden",
            **both("emb_ln", "hidden"),
        },
        sizes={"types": 2},
        heads_kv=4,
        pre="wordpiece",
        plain=True,
        tied=True,
        gguf="nomic-bert",
        gated=True,
        files=modules("mean_tokens"),
    ),
)


# -- ModernBERT -----------------------------------------------------------------------------------

MODERN_BERT_ENDS = {"embeddings.norm.weight": "hidden", "final_norm.weight": "hidden"}
MODERN_BERT_HEAD = {
    "head.dense.weight": "hidden hidden",
    "head.norm.weight": "hidden",
    "decoder.bias": "vocabulary",
}


def modern_bert_layer(number: int) -> dict[str, str]:
    """The tensors of a layer: the first has no norm before its attention."""
    norm = {"attn_norm.weight": "hidden"} if number else {}
    return norm | {
        "attn.Wqkv.weight": "qkv hidden",
        "attn.Wo.weight": "hidden query",
        "mlp_norm.weight": "hidden",
        "mlp.Wi.weight": "gate_up hidden",
        "mlp.Wo.weight": "hidden feed",
    }


MODERN_BERT: dict[str, Any] = {
    "model_type": "modernbert",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "local_attention": 8,  # less than the prompt
    "global_rope_theta": 160000.0,
    "local_rope_theta": 1000.0,
    "global_attn_every_n_layers": 3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ENCODERS += (
    Spec(
        "modern-bert",
        MODERN_BERT | {"architectures": "ModernBertModel", "hidden_activation": "gelu"},
        modern_bert_layer,
        seed=60,
        layers=5,
        blocks="layers.{}.",
        embed="embeddings.tok_embeddings.weight",
        ends=MODERN_BERT_ENDS,
        heads_kv=4,
        pre="modern-bert",
        plain=True,
        tied=True,
        gguf="modern-bert",
        files=modules("mean_tokens"),
    ),
    Spec(
        "modern-bert-silu",
        MODERN_BERT
        | {
            "architectures": "ModernBertForMaskedLM",
            "hidden_activation": "silu",
            "num_hidden_layers": 3,
            "global_attn_every_n_layers": 2,
        },
        modern_bert_layer,
        seed=61,
        layers=3,
        blocks="model.layers.{}.",
        embed="model.embeddings.tok_embeddings.weight",
        ends={f"model.{name}": shape for name, shape in MODERN_BERT_ENDS.items()}
        | MODERN_BERT_HEAD,
        heads_kv=4,
        pre="modern-bert",
        plain=True,
        tied=True,
        gguf="modern-bert",
        files=modules("cls_token", normalize=False),
        left_out=tuple(MODERN_BERT_HEAD),
        now=lambda name: name.removeprefix("model."),
    ),
)


# -- Jina-BERT v2 ---------------------------------------------------------------------------------

# Six heads: the slopes of the last two lie between those of four.
JINA = BERT | {
    "architectures": "JinaBertModel",
    "model_type": "bert",
    "hidden_size": 96,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
}
JINA_LAYER = {name: shape for name, shape in BERT_LAYER.items() if name.startswith("attention.")}
ENCODERS += (
    Spec(
        "jina-bert-v2",
        JINA,
        JINA_LAYER
        | {"mlp.gated_layers.weight": "gate_up hidden"}
        | both("mlp.wo", "hidden feed")
        | both("mlp.layernorm", "hidden"),
        seed=54,
        blocks="encoder.layer.{}.",
        embed="embeddings.word_embeddings.weight",
        ends={name: shape for name, shape in BERT_ENDS.items() if "position" not in name} | POOLER,
        sizes={"hidden": 96, "types": 2},
        pre="wordpiece",
        plain=True,
        tied=True,
        gguf="jina-bert-v2",
        files=modules("mean_tokens", size=96),
        left_out=tuple(POOLER),
    ),
)


# -- EmbeddingGemma -------------------------------------------------------------------------------

DENSE = 96
DENSE_SHAPES = {"2_Dense": (DENSE, 64), "3_Dense": (64, DENSE)}
GEMMA_EMBEDDING: dict[str, Any] = {
    "architectures": "Gemma3TextModel",
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1000.0,
    "sliding_window": 8,  # less than the prompt
    "sliding_window_pattern": 2,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": True,
}


def dense_modules() -> dict[str, object]:
    """The files of a pooling with two dense layers after it."""
    found = modules("mean_tokens")
    steps = {
        "": "Transformer",
        "1_Pooling": "Pooling",
        "2_Dense": "Dense",
        "3_Dense": "Dense",
        "4_Normalize": "Normalize",
    }
    found["modules.json"] = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(steps.items())
    ]
    for name, (after, before) in DENSE_SHAPES.items():
        found[f"{name}/config.json"] = {
            "in_features": before,
            "out_features": after,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
    return found


def gemma_embedding(name: str, seed: int, **more: Any) -> Spec:
    """A Gemma 3 that sees the tokens after each one too."""
    return Spec(
        name,
        GEMMA_EMBEDDING | more.pop("config", {}),
        ATTENTION
        | HEAD_NORMS
        | GATED
        | NORMS
        | {
            "pre_feedforward_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
        seed=seed,
        layers=3,
        blocks="layers.{}.",
        embed="embed_tokens.weight",
        head_dim=32,
        pre="spm",
        tied=True,
        plus_one=True,
        gguf="gemma-embedding",
        **more,
    )


ENCODERS += (
    gemma_embedding(
        "gemma-embedding",
        62,
        ends={
            "norm.weight": "hidden",
            "2_Dense/linear.weight": f"{DENSE} hidden",
            "3_Dense/linear.weight": f"hidden {DENSE}",
        },
        files=dense_modules(),
    ),
    gemma_embedding(
        "gemma-embedding-linear-rope",
        63,
        config={"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ends={"norm.weight": "hidden"},
        files=modules("lasttoken", normalize=False),
    ),
)


# -- T5 -------------------------------------------------------------------------------------------


def t5_attention(name: str) -> dict[str, str]:
    return {f"{name}.{part}.weight": "query hidden" for part in "qkv"} | {
        f"{name}.o.weight": "hidden query"
    }


def t5_network(number: int, *, gated: bool) -> dict[str, str]:
    at = f"layer.{number}"
    inner = ("wi_0", "wi_1") if gated else ("wi",)
    return {
        **{f"{at}.DenseReluDense.{name}.weight": "feed hidden" for name in inner},
        f"{at}.DenseReluDense.wo.weight": "hidden feed",
        f"{at}.layer_norm.weight": "hidden",
    }


def t5_tensors(*, gated: bool, decoder_layers: int) -> dict[str, str]:
    """All tensors but the shared embedding and the output, in two layers of the encoder."""
    found: dict[str, str] = {}
    for stack, layers in (("encoder", 2), ("decoder", decoder_layers)):
        for layer in range(layers):
            parts = t5_attention("layer.0.SelfAttention") | {"layer.0.layer_norm.weight": "hidden"}
            if not layer:
                table = "layer.0.SelfAttention.relative_attention_bias.weight"
                parts[table] = "buckets heads"
            if stack == "decoder":
                parts |= t5_attention("layer.1.EncDecAttention")
                parts["layer.1.layer_norm.weight"] = "hidden"
            parts |= t5_network(1 if stack == "encoder" else 2, gated=gated)
            found |= {f"{stack}.block.{layer}.{name}": shape for name, shape in parts.items()}
        if layers:
            found[f"{stack}.final_layer_norm.weight"] = "hidden"
    return found


T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 64,
    "d_ff": 96,
    "d_kv": 16,
    "num_layers": 2,
    "num_heads": 4,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def t5(name: str, seed: int, *, gated: bool, decoder_layers: int, **more: Any) -> Spec:
    """A T5 with as many layers in its decoder; 0 for an encoder alone."""
    kind = "gated-gelu" if gated else "relu"
    config = T5 | {"feed_forward_proj": kind, "tie_word_embeddings": not gated}
    if decoder_layers:
        config |= {"architectures": "T5ForConditionalGeneration"}
        config |= {"num_decoder_layers": decoder_layers, "decoder_start_token_id": 0}
        config |= {"is_encoder_decoder": True}
    else:
        config |= {"architectures": "T5EncoderModel"}
    return Spec(
        name,
        config,
        {},
        seed=seed,
        embed="shared.weight",
        embedding=0.1,
        ends=t5_tensors(gated=gated, decoder_layers=decoder_layers),
        sizes={"buckets": 8, "heads": 4},
        heads_kv=4,
        pre="t5",
        plain=True,
        tied=not gated or not decoder_layers,
        gguf="t5" if decoder_layers else "t5encoder",
        gated=gated,
        **more,
    )


TRANSLATORS = (
    t5("t5", 50, gated=False, decoder_layers=2),
    t5("t5-gated", 51, gated=True, decoder_layers=1),
)
ENCODERS += (t5("t5-encoder", 52, gated=True, decoder_layers=0, files=modules("mean_tokens")),)
