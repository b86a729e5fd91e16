"""GPT-NeoX and Pythia: both halves at once or not, each with a norm of its own.

Queries, keys and values of a head follow one another in one matrix; in GGUF all queries come
first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgellm_converters.architectures.base import BOOL, Decoder, Keys, Sizes
from edgellm_converters.architectures.checks import (
    four_times_in_mlx,
    no_scaling_in_mlx,
    note_gelu,
)
from edgellm_converters.architectures.common import LAYER_NORM
from edgellm_converters.architectures.family import Family, Part, Tensor
from edgellm_converters.architectures.values import Values

__all__ = ["GPTNEOX"]


def _by_head(decoder: Decoder) -> Iterator[Part]:
    size = decoder.head_dim
    for kind in range(3):
        for head in range(decoder.heads):
            yield Part((kind * decoder.heads + head) * size, (3 * head + kind) * size, size)


def _rename(name: str) -> str:
    """Newer folders have the usual name of the head."""
    return name.replace("lm_head.", "embed_out.")


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    return {"parallel": config.flag("use_parallel_residual", True)}


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    return {"parallel": metadata.flag("use_parallel_residual")}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"use_parallel_residual": decoder.parallel}


def _more_keys(decoder: Decoder) -> Keys:
    return {"use_parallel_residual": (BOOL, decoder.parallel)}


def _for_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:
    four_times_in_mlx(decoder)
    return no_scaling_in_mlx(decoder, notes)


GPTNEOX = Family(
    name="gptneox",
    hf_names=("GPTNeoXForCausalLM",),
    model_type="gpt_neox",
    blocks="gpt_neox.layers.{}.",
    mlx_blocks="model.h.{}.",
    names={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    rename=_rename,
    leaves=(".attention.bias", ".attention.masked_bias"),  # the causal mask
    ends=(
        Tensor("token_embd", "gpt_neox.embed_in", "vocabulary hidden", mlx="model.embed_in"),
        Tensor(
            "output_norm",
            "gpt_neox.final_layer_norm",
            "hidden",
            bias=True,
            mlx="model.final_layer_norm",
        ),
        Tensor("output", "embed_out", "vocabulary hidden", mlx="model.embed_out"),
    ),
    layer=(
        Tensor("attn_qkv", "attention.query_key_value", "qkv hidden", bias=True, parts=_by_head),
        Tensor("attn_output", "attention.dense", "hidden query", bias=True),
        Tensor("ffn_up", "mlp.dense_h_to_4h", "feed hidden", bias=True),
        Tensor("ffn_down", "mlp.dense_4h_to_h", "hidden feed", bias=True),
        Tensor("attn_norm", "input_layernorm", "hidden", bias=True),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden", bias=True),
    ),
    fixed={
        "hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
        "attention_bias": (True,),
        "tie_word_embeddings": (False,),
    },
    written={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    norm=LAYER_NORM,
    partial=0.25,
    grouped=False,
    square=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    for_mlx=_for_mlx,
    checks=(note_gelu,),
    reads=("use_parallel_residual",),
    reads_stored=("use_parallel_residual",),
)
