"""BERT and its kin with learned positions: BERT, RoBERTa, XLM-RoBERTa.

In GGUF the three are one architecture, told apart by their tokenizers. RoBERTa counts positions
from the row after that of the padding token on; the rows before are not in GGUF.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgellm_converters.architectures.base import U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.checks import of_tokenizer
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import Family, Part, Tensor
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError

__all__ = [
    "BERT",
    "BERT_HEADS",
    "ROBERTA",
    "XLM_ROBERTA",
    "read_types",
    "rename",
    "stored_types",
    "token_type_keys",
]

NORM = Norm("layer_norm_eps", "attention.layer_norm_epsilon", 1e-12)
PADDING = "tokenizer.ggml.padding_token_id"
MOST_OFFSET = 64  # rows of zeros that are made up; those in use have 2
# Heads for tasks: the encoder's vectors are what llama.cpp gives.
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
BERT_HEADS = (
    *_POOLER,
    "cls.predictions.bias",
    *(f"cls.predictions.decoder.{end}" for end in ("weight", "bias")),
    *(f"cls.predictions.transform.dense.{end}" for end in ("weight", "bias")),
    *(f"cls.predictions.transform.LayerNorm.{end}" for end in ("weight", "bias")),
    *(f"cls.seq_relationship.{end}" for end in ("weight", "bias")),
)
_ROBERTA_HEADS = (
    *_POOLER,
    "lm_head.bias",
    *(f"lm_head.{part}.{end}" for part in ("dense", "layer_norm") for end in ("weight", "bias")),
    *("lm_head.decoder.weight", "lm_head.decoder.bias"),
)


def rename(name: str) -> str:
    """Strip what stands before names in models with heads; old files call norms otherwise."""
    for prefix in ("bert.", "roberta."):
        name = name.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _positions(decoder: Decoder) -> Iterable[Part]:
    return [Part(0, decoder.position_offset, decoder.context)]


def read_types(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    """Read how many kinds of segments there are; llama.cpp takes every text for the first."""
    return {"token_types": config.integer("type_vocab_size", 2)}


def stored_types(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read the same off the tensor of their vectors.

    Raises:
        ConfigError: there is none.
    """
    shape = shapes.get("token_types.weight")
    if shape is None or len(shape) != 2:
        raise ConfigError(f"{metadata.path}: there is no matrix token_types.weight")
    return {"token_types": shape[0]}


def token_type_keys(decoder: Decoder) -> Keys:
    """Give the key without which llama.cpp refuses the model."""
    return {"tokenizer.ggml.token_type_count": (U32, decoder.token_types)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"type_vocab_size": decoder.token_types}


def _read_roberta(config: Values, sizes: Sizes) -> dict[str, Any]:
    offset = _offset(config, config.integer("pad_token_id", 1, least=0))
    if offset >= sizes.context:
        raise config.wrong("max_position_embeddings", f"more than {offset}")
    return {
        "token_types": config.integer("type_vocab_size", 2),
        "position_offset": offset,
        "context": sizes.context - offset,
    }


def _stored_roberta(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    padding = metadata.whole().integer(PADDING, least=0)
    return stored_types(metadata, shapes) | {"position_offset": _offset(metadata, padding)}


def _offset(values: Values, padding: int) -> int:
    """Give the row of the first position: the one after the padding token's."""
    if padding >= MOST_OFFSET:
        raise ConfigError(
            f"{values.path}: the padding token is {padding}; positions begin after it, within "
            f"{MOST_OFFSET} rows"
        )
    return padding + 1


BERT = Family(
    name="bert",
    claimed=of_tokenizer("bert"),
    hf_names=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    model_type="bert",
    blocks="encoder.layer.{}.",
    ends=(
        Tensor("token_embd", "embeddings.word_embeddings", "vocabulary hidden"),
        Tensor("token_types", "embeddings.token_type_embeddings", "token_types hidden"),
        Tensor(
            "position_embd",
            "embeddings.position_embeddings",
            "context hidden",
            hf_shape="positions hidden",
            parts=_positions,
        ),
        Tensor("token_embd_norm", "embeddings.LayerNorm", "hidden", bias=True),
    ),
    layer=(
        Tensor("attn_q", "attention.self.query", "hidden hidden", bias=True),
        Tensor("attn_k", "attention.self.key", "hidden hidden", bias=True),
        Tensor("attn_v", "attention.self.value", "hidden hidden", bias=True),
        Tensor("attn_output", "attention.output.dense", "hidden hidden", bias=True),
        Tensor("attn_output_norm", "attention.output.LayerNorm", "hidden", bias=True),
        Tensor("ffn_up", "intermediate.dense", "feed hidden", bias=True),
        Tensor("ffn_down", "output.dense", "hidden feed", bias=True),
        Tensor("layer_output_norm", "output.LayerNorm", "hidden", bias=True),
    ),
    fixed={
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    },
    written={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    rename=rename,
    leaves=("embeddings.position_ids", "embeddings.token_type_ids"),
    heads=BERT_HEADS,
    in_mlx=False,
    rotates=False,
    grouped=False,
    bidirectional=True,
    pools=True,
    tied=True,
    square=True,
    norm=NORM,
    read=read_types,
    read_stored=stored_types,
    more_config=_more_config,
    whole_keys=token_type_keys,
)

ROBERTA = replace(
    BERT,
    claimed=of_tokenizer("gpt2"),
    hf_names=("RobertaModel", "RobertaForMaskedLM"),
    model_type="roberta",
    heads=_ROBERTA_HEADS,
    read=_read_roberta,
    read_stored=_stored_roberta,
    reads=("pad_token_id",),
)

XLM_ROBERTA = replace(
    ROBERTA,
    claimed=of_tokenizer("t5"),
    hf_names=("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    model_type="xlm-roberta",
)
