"""LFM2: short convolutions in most layers and attention in some; and the same with experts.

A convolution over the last few tokens stands between two gates, which one matrix makes together
with its input. GGUF tells the layers with attention by their number of key-value heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgellm_converters.architectures.base import U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.experts import counts
from edgellm_converters.architectures.family import (
    EMBEDDING,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf_values import StoredType, ValueType
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["LFM2", "LFM2_MOE"]

MAX_LAYERS = 512
SIGMOID = 2  # of expert_gating_func
_I32_LIST = StoredType(ValueType.ARRAY, ValueType.INT32)


def _attends(decoder: Decoder, layer: int) -> bool:
    return layer in decoder.attention_layers


def _convolves(decoder: Decoder, layer: int) -> bool:
    return layer not in decoder.attention_layers


def _dense(decoder: Decoder, layer: int) -> bool:
    return layer < decoder.leading_dense


def _mixed(decoder: Decoder, layer: int) -> bool:
    return layer >= decoder.leading_dense


_MIXING = (
    Tensor("attn_norm", "operator_norm", "hidden"),
    Tensor("ffn_norm", "ffn_norm", "hidden"),
    Tensor("attn_q", "self_attn.q_proj", "query hidden", when=_attends),
    Tensor("attn_k", "self_attn.k_proj", "key hidden", when=_attends),
    Tensor("attn_v", "self_attn.v_proj", "key hidden", when=_attends),
    Tensor("attn_output", "self_attn.out_proj", "hidden query", when=_attends),
    Tensor("attn_q_norm", "self_attn.q_layernorm", "head", when=_attends),
    Tensor("attn_k_norm", "self_attn.k_layernorm", "head", when=_attends),
    Tensor(
        "shortconv.conv",
        "conv.conv",
        "hidden conv_kernel",
        hf_shape="hidden 1 conv_kernel",
        mlx_shape="hidden conv_kernel 1",
        when=_convolves,
    ),
    Tensor("shortconv.in_proj", "conv.in_proj", "three_hidden hidden", when=_convolves),
    Tensor("shortconv.out_proj", "conv.out_proj", "hidden hidden", when=_convolves),
)
_DENSE = (
    Tensor("ffn_gate", "feed_forward.w1", "feed hidden"),
    Tensor("ffn_down", "feed_forward.w2", "hidden feed"),
    Tensor("ffn_up", "feed_forward.w3", "feed hidden"),
)


def _usual(config: Values) -> Values:
    """Give the inner size as it is after the adjustment that the file may ask for."""
    found: dict[str, Any] = {}
    if "tie_embedding" in config:
        found["tie_word_embeddings"] = config.flag("tie_embedding")
    size = config.integer("block_ff_dim", config.integer("intermediate_size", 12288))
    if config.flag("block_auto_adjust_ff_dim", True):
        factor = config.number("block_ffn_dim_multiplier", 1.0)
        step = config.integer("block_multiple_of", 256)
        size = int(factor * int(2 * size / 3))
        size = step * -(-size // step)
    return config.updated(found | {"intermediate_size": size})


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    """Read which layers attend: a list of kinds, or of the layers' numbers."""
    kinds, listed = config.raw("layer_types"), config.raw("full_attn_idxs")
    if kinds is None and listed is not None:
        if not isinstance(listed, list) or len(listed) > MAX_LAYERS:
            raise config.wrong("full_attn_idxs", "a list of layers")
        kinds = ["full_attention" if at in listed else "conv" for at in range(sizes.layers)]
    kinds = ["full_attention"] * sizes.layers if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != sizes.layers:
        raise config.wrong("layer_types", f"a list of {sizes.layers} names")
    for kind in kinds:
        if kind not in ("full_attention", "conv"):
            raise UnsupportedError(
                f"{config.path}: layer_types has {kind!r:.60}, which is not known here"
            )
    attending = tuple(at for at, kind in enumerate(kinds) if kind == "full_attention")
    return {"attention_layers": attending}


def _heads_by_layer(metadata: Values) -> list[int]:
    listed = metadata.raw("attention.head_count_kv")
    if isinstance(listed, int) and not isinstance(listed, bool):
        listed = [listed] * min(metadata.integer("block_count"), MAX_LAYERS)
    if not isinstance(listed, list) or not all(type(each) is int for each in listed):
        raise metadata.wrong("attention.head_count_kv", "a number for each layer")
    return listed


