"""Nomic-BERT: BERT with rotated positions, a gated network, and no biases in its matrices.

Its files were published with a class of their own, which has the keys of GPT-2; transformers has
the usual keys for the same model. Either is read, both are written. Tensors go by the published
names on both sides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgellm_converters.architectures.base import Decoder, Sizes
from edgellm_converters.architectures.bert import BERT, BERT_HEADS, rename
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import Tensor
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["NOMIC_BERT"]

# Published key -> that of transformers.
NAMES = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "layer_norm_epsilon": "layer_norm_eps",
}
# What a missing key means to the published class, where that is not what the graph has.
ABSENT: dict[str, object] = {
    "activation_function": "gelu_new",
    "rotary_emb_fraction": 0.0,
    "qkv_proj_bias": True,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
}
TRAINED = 2048  # tokens of the texts that the published models were trained on,
PUBLISHED = 8192  # and the positions that their files name
THETA = 1000.0


def _usual(config: Values) -> Values:
    """Give the published keys.

    Raises:
        ConfigError: the two forms contradict each other.
        UnsupportedError: some layers have experts.
    """
    if config.raw("moe_every_n_layers") not in (None, 0, -1):
        raise UnsupportedError(
            f"{config.path}: moe_every_n_layers is {config.raw('moe_every_n_layers')!r:.60}; the "
            "variant with a mixture of experts (nomic-bert-moe) is not known here"
        )
    pairs = NAMES.items()
    if "n_embd" not in config:
        context = config.raw("max_position_embeddings")
        changes = {old: config.raw(new) for old, new in pairs if new in config}
        return config.updated({"layer_norm_epsilon": 1e-12, **changes, "n_positions": context})
    for old, new in pairs:
        if old in config and new in config and config.raw(old) != config.raw(new):
            raise config.wrong(new, f"the {config.raw(old)!r:.60} of {old}")
    rope = config.section("rope_parameters")
    theta = config.number("rotary_emb_base", THETA)
    if rope is not None and rope.number("rope_theta", theta) != theta:
        raise ConfigError(
            f"{config.path}: rope_theta is {rope.raw('rope_theta')}, but rotary_emb_base {theta:g}"
        )
    return config.updated({key: value for key, value in ABSENT.items() if key not in config})


def _trained(config: Values, sizes: Sizes) -> int:
    return min(sizes.context, config.integer("max_trained_positions", TRAINED))


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    return {
        "token_types": config.integer("type_vocab_size", 2),
        "context": _trained(config, sizes),
    }


def _note_context(config: Values, sizes: Sizes, notes: list[str]) -> None:
    trained = _trained(config, sizes)
    if trained < sizes.context:
        notes.append(
            f"n_positions is {sizes.context}, but the model was trained on {trained} tokens "
            "(max_trained_positions), which becomes its context"
        )


def _more_config(decoder: Decoder) -> dict[str, object]:
    context = decoder.context
    return {
        "type_vocab_size": decoder.token_types,
        "n_positions": PUBLISHED if context == TRAINED else context,
        "max_trained_positions": context,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.feed_forward,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "layer_norm_eps": decoder.norm_epsilon,
        "max_position_embeddings": context,
        "rope_parameters": {"rope_type": "default", "rope_theta": decoder.rope_theta},
    }


def _rename(name: str) -> str:
    """Strip what stands before names in models with heads, published and of transformers."""
    return rename(name.removeprefix("nomic_bert."))


NOMIC_BERT = replace(
    BERT,
    name="nomic-bert",
    claimed=None,
    hf_names=("NomicBertModel", "NomicBertForMaskedLM", "NomicBertForPreTraining"),
    model_type="nomic_bert",
    blocks="encoder.layers.{}.",
    ends=(
        Tensor("token_embd", "embeddings.word_embeddings", "vocabulary hidden"),
        Tensor("token_types", "embeddings.token_type_embeddings", "token_types hidden"),
        Tensor("token_embd_norm", "emb_ln", "hidden", bias=True),
    ),
    layer=(
        Tensor("attn_qkv", "attn.Wqkv", "qkv hidden"),
        Tensor("attn_output", "attn.out_proj", "hidden hidden"),
        Tensor("attn_output_norm", "norm1", "hidden", bias=True),
        Tensor("ffn_up", "mlp.fc11", "feed hidden"),
        Tensor("ffn_gate", "mlp.fc12", "feed hidden"),
        Tensor("ffn_down", "mlp.fc2", "hidden feed"),
        Tensor("layer_output_norm", "norm2", "hidden", bias=True),
    ),
    names={
        **{new: old for old, new in NAMES.items()},
        "max_position_embeddings": "n_positions",
        "rope_theta": "rotary_emb_base",
    },
    norm=Norm("layer_norm_epsilon", "attention.layer_norm_epsilon", 1e-5),
    feed_factor=4,
    rotates=True,
    theta=THETA,
    scalings=(),
    fixed={
        "activation_function": ("swiglu",),
        "hidden_act": ("silu",),
        "causal": (False,),
        "prenorm": (False,),
        "parallel_block": (False,),
        "use_rms_norm": (False,),
        "qkv_proj_bias": (False,),
        "mlp_fc1_bias": (False,),
        "mlp_fc2_bias": (False,),
        "rotary_emb_fraction": (1.0, 1),
        "rotary_emb_interleaved": (False,),
        "rotary_emb_scale_base": (None,),
    },
    # The factor stretches positions beyond those of the training alone.
    written={"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    | {"rotary_scaling_factor": None},
    heads=(
        *BERT_HEADS,
        *(f"cls.predictions.transform.layer_norm.{end}" for end in ("weight", "bias")),
    ),
    usual=_usual,
    rename=_rename,
    read=_read,
    more_config=_more_config,
    checks=(_note_context,),
)
