"""Gemma 3, text alone: Gemma3ForCausalLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import F32, U32, Decoder, Keys, TensorRule, Transform
from edgellm_converters.architectures.common import (
    STORED_KEYS,
    common_config,
    common_keys,
    read_sizes,
    read_stored_sizes,
)
from edgellm_converters.architectures.neutral import refuse_config, refuse_metadata
from edgellm_converters.architectures.rope import from_metadata, read_rope
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["GEMMA3", "Gemma3"]

# What transformers' Gemma3TextConfig and llama.cpp take where the file says nothing.
LOCAL_THETA = 10_000.0
THETA = 1_000_000.0
PATTERN = 6
QUERY_SCALAR = 256.0
ACTIVATION = "gelu_pytorch_tanh"
OWN_KEYS = (
    *("attention.sliding_window", "attention.sliding_window_pattern"),
    *("rope.freq_base_swa", "final_logit_softcapping"),
)
LAYERS_OF_27B = 62  # the one size whose attention scale is not that of its head


class Gemma3:
    """Local and global attention in turn, norms on queries and keys and around each half."""

    name = "gemma3"
    hf_names = ("Gemma3ForCausalLM",)

    def from_config(self, config: Values, notes: list[str]) -> Decoder:  # noqa: ARG002
        """Read config.json; see `Architecture`."""
        refuse_config(config, ("query_pre_attn_scalar", "final_logit_softcapping"))
        sizes = read_sizes(config)
        activation = config.text("hidden_activation", ACTIVATION)
        if activation != ACTIVATION:
            raise UnsupportedError(
                f"{config.path}: hidden_activation is {activation!r:.60}; Gemma 3 in GGUF has "
                f"{ACTIVATION}"
            )
        if config.flag("attention_bias", False):
            raise UnsupportedError(f"{config.path}: attention_bias has no place in GGUF's Gemma 3")
        scale = config.number("query_pre_attn_scalar", QUERY_SCALAR)
        if scale != _attention_scalar(sizes.layers, sizes.hidden, sizes.heads, sizes.head_dim):
            raise UnsupportedError(
                f"{config.path}: query_pre_attn_scalar is {scale:g}, which llama.cpp cannot be told"
            )
        theta, scaling = read_rope(config, THETA)
        if scaling is not None and scaling.kind != "linear":
            raise UnsupportedError(
                f"{config.path}: rope scaling of type {scaling.kind} is not known in Gemma 3"
            )
        local = config.number("rope_local_base_freq", LOCAL_THETA)
        parameters = config.section("rope_parameters")
        sliding = parameters.section("sliding_attention") if parameters else None
        if sliding is not None:
            local = sliding.number("rope_theta", local)
            if sliding.text("rope_type", "default") != "default":
                raise UnsupportedError(
                    f"{config.path}: llama.cpp scales no rope of layers with a window"
                )
        softcap = config.raw("final_logit_softcapping")
        return Decoder(
            **asdict(sizes),
            rope_theta=theta,
            scaling=scaling,
            tied=config.flag("tie_word_embeddings", True),
            rope_theta_local=local,
            sliding_window=config.integer("sliding_window", 4096),
            sliding_pattern=_pattern(config, sizes.layers),
            final_softcap=0.0 if softcap is None else config.number("final_logit_softcapping"),
        )

    def from_metadata(self, metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> Decoder:
        """Read GGUF metadata; see `Architecture`."""
        pattern = metadata.raw("attention.sliding_window_pattern")
        if isinstance(pattern, list):
            raise UnsupportedError(
                f"{metadata.path}: a list of sliding windows by layer is not known here"
            )
        softcap = "final_logit_softcapping" in metadata
        scaling = from_metadata(metadata)
        if scaling is not None and scaling.kind != "linear":
            raise UnsupportedError(
                f"{metadata.path}: rope scaling of type {scaling.kind} is not known in Gemma 3"
            )
        refuse_metadata(metadata, (*STORED_KEYS, *OWN_KEYS))
        return Decoder(
            **asdict(read_stored_sizes(metadata, shapes)),
            rope_theta=metadata.number("rope.freq_base", THETA),
            scaling=scaling,
            tied="output.weight" not in shapes,
            rope_theta_local=metadata.number("rope.freq_base_swa", LOCAL_THETA),
            sliding_window=metadata.integer("attention.sliding_window"),
            sliding_pattern=metadata.integer("attention.sliding_window_pattern", PATTERN),
            final_softcap=metadata.number("final_logit_softcapping") if softcap else 0.0,
        )

    def config(self, decoder: Decoder) -> dict[str, object]:
        """Give config.json; see `Architecture`."""
        d = decoder
        types = [
            "sliding_attention" if (layer + 1) % d.sliding_pattern else "full_attention"
            for layer in range(d.layers)
        ]
        return common_config(self.hf_names[0], "gemma3_text", d) | {
            "hidden_activation": ACTIVATION,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": d.final_softcap or None,
            "query_pre_attn_scalar": _attention_scalar(d.layers, d.hidden, d.heads, d.head_dim),
            "rope_local_base_freq": d.rope_theta_local,
            "sliding_window": d.sliding_window,
            "sliding_window_pattern": d.sliding_pattern,
            "layer_types": types,
        }

    def metadata(self, decoder: Decoder) -> Keys:
        """Give the GGUF keys; see `Architecture`."""
        keys = common_keys(self.name, decoder)
        # llama.cpp would take the hidden size over the heads, which is not Gemma's head size.
        keys["gemma3.attention.key_length"] = (U32, decoder.head_dim)
        keys["gemma3.attention.value_length"] = (U32, decoder.head_dim)
        keys["gemma3.attention.sliding_window"] = (U32, decoder.sliding_window)
        if decoder.sliding_pattern != PATTERN:
            keys["gemma3.attention.sliding_window_pattern"] = (U32, decoder.sliding_pattern)
        keys["gemma3.rope.freq_base_swa"] = (F32, decoder.rope_theta_local)
        if decoder.final_softcap:
            keys["gemma3.final_logit_softcapping"] = (F32, decoder.final_softcap)
        return keys

    def rules(self, decoder: Decoder) -> list[TensorRule]:
        """Give the tensors; see `Architecture`."""
        d = decoder
        query, key, norm = d.heads * d.head_dim, d.heads_kv * d.head_dim, Transform.PLUS_ONE
        rules = [
            TensorRule("token_embd.weight", "model.embed_tokens.weight", (d.vocabulary, d.hidden)),
            TensorRule("output_norm.weight", "model.norm.weight", (d.hidden,), norm),
        ]
        if not d.tied:
            rules.append(TensorRule("output.weight", "lm_head.weight", (d.vocabulary, d.hidden)))
        for layer in range(d.layers):
            to, of = f"blk.{layer}.", f"model.layers.{layer}."
            for name, hf, shape in (
                ("attn_q", "self_attn.q_proj", (query, d.hidden)),
                ("attn_k", "self_attn.k_proj", (key, d.hidden)),
                ("attn_v", "self_attn.v_proj", (key, d.hidden)),
                ("attn_output", "self_attn.o_proj", (d.hidden, query)),
                ("ffn_gate", "mlp.gate_proj", (d.feed_forward, d.hidden)),
                ("ffn_up", "mlp.up_proj", (d.feed_forward, d.hidden)),
                ("ffn_down", "mlp.down_proj", (d.hidden, d.feed_forward)),
            ):
                rules.append(TensorRule(f"{to}{name}.weight", f"{of}{hf}.weight", shape))
            for name, hf, size in (
                ("attn_q_norm", "self_attn.q_norm", d.head_dim),
                ("attn_k_norm", "self_attn.k_norm", d.head_dim),
                ("attn_norm", "input_layernorm", d.hidden),
                ("post_attention_norm", "post_attention_layernorm", d.hidden),
                ("ffn_norm", "pre_feedforward_layernorm", d.hidden),
                ("post_ffw_norm", "post_feedforward_layernorm", d.hidden),
            ):
                rules.append(TensorRule(f"{to}{name}.weight", f"{of}{hf}.weight", (size,), norm))
        return rules

    def generated(self, decoder: Decoder) -> dict[str, npt.NDArray[np.float32]]:  # noqa: ARG002
        """Give nothing: every tensor of the GGUF file comes from one of the folder."""
        return {}

    def unused(self, decoder: Decoder) -> tuple[str, ...]:
        """Give the endings of names to leave out; see `Architecture`."""
        return (".rotary_emb.inv_freq", *(("lm_head.weight",) if decoder.tied else ()))


def _attention_scalar(layers: int, hidden: int, heads: int, head_dim: int) -> int:
    """Give the number under the root that scales queries, as llama.cpp derives it."""
    return hidden // heads if layers == LAYERS_OF_27B else head_dim


def _pattern(config: Values, layers: int) -> int:
    """Read which layers see the whole context: every n-th, or a list of types that says so."""
    pattern = config.integer("sliding_window_pattern", PATTERN)
    types = config.raw("layer_types")
    if types is None:
        return pattern
    if not isinstance(types, list) or len(types) != layers:
        raise config.wrong("layer_types", f"a list of {layers} names")
    whole = [index + 1 for index, kind in enumerate(types) if kind == "full_attention"]
    # Without a whole layer, the first one would come after the last of them.
    pattern = whole[0] if whole else max(pattern, layers + 1)
    if whole != list(range(pattern, layers + 1, pattern)):
        raise UnsupportedError(f"{config.path}: layer_types do not follow one period")
    return pattern


GEMMA3 = Gemma3()
