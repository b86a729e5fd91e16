"""Error compensation: what a column loses in rounding, the columns after it make up for.

This is GPTQ (Frantar et al. 2022, algorithm 1): with H^-1 = U' U of an upper triangular U, a
column j is rounded and its error e = (w_j - q_j) / U_jj moves the columns after it by
-e U_jk. The loss of a row becomes the sum of e^2. Scales are chosen when a block is reached, from
the values that the columns before it have moved (its groups are "dynamic").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.codes import Layout, Parts
from edgellm_quant.methods.columns import Rounder, Solution
from edgellm_quant.methods.hessian import Factors

__all__ = ["round_columns", "round_slabs"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Columns that are moved one by one; those after them get the errors of all at once.
_RUN = 32


def round_slabs(
    columns: Floats,
    width: int,
    factors: Factors,
    encode: Callable[[Floats, int], tuple[Bytes, Floats]],
) -> tuple[list[Bytes], Floats]:
    """Round slab after slab, each whole.

    It serves the formats whose values share codes: a slab is rounded without feedback inside, and
    moves what comes after it by -(w - q) U_ss^-1 U_sk.

    Args:
        columns: float32 (columns, rows); changed.
        width: columns of a slab, whole blocks of the format.
        factors: of the Hessian of these columns.
        encode: takes float32 (rows, width), contiguous, and the first column; gives the blocks
            and the values they stand for.

    Returns:
        The blocks of each slab, and what they stand for: float32 (columns, rows).
    """
    out = []
    found = np.empty_like(columns)
    for start in range(0, len(columns), width):
        stop = min(start + width, len(columns))
        wanted = np.ascontiguousarray(columns[start:stop].T)
        blocks, values = encode(wanted, start)
        out.append(blocks)
        found[start:stop] = values.T
        if stop < len(columns):
            corner = factors.inverse[start:stop, start:stop]
            errors = np.linalg.solve(corner.T.astype(np.float64), (wanted - values).T)
            columns[stop:] -= factors.inverse[start:stop, stop:].T @ errors.astype(np.float32)
    return out, found


def round_columns(
    columns: Floats,
    layout: Layout,
    factors: Factors,
    encode: Callable[[Floats, int], Parts],
) -> Solution:
    """Round column after column under the scales that `encode` chooses for each block.

    Args:
        columns: float32 (columns, rows); changed.
        layout: of the format's blocks.
        factors: of the Hessian of these columns.
        encode: takes float32 (rows, block), contiguous, and the first column; gives the parts of
            one block of each row, of which the scales are kept.
    """
    count, rows = columns.shape
    solution = Solution.empty(layout, count, rows)
    rounder = Rounder(layout)
    inverse = factors.inverse
    errors = np.empty((_RUN, rows), np.float32)
    for block, first in enumerate(range(0, count, layout.block)):
        wanted = np.ascontiguousarray(columns[first : first + layout.block].T)
        solution.set_scales(block, encode(wanted, first))
        scales, offsets = solution.scales(block)
        run = min(_RUN, layout.block)
        for start in range(first, first + layout.block, run):
            stop = start + run
            for at in range(start, stop):
                if (at - first) % layout.group == 0:
                    group = (at - first) // layout.group
                    scale = np.ascontiguousarray(scales[group])
                    offset = None if offsets is None else offsets[group]
                    prepared = rounder.prepare(scale, offset)
                done = at - start
                value = columns[at]
                if done:
                    value = value - inverse[start:at, at] @ errors[:done]
                found = rounder.nearest(value, scale, prepared, solution.codes[at])
                solution.values[at] = found
                np.subtract(value, found, out=errors[done])
                errors[done] *= np.float32(1) / inverse[at, at]
            if stop < count:
                columns[stop:] -= inverse[start:stop, stop:].T @ errors[:run]
    return solution
