"""DeepSeek V2 and V3: latent attention, and experts beside networks that every token goes through.

Keys and values come out of one small latent vector by `kv_b_proj`. llama.cpp multiplies queries by
the part for keys instead, so GGUF has it apart from that for values, with rows and columns of each
head changed. Only the last part of a head is rotated, by neighbouring pairs on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgellm_converters.architectures.base import F32, U32, Decoder, Keys, Side, Sizes, Transform
from edgellm_converters.architectures.experts import EXPERTS, counts
from edgellm_converters.architectures.family import (
    EMBEDDING,
    FINAL_NORM,
    GATED,
    HEAD,
    Family,
    Part,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.rope import (
    RopeScaling,
    from_metadata,
    mlx_scaling,
    read_rope,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["DEEPSEEK2", "DEEPSEEK3"]

SOFTMAX, SIGMOID = 1, 2  # of expert_gating_func
EPSILON = 1e-6  # of the norms of latent vectors, which has no key in config.json
QUERY_LATENT = 1536  # where config.json says nothing
MAX_HEADS = 1 << 16
_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"


# -- tensors --------------------------------------------------------------------------------------


def _dense(decoder: Decoder, layer: int) -> bool:
    return layer < decoder.leading_dense


def _mixed(decoder: Decoder, layer: int) -> bool:
    return layer >= decoder.leading_dense


def _keys(decoder: Decoder) -> Iterable[Part]:
    """Give the rows of `kv_b_proj` that make keys of the latent vector, head by head."""
    plain, pair = decoder.plain_dim, decoder.plain_dim + decoder.value_dim
    for head in range(decoder.heads):
        yield Part(head * decoder.key_latent, head * pair, decoder.key_latent, plain)


def _values(decoder: Decoder) -> Iterable[Part]:
    """Give those that make values."""
    rows, pair = decoder.value_dim, decoder.plain_dim + decoder.value_dim
    for head in range(decoder.heads):
        yield Part(head * rows, head * pair + decoder.plain_dim, rows)


_KEYS = Tensor(
    "attn_k_b",
    "self_attn.kv_b_proj",
    "heads key_latent plain_dim",
    Transform.TRANSPOSED,
    hf_shape="latent_pair key_latent",
    parts=_keys,
)
_VALUES = Tensor(
    "attn_v_b",
    "self_attn.kv_b_proj",
    "heads value_dim key_latent",
    hf_shape="latent_pair key_latent",
    parts=_values,
)
_ATTENTION = (
    Tensor("attn_q", "self_attn.q_proj", "latent_query hidden", when="!query_latent"),
    Tensor("attn_q_a", "self_attn.q_a_proj", "query_latent hidden", when="query_latent"),
    Tensor("attn_q_a_norm", "self_attn.q_a_layernorm", "query_latent", when="query_latent"),
    Tensor("attn_q_b", "self_attn.q_b_proj", "latent_query query_latent", when="query_latent"),
    Tensor("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", "latent_keys hidden"),
    Tensor("attn_kv_a_norm", "self_attn.kv_a_layernorm", "key_latent"),
    Tensor("attn_output", "self_attn.o_proj", "hidden latent_values"),
    Tensor("attn_norm", "input_layernorm", "hidden"),
    Tensor("ffn_norm", "post_attention_layernorm", "hidden"),
)
_NETWORKS = (
    *(replace(each, when=_dense) for each in GATED),
    Tensor("ffn_gate_inp", "mlp.gate", "experts hidden", when=_mixed),
    *(replace(each, when=_mixed) for each in EXPERTS),
    Tensor("ffn_gate_shexp", "mlp.shared_experts.gate_proj", "shared_feed hidden", when=_mixed),
    Tensor("ffn_up_shexp", "mlp.shared_experts.up_proj", "shared_feed hidden", when=_mixed),
    Tensor("ffn_down_shexp", "mlp.shared_experts.down_proj", "hidden shared_feed", when=_mixed),
)


# -- in -------------------------------------------------------------------------------------------


def _is_third(metadata: Values) -> bool:
    return metadata.raw("expert_gating_func") == SIGMOID


def _check(values: Values, decoder: Mapping[str, Any], sizes: Sizes) -> None:
    """Check what llama.cpp takes for granted."""
    # llama.cpp tells models without a latent of queries by their shape.
    whole = sizes.layers in (26, 27) or (sizes.layers == 48 and sizes.vocabulary == 128256)
    if whole != (decoder["query_latent"] == 0):
        raise UnsupportedError(
            f"{values.path}: a latent of queries of {decoder['query_latent']} values (0 for none) "
            f"with {sizes.layers} layers; llama.cpp has models without one of 26 and 27 layers "
            "alone, and none with one of as many"
        )
    if sizes.heads > MAX_HEADS or sizes.heads_kv != sizes.heads:
        raise ConfigError(
            f"{values.path}: {sizes.heads_kv} key-value heads for {sizes.heads} attention heads; "
            f"latent attention has as many of both, up to {MAX_HEADS}"
        )
    if sizes.norm_epsilon != EPSILON:
        raise UnsupportedError(
            f"{values.path}: the epsilon of norms is {sizes.norm_epsilon:g}; those of latent "
            f"vectors have {EPSILON:g}, and llama.cpp has one for all"
        )


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    named = "q_lora_rank" in config or "q_lora_rank" not in list(config)
    found: dict[str, Any] = {
        "query_latent": config.integer("q_lora_rank", QUERY_LATENT) if named else 0,
        "plain_dim": config.integer("qk_nope_head_dim", 128),
        "shared_feed": config.integer("n_shared_experts", 2)
        * config.integer("moe_intermediate_size", 1407),
        "scaling": _scaling(config),
    }
    _check(config, found, sizes)
    return found


def _read_third(config: Values, sizes: Sizes) -> dict[str, Any]:
    shared = config.integer("n_shared_experts", 1) * config.integer("moe_intermediate_size", 2048)
    return _read(config, sizes) | {"shared_feed": shared}


def _scaling(config: Values) -> RopeScaling | None:
    """Read yarn's scaling, which multiplies the products of queries and keys here, not sines.

    llama.cpp is told one slope for both, which is right where the two of config.json are alike.
    """
    scaling = read_rope(config, 10_000.0)[1]
    if scaling is None or scaling.factor == 1:
        return None
    for section in (config.section("rope_parameters"), config.section("rope_scaling")):
        if section is not None:
            slopes = section.raw("mscale"), section.raw("mscale_all_dim")
            if not slopes[1] or slopes[0] != slopes[1] or "attention_factor" in section:
                raise UnsupportedError(
                    f"{config.path}: rope scaling with mscale {slopes[0]!r:.40} and mscale_all_dim "
                    f"{slopes[1]!r:.40}; llama.cpp needs the two alike, and no attention_factor"
                )
            scaling = replace(scaling, attention_factor=0.0, slope=section.number("mscale"))
    return scaling


def _usual_stored(metadata: Values) -> Values:
    """Give sizes of heads before keys and values are made one latent head of llama.cpp's cache."""
    rotated = metadata.raw("rope.dimension_count")
    return metadata.updated(
        {
            "attention.key_length": rotated,
            "attention.value_length": rotated,
            "attention.head_count_kv": metadata.raw("attention.head_count"),
        }
    )


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    rotated = metadata.integer("rope.dimension_count")
    latent = metadata.integer("attention.kv_lora_rank")
    for key, size in (("key_length", latent + rotated), ("value_length", latent)):
        if metadata.integer(f"attention.{key}") != size:
            raise metadata.wrong(f"attention.{key}", f"the latent size {size}")
    if metadata.integer("attention.head_count_kv") != 1:
        raise metadata.wrong("attention.head_count_kv", "1")
    kind = metadata.integer("expert_gating_func", SOFTMAX)
    if kind not in (SOFTMAX, SIGMOID):
        raise UnsupportedError(f"{metadata.path}: expert_gating_func {kind} is not known here")
    query = "attention.q_lora_rank"
    found: dict[str, Any] = {
        "query_latent": metadata.integer(query) if query in metadata else 0,
        "plain_dim": metadata.integer("attention.key_length_mla") - rotated,
        "shared_feed": metadata.integer("expert_shared_count")
        * metadata.integer("expert_feed_forward_length"),
        "scaling": _stored_scaling(metadata),
    }
    if found["plain_dim"] < 1:
        raise metadata.wrong("attention.key_length_mla", f"more than the {rotated} rotated values")
    if metadata.integer("attention.head_count") > MAX_HEADS:
        raise metadata.wrong("attention.head_count", f"a number up to {MAX_HEADS}")
    return found


