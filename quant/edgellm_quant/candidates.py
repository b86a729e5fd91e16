"""Which formats a tensor may get when formats are chosen freely.

A format is a candidate where its blocks divide the rows and where it is of use beside the others:
among rows of whole blocks of 256, those of 32 values lose to a K-quant of as many bits, and are
left to the widest search. What takes minutes for a layer (the lattices of two bits) waits for
`best`. All of them have kernels in llama.cpp for processors, Metal and CUDA. Ternary formats and
those below two bits are for models trained that way, and come in only by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgellm_quant.facts import TensorFacts
from edgellm_quant.formats import FORMATS, BlockFormat, Format, MLXFormat
from edgellm_quant.formats.mlx import AFFINE_BITS, AFFINE_GROUPS

__all__ = ["Effort", "candidates", "mlx_candidates"]

Effort = Literal["fast", "balanced", "best"]

_K = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
_LATTICES = ("IQ3_XXS", "IQ3_S", "IQ4_XS")
_SLOW = ("IQ2_XXS", "IQ2_XS", "IQ2_S")
_NARROW = ("MXFP4", "NVFP4", "Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_WIDE = {
    "fast": _K,
    "balanced": (*_K, *_LATTICES),
    "best": (*_K, *_LATTICES, *_SLOW, *_NARROW),
}
# ggml encodes these only with importance; Q2_K it takes without, at a loss that costs show.
_NEED_IMPORTANCE = frozenset({*_SLOW, "IQ3_XXS", "IQ1_S", "IQ1_M"})


def candidates(
    tensor: TensorFacts,
    effort: Effort = "balanced",
    *,
    importance: bool = True,
    also: Sequence[str] = (),
) -> tuple[BlockFormat, ...]:
    """Give the formats of GGUF that a tensor may get, by rising bytes.

    Args:
        tensor: its shape counts.
        effort: how much time may be spent.
        importance: whether there is importance for it; some formats need it.
        also: further formats by name, such as TQ2_0 or F16.

    Returns:
        At least one: F16 where no block divides the rows.
    """
    wide = tensor.columns % 256 == 0
    names = {*(_WIDE[effort] if wide else _NARROW), *also}
    found = [
        FORMATS[name]
        for name in names
        if FORMATS[name].holds(tensor.columns) and (importance or name not in _NEED_IMPORTANCE)
    ]
    if not any(fmt.is_quantized for fmt in found):
        found.append(FORMATS["F16"])
    return tuple(sorted(set(found), key=lambda fmt: (fmt.bits_per_weight, fmt.name)))


def mlx_candidates(
    tensor: TensorFacts, effort: Effort = "balanced", *, dense: str = "F16"
) -> tuple[Format, ...]:
    """Give the formats of MLX that a tensor may get, by rising bytes.

    With `fast` groups are of 64 where those divide the rows; else of every size, and mxfp4 is among
    the formats.

    Args:
        tensor: its shape counts.
        effort: how much time may be spent.
        dense: the type of scales (F16, BF16 or F32), and of the tensor where no group divides it.

    Raises:
        UnknownTypeError: `dense` is no such type.
    """
    groups = [group for group in AFFINE_GROUPS if tensor.columns % group == 0]
    if effort == "fast" and 64 in groups:
        groups = [64]
    found: list[Format] = [
        MLXFormat("affine", bits, group, dense) for bits in AFFINE_BITS for group in groups
    ]
    if effort != "fast" and tensor.columns % 32 == 0:
        found.append(MLXFormat("mxfp4", 4, 32, "U8"))
    if not found:
        found.append(FORMATS[dense])
    return tuple(sorted(found, key=lambda fmt: (fmt.bits_per_weight, fmt.name)))
