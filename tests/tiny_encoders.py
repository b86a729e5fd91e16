"""Tiny embedding models as data: what `tiny.family` writes, with the files of their pooling.

Names, shapes and configurations are those that transformers gives these classes.
"""

from __future__ import annotations

from typing import Any

from tiny_families import Spec
from tiny_tokenizers import BYTE_LEVEL, added, byte_level


def modules(mode: str, *, normalize: bool = True) -> dict[str, object]:
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
            "word_embedding_dimension": 64,
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

ENCODERS = (
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
