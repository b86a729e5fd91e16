"""Granite: Llama with multipliers of the embedding, the attention, each half and the logits."""

from __future__ import annotations

from edgellm_converters.architectures.family import EMBEDDING, FINAL_NORM, HEAD, Family, Setting
from edgellm_converters.architectures.llama import LAYER, SETTINGS, read_biases, read_stored_biases

__all__ = ["GRANITE", "MULTIPLIERS"]

MULTIPLIERS = (
    Setting("embedding_scale", "embedding_multiplier", "embedding_scale", default=1.0, stored=1.0),
    Setting("residual_scale", "residual_multiplier", "residual_scale", default=1.0, stored=1.0),
    Setting("attention_scale", "attention_multiplier", "attention.scale", default=1.0),
    Setting("logit_scale", "logits_scaling", "logit_scale", default=1.0),
)

GRANITE = Family(
    name="granite",
    hf_names=("GraniteForCausalLM",),
    model_type="granite",
    ends=(EMBEDDING, FINAL_NORM, HEAD),
    layer=LAYER,
    settings=(*SETTINGS, *MULTIPLIERS),
    fixed={"hidden_act": ("silu",)},
    written={"attention_dropout": 0.0},
    scalings=("linear", "yarn", "llama3"),
    names_rope=True,
    read=read_biases,
    read_stored=read_stored_biases,
)
