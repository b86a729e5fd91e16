"""What families with experts share: the tensors of a layer's experts, and settings that count them.

A router chooses some of the experts for each token. Hugging Face has a tensor for each expert, GGUF
and MLX stack those of a layer.
"""

from __future__ import annotations

from typing import Any

from edgellm_converters.architectures.base import Sizes
from edgellm_converters.architectures.family import Setting, Tensor
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["EXPERTS", "counts", "has_experts", "needs_norm"]

EXPERTS = tuple(
    Tensor(gguf, f"mlp.experts.{{}}.{hf}", shape, mlx=f"mlp.switch_mlp.{hf}")
    for gguf, hf, shape in (
        ("ffn_gate_exps", "gate_proj", "experts expert_feed hidden"),
        ("ffn_up_exps", "up_proj", "experts expert_feed hidden"),
        ("ffn_down_exps", "down_proj", "experts hidden expert_feed"),
    )
)
"""The gated networks of the experts, as most families name them."""


def counts(key: str, experts: int, used: int) -> tuple[Setting, ...]:
    """Give the settings of how many experts there are, under a key, and how many a token uses.

    The numbers are what config.json means where it has none.
    """
    return (
        Setting("experts", key, "expert_count", kind="integer", default=experts),
        Setting(
            "experts_used",
            "num_experts_per_tok",
            "expert_used_count",
            kind="integer",
            default=used,
        ),
    )


def has_experts(metadata: Values) -> bool:
    """Tell whether metadata counts experts."""
    return metadata.integer("expert_count", 0, least=0) > 0


def needs_norm(config: Values, sizes: Sizes, notes: list[str]) -> None:  # noqa: ARG001
    """Refuse a config.json whose weights of experts do not sum to 1, as llama.cpp makes them.

    Raises:
        UnsupportedError: norm_topk_prob is false, or missing, which means the same.
    """
    value: Any = config.raw("norm_topk_prob")
    if value is not True:
        raise UnsupportedError(
            f"{config.path}: norm_topk_prob is {value!r:.60}; llama.cpp makes the weights of the "
            "chosen experts sum to 1 in this architecture"
        )
