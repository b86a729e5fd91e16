"""Jina-BERT v2: BERT whose attention is weaker by distance (ALiBi), with a gated network.

Gate and values of the network stay one matrix in GGUF, the gate first. The variant for code
(jina-embeddings-v2-base-code) has them the other way round and further norms; it is not known here.
"""

from __future__ import annotations

from dataclasses import replace

from edgellm_converters.architectures.bert import BERT
from edgellm_converters.architectures.family import Tensor
from edgellm_converters.architectures.values import Values

__all__ = ["JINA_BERT"]

# What a missing key means to the published class, where that is not what the graph has.
ABSENT = {"position_embedding_type": "absolute", "feed_forward_type": "original"}
CODE = "jinaai/jina-bert-implementation--"


def _usual(config: Values) -> Values:
    return config.updated({key: value for key, value in ABSENT.items() if key not in config})


JINA_BERT = replace(
    BERT,
    name="jina-bert-v2",
    claimed=None,
    hf_names=("JinaBertModel", "JinaBertForMaskedLM"),
    ends=(
        Tensor("token_embd", "embeddings.word_embeddings", "vocabulary hidden"),
        Tensor("token_types", "embeddings.token_type_embeddings", "token_types hidden"),
        Tensor("token_embd_norm", "embeddings.LayerNorm", "hidden", bias=True),
    ),
    layer=(
        *BERT.layer[:5],  # the attention and its norm
        Tensor("ffn_up", "mlp.gated_layers", "gate_up hidden"),
        Tensor("ffn_down", "mlp.wo", "hidden feed", bias=True),
        Tensor("layer_output_norm", "mlp.layernorm", "hidden", bias=True),
    ),
    fixed={
        **BERT.fixed,
        "position_embedding_type": ("alibi",),
        "feed_forward_type": ("geglu",),
    },
    # The model's own class; by model_type alone it would be read as a BERT.
    written={
        **BERT.written,
        "auto_map": {
            "AutoConfig": f"{CODE}configuration_bert.JinaBertConfig",
            "AutoModel": f"{CODE}modeling_bert.JinaBertModel",
        },
    },
    usual=_usual,
)
