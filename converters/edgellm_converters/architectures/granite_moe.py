"""Granite with experts, and with one more that every token goes through.

Hugging Face has the gate and the upper matrix of all experts of a layer in one tensor: for each
expert the rows of the gate, then those of the other. GGUF and MLX have them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from edgellm_converters.architectures.base import Decoder, Side
from edgellm_converters.architectures.experts import counts
from edgellm_converters.architectures.family import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Family,
    Part,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.granite import MULTIPLIERS
from edgellm_converters.architectures.llama import (
    ATTENTION,
    BIASES,
    NORMS,
    read_biases,
    read_stored_biases,
)
from edgellm_converters.architectures.values import Values

__all__ = ["GRANITE_MOE", "GRANITE_MOE_SHARED"]

_SHARED = "expert_shared_feed_forward_length"


def _half(which: int) -> Callable[[Decoder], Iterable[Part]]:
    """Give the parts that are the gate (0) or the upper matrix (1) of each expert."""

    def parts(decoder: Decoder) -> Iterable[Part]:
        rows = decoder.feed_forward
        for expert in range(decoder.experts):
            yield Part(expert * rows, (2 * expert + which) * rows, rows)

    return parts


def _shared_half(which: int) -> Callable[[Decoder], Iterable[Part]]:
    return lambda decoder: (Part(0, which * decoder.shared_feed, decoder.shared_feed),)


def _split(gguf: str, mlx: str, which: int) -> Tensor:
    return Tensor(
        gguf,
        "block_sparse_moe.input_linear",
        "experts feed hidden",
        hf_shape="experts gate_up hidden",
        parts=_half(which),
        mlx=f"block_sparse_moe.switch_mlp.{mlx}",
        mlx_as=Side.GGUF,
    )


def _split_shared(gguf: str, which: int) -> Tensor:
    return Tensor(
        gguf,
        "shared_mlp.input_linear",
        "shared_feed hidden",
        hf_shape="gate_up_shared hidden",
        parts=_shared_half(which),
    )


def _is_shared(metadata: Values) -> bool:
    return metadata.integer(_SHARED, 0, least=0) > 0


GRANITE_MOE = Family(
    name="granitemoe",
    hf_names=("GraniteMoeForCausalLM",),
    model_type="granitemoe",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        Tensor("ffn_gate_inp", "block_sparse_moe.router.layer", "experts hidden"),
        _split("ffn_gate_exps", "gate_proj", 0),
        _split("ffn_up_exps", "up_proj", 1),
        Tensor(
            "ffn_down_exps",
            "block_sparse_moe.output_linear",
            "experts hidden feed",
            mlx="block_sparse_moe.switch_mlp.down_proj",
        ),
        *NORMS,
    ),
    settings=(BIASES, *MULTIPLIERS, *counts("num_local_experts", 8, 2)),
    fixed={"hidden_act": ("silu",)},
    written={"attention_dropout": 0.0},
    scalings=("linear", "yarn", "llama3"),
    names_rope=True,
    read=read_biases,
    read_stored=read_stored_biases,
)

GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    hf_names=("GraniteMoeSharedForCausalLM",),
    model_type="granitemoeshared",
    claimed=_is_shared,
    in_mlx=False,
    layer=(
        *GRANITE_MOE.layer,
        _split_shared("ffn_gate_shexp", 0),
        _split_shared("ffn_up_shexp", 1),
        Tensor("ffn_down_shexp", "shared_mlp.output_linear", "hidden shared_feed"),
    ),
    settings=(
        *GRANITE_MOE.settings,
        Setting("shared_feed", "shared_intermediate_size", _SHARED, kind="integer"),
    ),
)
