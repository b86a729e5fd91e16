"""Better blocks for the lattice formats, whose values share codes, one exact step at a time.

All others fixed, a block is best where it is nearest to q_s + H_ss^-1 g_s, with g = H (w - q): ggml
rounds that, and rows keep what makes their loss smaller. Then the scales of the groups, and the d
of the block, move as in `descent`. In all of these formats a value is d (2 s + 1) times a point of
the lattice, s being a few bits of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.methods.descent import move_d, move_steps

__all__ = ["SCALES", "descend_slabs"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Scales:
    """Where a block of 256 values has the bits s of its groups.

    Attributes:
        groups: how many groups it has.
        at: the first byte with such bits.
        stride: the bytes from one to the next.
        shift: the lowest of the bits, of as many groups as share a byte.
        bits: how many there are.
    """

    groups: int
    at: int
    stride: int
    shift: tuple[int, ...]
    bits: int

    @property
    def table(self) -> Floats:
        """What s stands for, by s."""
        return (2 * np.arange(2**self.bits) + 1).astype(np.float32)

    def read(self, blocks: Bytes) -> Bytes:
        """Give s: (rows, bytes) -> (rows, groups)."""
        found = blocks[:, self.at :: self.stride][:, : self.groups // len(self.shift), None]
        shifted = found >> np.array(self.shift, np.uint8) & np.uint8(2**self.bits - 1)
        return shifted.reshape(len(blocks), self.groups)

    def write(self, blocks: Bytes, steps: Bytes) -> None:
        """Put s into blocks."""
        count = self.groups // len(self.shift)
        places = blocks[:, self.at :: self.stride][:, :count]
        parts = steps.reshape(len(blocks), count, len(self.shift))
        for part, shift in enumerate(self.shift):
            places &= np.uint8(0xFF ^ (2**self.bits - 1) << shift)
            places |= parts[..., part] << np.uint8(shift)


SCALES: Mapping[str, Scales] = MappingProxyType(
    {
        # the highest bits of a 32-bit number, which holds signs as well
        "IQ2_XXS": Scales(8, 2 + 7, 8, (4,), 4),
        "IQ3_XXS": Scales(8, 2 + 64 + 3, 4, (4,), 4),
        "IQ2_XS": Scales(16, 2 + 64, 1, (0, 4), 4),
        "IQ2_S": Scales(16, 2 + 64 + 8, 1, (0, 4), 4),
        "IQ3_S": Scales(8, 2 + 64 + 8 + 32, 1, (0, 4), 4),
        # three bits of the 16-bit numbers that hold high bits of codes
        "IQ1_S": Scales(8, 2 + 32 + 1, 2, (4,), 3),
    }
)
"""By ggml's name, of formats whose blocks begin with a float16 d. (IQ1_M has its d in pieces.)"""


def descend_slabs(
    slabs: list[Bytes],
    values: Floats,
    columns: Floats,
    hessian: Floats,
    sweeps: int,
    scales: Scales | None,
    encode: Callable[[Floats, int], tuple[Bytes, Floats]],
) -> None:
    """Improve blocks in place.

    Args:
        slabs: uint8 (rows, bytes of a block) for each block.
        values: float32 (columns, rows), what they stand for; changed.
        columns: float32 (columns, rows), the values wanted.
        hessian: float32 (columns, columns).
        sweeps: how many times to go through all blocks.
        scales: where the format has its scales; None leaves them alone.
        encode: as in `feedback.round_slabs`.
    """
    gradient = hessian @ (columns - values)
    for _ in range(sweeps):
        for number, blocks in enumerate(slabs):
            first = number * _BLOCK
            part = slice(first, first + _BLOCK)
            own = np.ascontiguousarray(hessian[part, part])
            local = gradient[part].copy()
            before = values[part].copy()
            wanted = before + np.linalg.solve(own.astype(np.float64), local).astype(np.float32)
            found, decoded = encode(np.ascontiguousarray(wanted.T), first)
            change = decoded.T - before
            push = own @ change
            gain = np.einsum("cr,cr->r", change, 2 * local - push)
            better = gain > 0
            blocks[better] = found[better]
            values[part] += change * better
            local -= push * better
            if scales is not None:
                _refit(blocks, scales, local, own, values[part])
            before -= values[part]
            gradient += hessian[:, part] @ before


def _refit(
    blocks: Bytes, scales: Scales, gradient: Floats, hessian: Floats, values: Floats
) -> None:
    """Move the scales of a block, points of the lattice fixed."""
    table = scales.table
    steps = np.ascontiguousarray(scales.read(blocks).T)  # (groups, rows)
    d = np.array(blocks[:, :2]).view("<f2")[:, 0].astype(np.float32)  # (rows,)
    shape = (scales.groups, -1, len(blocks))
    unit = d * np.take(table, steps)
    points = values.reshape(shape)  # (groups, group, rows)
    points = np.divide(points, unit[:, None], out=np.zeros_like(points), where=unit[:, None] != 0)
    move_steps(steps, table, points * d, gradient, hessian, values)
    along = points * np.take(table, steps)[:, None]
    move_d(d, None, _narrow, along.reshape(values.shape), None, gradient, hessian, values)
    scales.write(blocks, np.ascontiguousarray(steps.T))
    blocks[:, :2] = d.astype("<f2")[:, None].view(np.uint8)


def _narrow(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)