def _usual_stored(metadata: Values) -> Values:
    heads = set(_heads_by_layer(metadata)) - {0}
    if len(heads) != 1:
        raise UnsupportedError(
            f"{metadata.path}: layers with {sorted(heads)!r:.60} key-value heads; config.json has "
            "one number for all that attend"
        )
    return metadata.updated({"attention.head_count_kv": heads.pop()})


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    heads = _heads_by_layer(metadata)
    if len(heads) != metadata.integer("block_count"):
        raise metadata.wrong("attention.head_count_kv", "a number for each layer")
    return {"attention_layers": tuple(at for at, count in enumerate(heads) if count)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    kinds = ["full_attention" if _attends(decoder, at) else "conv" for at in range(decoder.layers)]
    return {
        "layer_types": kinds,
        "full_attn_idxs": list(decoder.attention_layers),
        # mlx-lm and the first releases of the family read these.
        "tie_embedding": decoder.tied,
        "block_dim": decoder.hidden,
        "block_ff_dim": decoder.feed_forward,
        "block_auto_adjust_ff_dim": False,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 1,
    }


def _more_keys(decoder: Decoder) -> Keys:
    heads = [decoder.heads_kv * _attends(decoder, at) for at in range(decoder.layers)]
    return {
        "vocab_size": (U32, decoder.vocabulary),
        "attention.head_count_kv": (_I32_LIST, heads),
    }


LFM2 = Family(
    name="lfm2",
    hf_names=("Lfm2ForCausalLM",),
    model_type="lfm2",
    ends=(EMBEDDING, Tensor("token_embd_norm", "model.embedding_norm", "hidden"), HEAD),
    layer=(*_MIXING, *_DENSE),
    settings=(
        Setting("conv_kernel", "conv_L_cache", "shortconv.l_cache", kind="integer", default=3),
    ),
    fixed={"conv_bias": (False,)},
    norm=Norm("norm_eps", "attention.layer_norm_rms_epsilon", 1e-5),
    theta=1_000_000.0,
    square=True,
    tied=True,
    scalings=(),
    usual=_usual,
    usual_stored=_usual_stored,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    reads=("layer_types",),
)


def _bounded(config: Values, sizes: Sizes, notes: list[str]) -> None:  # noqa: ARG001
    if config.number("routed_scaling_factor", 1.0) != 1:
        raise UnsupportedError(
            f"{config.path}: routed_scaling_factor is {config.raw('routed_scaling_factor')!r:.60}; "
            "llama.cpp has none for lfm2moe"
        )


def _moe_config(decoder: Decoder) -> dict[str, object]:
    return _more_config(decoder) | {"routed_scaling_factor": 1.0}


def _moe_keys(decoder: Decoder) -> Keys:
    return _more_keys(decoder) | {"expert_gating_func": (U32, SIGMOID)}


def _read_stored_moe(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if metadata.integer("expert_gating_func") != SIGMOID:
        raise ConfigError(f"{metadata.path}: expert_gating_func is not {SIGMOID} (sigmoid)")
    return _read_stored(metadata, shapes)


LFM2_MOE = replace(
    LFM2,
    name="lfm2moe",
    hf_names=("Lfm2MoeForCausalLM",),
    model_type="lfm2_moe",
    layer=(
        *_MIXING,
        *(
            replace(each, when=_dense, mlx=f"feed_forward.{name}_proj")
            for each, name in zip(_DENSE, ("gate", "down", "up"), strict=True)
        ),
        Tensor("ffn_gate_inp", "feed_forward.gate", "experts hidden", when=_mixed),
        *(
            Tensor(
                f"ffn_{name}_exps",
                f"feed_forward.experts.{{}}.{hf}",
                shape,
                when=_mixed,
                mlx=f"feed_forward.switch_mlp.{name}_proj",
            )
            for name, hf, shape in (
                ("gate", "w1", "experts expert_feed hidden"),
                ("down", "w2", "experts hidden expert_feed"),
                ("up", "w3", "experts expert_feed hidden"),
            )
        ),
        Tensor(
            "exp_probs_b",
            "feed_forward.expert_bias",
            "experts",
            when=_mixed,
            suffix=".bias",
            hf_suffix="",
        ),
    ),
    settings=(
        *LFM2.settings,
        *counts("num_experts", 32, 4),
        Setting(
            "expert_feed",
            "moe_intermediate_size",
            "expert_feed_forward_length",
            kind="integer",
            default=1792,
        ),
        Setting(
            "leading_dense",
            "num_dense_layers",
            "leading_dense_block_count",
            kind="integer",
            default=2,
            stored=0,
            least=0,
        ),
    ),
    fixed={"conv_bias": (False,), "use_expert_bias": (True,), "norm_topk_prob": (True,)},
    usual=None,
    checks=(_bounded,),
    read_stored=_read_stored_moe,
    more_config=_moe_config,
    more_keys=_moe_keys,
    reads_stored=("expert_gating_func",),
)
