"""Settings that change a model's arithmetic in ways that its architecture here does not have.

Passing over one would give a model that runs and says something else. A setting may be there with
the value at which it does nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["refuse_config", "refuse_metadata"]

# Keys of config.json that other members of the decoder family read -> the values without effect,
# besides null, false, 0 and an empty list.
_CONFIG: Mapping[str, tuple[object, ...]] = {
    "attention_chunk_size": (),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "attn_temperature_tuning": (),
    "clip_qkv": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "kv_lora_rank": (),
    "llama_4_scaling": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "n_routed_experts": (),
    "no_rope_layer_interval": (),
    "no_rope_layers": (),
    "num_experts": (),
    "num_local_experts": (),
    "partial_rotary_factor": (1,),
    "qk_layernorm": (),
    "qk_norm": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    "use_alibi": (),
    "use_bidirectional_attention": (),
    "use_parallel_residual": (),
    "use_qk_norm": (),
}
# Keys of GGUF metadata below the architecture's name that say nothing about arithmetic, or that
# llama.cpp does not read for these architectures.
_PLAIN = frozenset(
    {"vocab_size", "rope.dimension_count", "rope.scaling.finetuned", "tensor_data_layout"}
)
_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "expert_weights_scale": (0, 1),
}


def refuse_config(config: Values, known: Collection[str] = ()) -> None:
    """Refuse a config.json with a setting that would be passed over; `known` are read elsewhere.

    Raises:
        UnsupportedError: there is one; it is named with its value.
    """
    for key, without_effect in _CONFIG.items():
        value = config.raw(key)
        if key not in known and value and value not in without_effect:
            raise UnsupportedError(
                f"{config.path}: {key} is {value!r:.60}, which this architecture has not got in "
                "GGUF"
            )
    layers = config.raw("layer_types")
    if "layer_types" not in known and isinstance(layers, list):
        other = next((kind for kind in layers if kind != "full_attention"), None)
        if other is not None:
            raise UnsupportedError(
                f"{config.path}: layer_types has {other!r:.60}, which this architecture has not "
                "got in GGUF"
            )


def refuse_metadata(metadata: Values, known: Collection[str]) -> None:
    """Refuse GGUF metadata of the architecture with a key that would be passed over.

    `known` are the keys that are read, without the architecture's name.

    Raises:
        UnsupportedError: there is one; it is named with its value.
    """
    for full in metadata:
        key = full.removeprefix(metadata.prefix)
        if key == full or key in known or key in _PLAIN:
            continue
        value = metadata.raw(key)
        if value not in _WITHOUT_EFFECT.get(key, (0, "", [])):
            raise UnsupportedError(
                f"{metadata.path}: {full} is {value!r:.60}, which has no place in config.json"
            )
