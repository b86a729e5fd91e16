"""Llama and what shares its graph: LlamaForCausalLM, MistralForCausalLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import U32, Decoder, Keys, TensorRule, Transform
from edgellm_converters.architectures.common import (
    STORED_KEYS,
    common_config,
    common_keys,
    read_sizes,
    read_stored_sizes,
)
from edgellm_converters.architectures.neutral import refuse_config, refuse_metadata
from edgellm_converters.architectures.rope import factors, from_metadata, read_rope
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["LLAMA", "Llama"]


class Llama:
    """Rotary attention with grouped heads, RMS norms before each half, a gated SiLU network."""

    name = "llama"
    hf_names = ("LlamaForCausalLM", "MistralForCausalLM")

    def from_config(self, config: Values, notes: list[str]) -> Decoder:
        """Read config.json; see `Architecture`."""
        activation = config.text("hidden_act", "silu")
        if activation != "silu":
            raise UnsupportedError(
                f"{config.path}: hidden_act is {activation!r:.60}; Llama in GGUF has silu"
            )
        refuse_config(config)
        layers = config.raw("layer_types")
        if isinstance(layers, list) and set(map(str, layers)) - {"full_attention"}:
            raise UnsupportedError(f"{config.path}: layer_types that differ are not known here")
        sizes = read_sizes(config)
        theta, scaling = read_rope(config, 10_000.0)
        if "sliding_window" in config and config.integer("sliding_window") < sizes.context:
            notes.append(
                f"sliding_window {config.raw('sliding_window')} is left out: llama.cpp lets every "
                "token of this architecture see the whole context"
            )
        bias = config.flag("attention_bias", False)
        return Decoder(
            **asdict(sizes),
            rope_theta=theta,
            scaling=scaling,
            tied=config.flag("tie_word_embeddings", False),
            attention_bias=bias,
            output_bias=bias,
            mlp_bias=config.flag("mlp_bias", False),
        )

    def from_metadata(self, metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> Decoder:
        """Read GGUF metadata; see `Architecture`. The caller reads a rope_freqs.weight."""
        if metadata.integer("expert_count", 0, least=0):
            raise UnsupportedError(f"{metadata.path}: mixtures of experts are not known here yet")
        # llama.cpp's Llama has no window, whatever the file says.
        refuse_metadata(metadata, (*STORED_KEYS, "attention.sliding_window"))
        attention, output = "blk.0.attn_q.bias" in shapes, "blk.0.attn_output.bias" in shapes
        if attention != output:
            raise UnsupportedError(
                f"{metadata.path}: biases on some attention matrices alone have no Hugging Face "
                "Llama form"
            )
        sizes = read_stored_sizes(metadata, shapes)
        if metadata.integer("vocab_size", sizes.vocabulary) != sizes.vocabulary:
            raise ConfigError(
                f"{metadata.path}: llama.vocab_size is {metadata.raw('vocab_size')}, but "
                f"token_embd.weight has {sizes.vocabulary} rows"
            )
        return Decoder(
            **asdict(sizes),
            rope_theta=metadata.number("rope.freq_base", 10_000.0),
            scaling=from_metadata(metadata),
            tied="output.weight" not in shapes,
            attention_bias=attention,
            output_bias=output,
            mlp_bias="blk.0.ffn_gate.bias" in shapes,
        )

    def config(self, decoder: Decoder) -> dict[str, object]:
        """Give config.json; see `Architecture`."""
        return common_config(self.hf_names[0], "llama", decoder) | {
            "hidden_act": "silu",
            "attention_bias": decoder.attention_bias,
            "mlp_bias": decoder.mlp_bias,
            "attention_dropout": 0.0,
        }

    def metadata(self, decoder: Decoder) -> Keys:
        """Give the GGUF keys; see `Architecture`."""
        return common_keys(self.name, decoder) | {
            "llama.vocab_size": (U32, decoder.vocabulary),
            "llama.rope.dimension_count": (U32, decoder.head_dim),
        }

    def rules(self, decoder: Decoder) -> list[TensorRule]:
        """Give the tensors; see `Architecture`."""
        d = decoder
        query, key = d.heads * d.head_dim, d.heads_kv * d.head_dim
        rules = [
            TensorRule("token_embd.weight", "model.embed_tokens.weight", (d.vocabulary, d.hidden)),
            TensorRule("output_norm.weight", "model.norm.weight", (d.hidden,)),
        ]
        if not d.tied:
            rules.append(TensorRule("output.weight", "lm_head.weight", (d.vocabulary, d.hidden)))
        plain, rope = Transform.PLAIN, Transform.ROPE
        for layer in range(d.layers):
            to, of = f"blk.{layer}.", f"model.layers.{layer}."
            for name, hf, rows, columns, transform, bias in (
                ("attn_q", "self_attn.q_proj", query, d.hidden, rope, d.attention_bias),
                ("attn_k", "self_attn.k_proj", key, d.hidden, rope, d.attention_bias),
                ("attn_v", "self_attn.v_proj", key, d.hidden, plain, d.attention_bias),
                ("attn_output", "self_attn.o_proj", d.hidden, query, plain, d.output_bias),
                ("ffn_gate", "mlp.gate_proj", d.feed_forward, d.hidden, plain, d.mlp_bias),
                ("ffn_up", "mlp.up_proj", d.feed_forward, d.hidden, plain, d.mlp_bias),
                ("ffn_down", "mlp.down_proj", d.hidden, d.feed_forward, plain, d.mlp_bias),
            ):
                head = d.head_dim if transform is rope else 0
                weight = TensorRule(
                    f"{to}{name}.weight", f"{of}{hf}.weight", (rows, columns), transform, head
                )
                rules.append(weight)
                if bias:
                    rules.append(
                        TensorRule(f"{to}{name}.bias", f"{of}{hf}.bias", (rows,), transform, head)
                    )
            for name, hf in (
                ("attn_norm", "input_layernorm"),
                ("ffn_norm", "post_attention_layernorm"),
            ):
                rules.append(TensorRule(f"{to}{name}.weight", f"{of}{hf}.weight", (d.hidden,)))
        return rules

    def generated(self, decoder: Decoder) -> dict[str, npt.NDArray[np.float32]]:
        """Give rope_freqs.weight where the scaling is llama3's; see `Architecture`."""
        scaling = decoder.scaling
        if scaling is None or scaling.kind != "llama3":
            return {}
        return {"rope_freqs.weight": factors(scaling, decoder.rope_theta, decoder.head_dim)}

    def unused(self, decoder: Decoder) -> tuple[str, ...]:
        """Give the endings of names to leave out; see `Architecture`."""
        # Old checkpoints carry the frequencies; a tied model may carry its embedding twice.
        return (".rotary_emb.inv_freq", *(("lm_head.weight",) if decoder.tied else ()))


LLAMA = Llama()
