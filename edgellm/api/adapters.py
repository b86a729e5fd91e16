"""LoRA adapters as callers name them, and what they take of memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from edgellm.device.fit import Needs
from edgellm.models.adapter import Adapter, parse_lora

__all__ = ["Lora", "lora_pairs", "with_adapters"]

# FILE[:SCALE], a path, or a path and a scale.
Lora: TypeAlias = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]


def lora_pairs(lora: Lora | Sequence[Lora]) -> list[tuple[str, float]]:
    """Give the file and the scale of each adapter that a caller names.

    Raises:
        UsageError: a scale is out of its range.
    """
    if isinstance(lora, str | os.PathLike) or _is_pair(lora):
        lora = [lora]  # type: ignore[list-item]
    return [_pair(one) for one in lora]  # type: ignore[arg-type]


def with_adapters(needs: Needs, adapters: Sequence[Adapter]) -> Needs:
    """Add what adapters take to what their model does; a layer's are beside its weights."""
    tensors = {
        f"{name}.{number}": size
        for number, adapter in enumerate(adapters)
        for name, size in adapter.tensors.items()
    }
    return replace(needs, tensors={**needs.tensors, **tensors})


def _is_pair(lora: object) -> bool:
    return isinstance(lora, tuple) and len(lora) == 2 and isinstance(lora[1], int | float)


def _pair(one: Lora) -> tuple[str, float]:
    if isinstance(one, tuple):
        return os.fspath(one[0]), float(one[1])
    return parse_lora(one) if isinstance(one, str) else (os.fspath(one), 1.0)
