"""ModernBERT: an encoder with rotated positions, and a window in all but each n-th layer.

The first layer sees the whole context and has no norm before its attention. Queries, keys and
values come of one matrix, and so do the two halves of the gated network. The layers with a window
rotate by a theta of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import TEXT, U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.checks import local_theta, stored_period
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import Family, Setting, Tensor
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["MODERN_BERT"]

# What transformers' ModernBertConfig takes where the file says nothing; llama.cpp's are the same
# but for the first theta.
THETA, LOCAL_THETA, STORED_THETA = 160_000.0, 10_000.0, 10_000.0
PATTERN = 3
PATTERN_KEY = "global_attn_every_n_layers"
ACTIVATIONS = ("gelu", "silu")


def _after_first(decoder: Decoder, layer: int) -> bool:  # noqa: ARG001
    return layer > 0


def _rename(name: str) -> str:
    """Strip what stands before names in the model with a head."""
    return name.removeprefix("model.")


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    return {
        "rope_theta_local": local_theta(config, "local_rope_theta", LOCAL_THETA),
        "sliding_pattern": _period(config, sizes.layers),
        "activation": _activation(config),
    }


def _period(config: Values, layers: int) -> int:
    """Read which layers see the whole context: the first, and every n-th after it.

    Raises:
        ConfigError: a number is wrong. With 1, no layer would have a window, which is not this
            architecture.
        UnsupportedError: the list of types does not follow one period.
    """
    pattern = config.integer(PATTERN_KEY, PATTERN, least=2)
    types = config.raw("layer_types")
    if types is None:
        return pattern
    if not isinstance(types, list) or len(types) != layers:
        raise config.wrong("layer_types", f"a list of {layers} names")
    whole = [layer for layer, kind in enumerate(types) if kind == "full_attention"]
    # Where the first layer alone is whole, the next one comes after the last.
    pattern = whole[1] if len(whole) > 1 else max(pattern, layers)
    if pattern < 2 or types != [_kind(layer, pattern) for layer in range(layers)]:
        raise UnsupportedError(
            f"{config.path}: layer_types do not follow one period from a full_attention at the "
            "first layer on"
        )
    return pattern


def _kind(layer: int, pattern: int) -> str:
    return "sliding_attention" if layer % pattern else "full_attention"


def _activation(values: Values) -> str:
    found = values.text("hidden_activation", "gelu")
    if found not in ACTIVATIONS:
        raise UnsupportedError(
            f"{values.path}: hidden_activation is {found!r:.80}; llama.cpp has "
            f"{' or '.join(ACTIVATIONS)} for this architecture"
        )
    return found


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    period = stored_period(metadata, PATTERN)
    if period < 2:
        raise metadata.wrong("attention.sliding_window_pattern", "a number from 2 on")
    return {"sliding_pattern": period, "activation": _activation(metadata)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {
        PATTERN_KEY: decoder.sliding_pattern,
        "hidden_activation": decoder.activation,
        # Published files have the epsilon under both names, and other converters read this one.
        "layer_norm_eps": decoder.norm_epsilon,
    }


def _more_keys(decoder: Decoder) -> Keys:
    return {
        "vocab_size": (U32, decoder.vocabulary),
        "attention.sliding_window_pattern": (U32, decoder.sliding_pattern),
        "rope.scaling.type": (TEXT, "none"),
        "hidden_activation": (TEXT, decoder.activation),
    }


MODERN_BERT = Family(
    name="modern-bert",
    hf_names=("ModernBertModel", "ModernBertForMaskedLM"),
    model_type="modernbert",
    blocks="layers.{}.",
    names={"rope_theta": "global_rope_theta"},
    ends=(
        Tensor("token_embd", "embeddings.tok_embeddings", "vocabulary hidden"),
        Tensor("token_embd_norm", "embeddings.norm", "hidden"),
        Tensor("output_norm", "final_norm", "hidden"),
    ),
    layer=(
        Tensor("attn_norm", "attn_norm", "hidden", when=_after_first),
        Tensor("attn_qkv", "attn.Wqkv", "three_hidden hidden"),
        Tensor("attn_output", "attn.Wo", "hidden hidden"),
        Tensor("ffn_norm", "mlp_norm", "hidden"),
        # The half that is activated, then the other: llama.cpp splits it so.
        Tensor("ffn_up", "mlp.Wi", "gate_up hidden"),
        Tensor("ffn_down", "mlp.Wo", "hidden feed"),
    ),
    settings=(
        Setting(
            "sliding_window",
            "local_attention",
            "attention.sliding_window",
            kind="integer",
            default=128,
            least=2,
        ),
        Setting(
            "rope_theta_local",
            "local_rope_theta",
            "rope.freq_base_swa",
            default=LOCAL_THETA,
            stored=LOCAL_THETA,
        ),
    ),
    fixed={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "norm_bias": (False,),
    },
    written={"attention_dropout": 0.0, "embedding_dropout": 0.0, "mlp_dropout": 0.0},
    rename=_rename,
    heads=(
        *("head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias"),
        *("decoder.weight", "decoder.bias"),
    ),
    norm=Norm("norm_eps", "attention.layer_norm_epsilon", 1e-5),
    theta=THETA,
    stored_theta=STORED_THETA,
    scalings=(),
    in_mlx=False,
    grouped=False,
    bidirectional=True,
    pools=True,
    tied=True,
    square=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    reads=("layer_types",),
    reads_stored=(
        *("attention.sliding_window_pattern", "hidden_activation"),
        # Other converters write these: a second epsilon, which llama.cpp does not read here, and
        # how a head for classes pools, which has no place here.
        *("attention.layer_norm_rms_epsilon", "classifier.pooling_type"),
    ),
)
