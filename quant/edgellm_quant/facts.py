"""What the choice of types needs to know about a tensor and its model, and what a name means.

The rules about names are llama.cpp's: which tensors are never quantized, and which part a tensor
plays. They work on GGUF names ("blk.3.ffn_down.weight").
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ModelFacts", "Role", "TensorFacts", "is_quantizable", "layer_of", "role_of"]


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor: its GGUF name, its shape in numpy's order (columns last), its present format."""

    name: str
    shape: tuple[int, ...]
    source: str = "F32"

    @property
    def columns(self) -> int:
        """Values in a row."""
        return self.shape[-1]

    @property
    def dimensions(self) -> int:
        """Dimensions without leading ones, at least 1: a (1, 512) array is a vector to ggml."""
        leading = next((at for at, size in enumerate(self.shape) if size > 1), len(self.shape) - 1)
        return len(self.shape) - leading

    @property
    def is_stack(self) -> bool:
        """True for a stack of matrices, such as the experts of a layer."""
        return len(self.shape) >= 3 and self.shape[-3] > 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model: GGUF architecture name and counts (of the first layer where layers differ)."""

    architecture: str
    n_layers: int
    n_heads: int
    n_heads_kv: int
    n_experts: int = 0

    @property
    def heads_per_kv(self) -> int:
        """Query heads that share a key-value head; 0 without attention."""
        return self.n_heads // self.n_heads_kv if self.n_heads_kv else 0


class Role(enum.Enum):
    """The part a tensor plays, as far as recipes tell parts apart."""

    OUTPUT = "output"
    EMBEDDING = "embedding"
    VALUE = "attention value"
    KEY = "attention key"
    QUERY = "attention query"
    ATTENTION_OUTPUT = "attention output"
    DOWN = "feed-forward down"
    GATE = "feed-forward gate"
    UP = "feed-forward up"
    OTHER = "other"


_EXACT: Mapping[str, Role] = {
    "output.weight": Role.OUTPUT,
    "token_embd.weight": Role.EMBEDDING,
    "per_layer_token_embd.weight": Role.EMBEDDING,
}

# The first part that the name contains decides. Tensors that hold the value projection among
# others (attn_qkv, attn_kv_b) are treated as values.
_CONTAINS: tuple[tuple[str, Role], ...] = (
    ("attn_qkv.weight", Role.VALUE),
    ("attn_kv_b.weight", Role.VALUE),
    ("attn_v.weight", Role.VALUE),
    ("attn_k.weight", Role.KEY),
    ("attn_q.weight", Role.QUERY),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)

# Small or delicate tensors that keep their type: norms, routers, convolutions, positions, parts
# of RWKV, T5, Gemma 3n, vision and audio encoders. A name that contains one of these is kept.
_KEPT: tuple[str, ...] = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)

_KEPT_EXACT = frozenset({"position_embd.weight", "token_types.weight"})

# The same for single architectures.
_KEPT_IN: Mapping[str, tuple[str, ...]] = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ),
}

_LAYER = re.compile(r"blk\.(\d+)")


def role_of(name: str) -> Role:
    """Give the part that the tensor of that name plays."""
    if name in _EXACT:
        return _EXACT[name]
    return next((role for part, role in _CONTAINS if part in name), Role.OTHER)


def layer_of(name: str) -> int:
    """Give the layer in the name, or -1 if there is none."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def is_quantizable(tensor: TensorFacts, architecture: str) -> bool:
    """Tell whether a recipe may change the type of the tensor."""
    name = tensor.name
    return (
        tensor.dimensions >= 2
        and name.endswith("weight")
        and name not in _KEPT_EXACT
        and not any(part in name for part in _KEPT)
        and not any(part in name for part in _KEPT_IN.get(architecture, ()))
    )
