"""Blocks of ggml as codes with a scale and a bias for each group.

Where a format's values are whole numbers of equal steps, another such format can hold them without
choosing anything anew: the codes move, and the scales are written another way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.codes import IQ4, LAYOUTS

__all__ = ["UNPACKERS", "Affine"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Affine:
    """Rows of values code * scale + bias.

    `codes` are uint8 (rows, columns), `scales` and `biases` float32 (rows, groups); the groups
    of a row are equally long.
    """

    codes: Bytes
    scales: Floats
    biases: Floats

    @property
    def group_size(self) -> int:
        """Values that share a scale."""
        return int(self.codes.shape[1]) // int(self.scales.shape[1])

    def regroup(self, size: int) -> Affine:
        """Give the same values in groups of `size`, which divides the present size."""
        times = self.group_size // size
        if times == 1:
            return self
        return Affine(
            self.codes, np.repeat(self.scales, times, axis=1), np.repeat(self.biases, times, axis=1)
        )

    def take(self, rows: NDArray[np.bool_]) -> Affine:
        """Give some of the rows."""
        return Affine(self.codes[rows], self.scales[rows], self.biases[rows])

    def values(self) -> Floats:
        """Decode: float32 (rows, columns), rounded after each of the two steps."""
        values = self.codes.reshape(*self.scales.shape, -1).astype(np.float32)
        values *= self.scales[..., None]
        values += self.biases[..., None]
        return values.reshape(self.codes.shape)


# What is added to codes, so that they are those of a scale from -128 on.
_IQ4_CODES = (IQ4 + 128).astype(np.uint8)


def _steps(name: str, blocks: Bytes) -> Affine:
    """Take blocks apart whose levels are whole numbers, or the two of Q1_0, or those of IQ4."""
    layout = LAYOUTS[name]
    parts = layout.read(blocks)
    scales, biases, codes = layout.scales(parts), layout.offsets(parts), parts.codes
    if name in ("IQ4_NL", "IQ4_XS"):
        codes, biases = np.take(_IQ4_CODES, codes), -128 * scales
    elif name == "Q1_0":
        scales, biases = 2 * scales, -scales
    elif biases is None:
        biases = layout.levels[0] * scales
    rows = len(codes)
    return Affine(codes.reshape(rows, -1), scales.reshape(rows, -1), biases.reshape(rows, -1))


_NAMES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS"),
    *("Q1_0", "Q2_0", "TQ2_0"),
)

UNPACKERS: Mapping[str, Callable[[Bytes], Affine]] = MappingProxyType(
    {name: functools.partial(_steps, name) for name in _NAMES}
)
"""By ggml's name: uint8 (rows, blocks, bytes of a block) to the same values, exactly."""
