"""Rows in quantization with columns first: what the sweeps of error compensation work on.

Everything here has the columns (or blocks, or groups) of a tensor as its first dimension and rows
as its last: a step handles one column of all rows, and that is one contiguous run of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.codes import Layout, Parts

__all__ = ["Rounder", "Solution"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class Solution:
    """Codes and scales of a slab of rows.

    Attributes:
        layout: how the format's blocks are written.
        codes: uint8 (columns, rows).
        values: float32 (columns, rows), what the codes stand for.
        d, m: float32 (blocks, rows), or None where the format has none.
        steps, steps_m: uint8 (blocks, groups of a block, rows), or None.
    """

    layout: Layout
    codes: Bytes
    values: Floats
    d: Floats | None
    m: Floats | None
    steps: Bytes | None
    steps_m: Bytes | None

    @classmethod
    def empty(cls, layout: Layout, columns: int, rows: int) -> Solution:
        """Make room for rows of `columns` values."""
        blocks, groups = columns // layout.block, layout.block // layout.group

        def floats() -> Floats:
            return np.empty((blocks, rows), np.float32)

        def bytes_() -> Bytes:
            return np.empty((blocks, groups, rows), np.uint8)

        return cls(
            layout,
            np.empty((columns, rows), np.uint8),
            np.empty((columns, rows), np.float32),
            floats() if layout.has_d else None,
            floats() if layout.has_m else None,
            None if layout.steps is None else bytes_(),
            None if layout.steps_m is None else bytes_(),
        )

    @classmethod
    def read(cls, layout: Layout, rows: Bytes) -> Solution:
        """Take blocks apart: uint8 (rows, blocks, bytes of a block)."""
        parts = layout.read(rows)
        out = cls.empty(layout, rows.shape[1] * layout.block, len(rows))
        out.codes[...] = parts.codes.reshape(len(rows), -1).T
        out.values[...] = layout.values(parts).reshape(len(rows), -1).T
        for block in range(rows.shape[1]):
            out.set_scales(block, _take(parts, block))
        return out

    def set_scales(self, block: int, parts: Parts) -> None:
        """Take over the scales of one block of all rows; parts are (rows, ...)."""
        for mine, given in (
            (self.d, parts.d),
            (self.m, parts.m),
            (self.steps, parts.steps),
            (self.steps_m, parts.steps_m),
        ):
            if mine is not None and given is not None:
                mine[block] = given.T

    def scales(self, block: int) -> tuple[Floats, Floats | None]:
        """Give scales and offsets of a block's groups: float32 (groups, rows) each."""
        parts = self._parts(block)
        offsets = self.layout.offsets(parts)
        return self.layout.scales(parts).T, None if offsets is None else offsets.T

    def _parts(self, block: int) -> Parts:
        first = block * self.layout.block
        return Parts(
            self.codes[first : first + self.layout.block].T,
            None if self.d is None else self.d[block],
            None if self.m is None else self.m[block],
            None if self.steps is None else self.steps[block].T,
            None if self.steps_m is None else self.steps_m[block].T,
        )

    def write(self) -> Bytes:
        """Give the blocks: uint8 (rows, blocks, bytes of a block)."""
        count = len(self.codes) // self.layout.block
        return np.stack([self.layout.write(self._parts(each)) for each in range(count)], axis=1)


def _take(parts: Parts, block: int) -> Parts:
    """Give one block of all rows."""
    return Parts(
        parts.codes[:, block],
        None if parts.d is None else parts.d[:, block],
        None if parts.m is None else parts.m[:, block],
        None if parts.steps is None else parts.steps[:, block],
        None if parts.steps_m is None else parts.steps_m[:, block],
    )


# Levels that are no whole numbers in order are multiples of this, halfway points included.
_FINE = 4
# Scales below this count as zero.
_NO_SCALE = 1e-30


class Rounder:
    """Finds the nearest level of values under the scales of a group.

    Where a scale is zero, every code stands for the same value; code 0 or any other is given.
    """

    def __init__(self, layout: Layout) -> None:
        self.zero = layout.zero
        self.last = np.float32(layout.last)
        self.levels = layout.levels
        if layout.zero is None:
            self.edge = int(np.abs(layout.levels).max() + 1) * _FINE
            points = (np.arange(-self.edge, self.edge + 1) + 0.5) / _FINE
            distance = np.abs(points[:, None] - layout.levels)
            self.table = distance.argmin(axis=1).astype(np.uint8)
            self.level_of = np.take(layout.levels, self.table)

    def prepare(self, scale: Floats, offset: Floats | None) -> tuple[Floats, Floats, Floats]:
        """Give what `nearest` takes for a group: (rows,) each."""
        some = np.abs(scale) > _NO_SCALE
        inverse = np.zeros_like(scale)
        np.divide(np.float32(1), scale, out=inverse, where=some)
        base = np.zeros_like(scale) if offset is None else offset
        if self.zero is None:
            inverse *= _FINE
            return inverse, -base * inverse + self.edge, base
        return inverse, self.zero - base * inverse, base - self.zero * scale

    def nearest(
        self, wanted: Floats, scale: Floats, prepared: tuple[Floats, Floats, Floats], codes: Bytes
    ) -> Floats:
        """Round one column of all rows, (rows,); codes are filled in, values returned."""
        inverse, shift, base = prepared
        work = wanted * inverse
        work += shift
        if self.zero is None:
            np.clip(work, 0, 2 * self.edge, out=work)
            at = work.astype(np.intp)
            np.take(self.table, at, out=codes, mode="clip")
            np.take(self.level_of, at, out=work, mode="clip")
        else:
            np.rint(work, out=work)
            np.clip(work, 0, self.last, out=work)
            np.copyto(codes, work, casting="unsafe")
        work *= scale
        work += base
        return work