def _stored_scaling(metadata: Values) -> RopeScaling | None:
    scaling = from_metadata(metadata)
    if scaling is None:
        return None
    if scaling.attention_factor or _LOG_MULTIPLIER not in metadata:
        raise UnsupportedError(
            f"{metadata.path}: yarn without {_LOG_MULTIPLIER}, or with an attention factor beside "
            "it, has no place in config.json"
        )
    # A tenth of it is stored, in float32.
    return replace(scaling, slope=float(f"{10 * metadata.number(_LOG_MULTIPLIER):.6g}"))


# -- out ------------------------------------------------------------------------------------------


def _for_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:  # noqa: ARG001
    """Give a scaling that changes nothing where there is none: mlx-lm reads one in any case."""
    if decoder.scaling is not None:
        return {}
    none = RopeScaling("yarn", 1.0, decoder.context, slope=1.0)
    return {"rope_scaling": mlx_scaling(none)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {
        "q_lora_rank": decoder.query_latent or None,
        "qk_nope_head_dim": decoder.plain_dim,
        "qk_rope_head_dim": decoder.rotary,
        "n_shared_experts": decoder.shared_feed // decoder.expert_feed,
    }


def _more_keys(decoder: Decoder, gating: int) -> Keys:
    d = decoder
    keys: Keys = {
        # llama.cpp keeps the latent vector and the rotated part as one head for all.
        "attention.head_count_kv": (U32, 1),
        "attention.key_length": (U32, d.key_latent + d.rotary),
        "attention.value_length": (U32, d.key_latent),
        "attention.key_length_mla": (U32, d.plain_dim + d.rotary),
        "expert_shared_count": (U32, d.shared_feed // d.expert_feed),
        "expert_gating_func": (U32, gating),
    }
    if d.query_latent:
        keys["attention.q_lora_rank"] = (U32, d.query_latent)
    if d.scaling is not None:
        keys[_LOG_MULTIPLIER] = (F32, 0.1 * d.scaling.slope)
    return keys


def _settings(feed: int, experts: int, used: int, dense: int, scale: float) -> tuple[Setting, ...]:
    """Give the settings of both; the numbers are what config.json means where it has none."""
    return (
        *counts("n_routed_experts", experts, used),
        Setting(
            "expert_feed",
            "moe_intermediate_size",
            "expert_feed_forward_length",
            kind="integer",
            default=feed,
        ),
        Setting(
            "leading_dense",
            "first_k_dense_replace",
            "leading_dense_block_count",
            kind="integer",
            default=dense,
            stored=0,
            least=0,
        ),
        Setting(
            "expert_scale",
            "routed_scaling_factor",
            "expert_weights_scale",
            default=scale,
            stored=1.0,
        ),
        Setting(
            "key_latent", "kv_lora_rank", "attention.kv_lora_rank", kind="integer", default=512
        ),
        Setting(
            "value_dim",
            "v_head_dim",
            "attention.value_length_mla",
            kind="integer",
            default=128,
        ),
    )


_FIXED: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "moe_layer_freq": (1,),
    "tie_word_embeddings": (False,),
}
_READS_STORED = (
    *("attention.q_lora_rank", "attention.key_length_mla", "expert_shared_count"),
    *("expert_gating_func", _LOG_MULTIPLIER),
)

DEEPSEEK2 = Family(
    name="deepseek2",
    hf_names=("DeepseekV2ForCausalLM",),
    model_type="deepseek_v2",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=(*_ATTENTION, _KEYS, _VALUES, *_NETWORKS),
    settings=(
        *_settings(1407, 64, 6, 0, 1.0),
        # One group is none; llama.cpp weighs more of them otherwise than V2 does.
        Setting("expert_groups", "n_group", "expert_group_count", kind="integer", optional=True),
        Setting(
            "expert_groups_used",
            "topk_group",
            "expert_group_used_count",
            kind="integer",
            optional=True,
        ),
    ),
    fixed={
        **_FIXED,
        "mlp_bias": (False,),
        "norm_topk_prob": (False,),
        "scoring_func": ("softmax",),
        "topk_method": ("greedy",),
        "n_group": (1,),
        "topk_group": (1,),
    },
    written={"attention_dropout": 0.0},
    names={"head_dim": "qk_rope_head_dim"},
    head_dim=64,
    names_head_dim=True,
    names_rope=True,
    scalings=("yarn",),
    usual_stored=_usual_stored,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=lambda decoder: _more_keys(decoder, SOFTMAX),
    for_mlx=_for_mlx,
    reads=("q_lora_rank", "qk_nope_head_dim", "n_shared_experts"),
    reads_stored=_READS_STORED,
)

DEEPSEEK3 = replace(
    DEEPSEEK2,
    hf_names=("DeepseekV3ForCausalLM",),
    model_type="deepseek_v3",
    claimed=_is_third,
    layer=(
        *_ATTENTION,
        replace(_KEYS, mlx="self_attn.embed_q", mlx_as=Side.GGUF),
        replace(_VALUES, mlx="self_attn.unembed_out", mlx_as=Side.GGUF),
        *_NETWORKS,
        Tensor(
            "exp_probs_b",
            "mlp.gate.e_score_correction_bias",
            "experts",
            when=_mixed,
            suffix=".bias",
            hf_suffix="",
        ),
    ),
    settings=(
        *_settings(2048, 256, 8, 3, 2.5),
        Setting(
            "expert_norm",
            "norm_topk_prob",
            "expert_weights_norm",
            kind="flag",
            default=True,
            stored=False,
        ),
        Setting(
            "expert_groups", "n_group", "expert_group_count", kind="integer", default=8, stored=1
        ),
        Setting(
            "expert_groups_used",
            "topk_group",
            "expert_group_used_count",
            kind="integer",
            default=4,
            stored=1,
        ),
    ),
    fixed={
        **_FIXED,
        "rope_interleave": (True,),
        "scoring_func": ("sigmoid",),
        "topk_method": ("noaux_tc",),
    },
    for_mlx=None,
    read=_read_third,
    more_keys=lambda decoder: _more_keys(decoder, SIGMOID),
)
