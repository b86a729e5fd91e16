"""Better codes and scales for rows that are rounded already, one exact step at a time.

The loss of a row, (w - q)' H (w - q), is a quadratic function of every code and scale that q is
made of. With the gradient g = H (w - q) at hand, the best value of column j, all others fixed, is
q_j + g_j / H_jj, and the best code the one nearest to it (coordinate descent, as in Behdin et al.
2023, "QuantEase"). A number that q depends on linearly, q = s a + ..., has its best at
s + a'g / a'Ha. No step makes a loss larger: scales are moved only where the loss falls by it with
the number as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.methods.columns import Rounder, Solution

__all__ = ["descend", "move_d", "move_steps"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_RUN = 32


def descend(
    solution: Solution, columns: Floats, hessian: Floats, sweeps: int, refit: bool = True
) -> None:
    """Improve a solution in place.

    Args:
        solution: what to improve.
        columns: float32 (columns, rows), the values wanted.
        hessian: float32 (columns, columns).
        sweeps: how many times to go through all columns.
        refit: move scales too.
    """
    layout = solution.layout
    rounder = Rounder(layout)
    gradient = hessian @ (columns - solution.values)  # (columns, rows)
    before = np.empty((layout.block, columns.shape[1]), np.float32)
    for _ in range(sweeps):
        for block, first in enumerate(range(0, len(columns), layout.block)):
            part = slice(first, first + layout.block)
            before[...] = solution.values[part]
            local = gradient[part].copy()
            own = np.ascontiguousarray(hessian[part, part])
            _codes(solution, block, local, own, rounder)
            if refit:
                _refit(solution, block, local, own)
            before -= solution.values[part]
            gradient += hessian[:, part] @ before


def _codes(
    solution: Solution, block: int, gradient: Floats, hessian: Floats, rounder: Rounder
) -> None:
    """Go through the columns of a block; gradient and hessian are those of the block."""
    layout = solution.layout
    first = block * layout.block
    scales, offsets = solution.scales(block)
    run = min(_RUN, layout.block)
    moves = np.empty((run, gradient.shape[1]), np.float32)
    inverse = 1 / np.diagonal(hessian)
    for start in range(0, layout.block, run):
        stop = start + run
        for at in range(start, stop):
            if at % layout.group == 0:
                group = at // layout.group
                scale = np.ascontiguousarray(scales[group])
                prepared = rounder.prepare(scale, None if offsets is None else offsets[group])
            done = at - start
            now = solution.values[first + at]
            wanted = gradient[at]
            if done:
                wanted = wanted - hessian[at, start:at] @ moves[:done]
            wanted = wanted * inverse[at]
            wanted += now
            found = rounder.nearest(wanted, scale, prepared, solution.codes[first + at])
            np.subtract(found, now, out=moves[done])
            now[...] = found
        gradient -= hessian[:, start:stop] @ moves


def _refit(solution: Solution, block: int, gradient: Floats, hessian: Floats) -> None:
    """Move the scales of a block, codes fixed: first its steps, then d and m together."""
    layout = solution.layout
    first = block * layout.block
    shape = (-1, layout.group, gradient.shape[1])
    codes = solution.codes[first : first + layout.block]
    levels = np.take(layout.levels, codes).reshape(shape)  # (groups, group, rows)
    values = solution.values[first : first + layout.block]
    if solution.steps is not None and layout.steps is not None:
        d = None if solution.d is None else solution.d[block]
        basis = levels if d is None else levels * d
        move_steps(solution.steps[block], layout.steps, basis, gradient, hessian, values)
        levels *= np.take(layout.steps, solution.steps[block])[:, None]
    added: Floats | None = None
    if solution.m is not None:
        ones: Floats = np.ones((len(levels), 1, shape[2]), np.float32)
        if solution.steps_m is not None and layout.steps_m is not None:
            basis = ones * solution.m[block]
            move_steps(solution.steps_m[block], layout.steps_m, basis, gradient, hessian, values)
            ones *= np.take(layout.steps_m, solution.steps_m[block])[:, None]
        added = np.broadcast_to(ones, levels.shape).reshape(values.shape)
    if solution.d is not None:
        m = None if solution.m is None else solution.m[block]
        along = levels.reshape(values.shape)
        move_d(solution.d[block], m, layout.narrow, along, added, gradient, hessian, values)


def move_steps(
    steps: Bytes,
    table: Floats,
    basis: Floats,
    gradient: Floats,
    hessian: Floats,
    values: Floats,
) -> None:
    """Give each group, one after the other, the step that is best for it.

    Args:
        steps: uint8 (groups, rows); changed.
        table: float32 (n,), what steps stand for.
        basis: float32 (groups, group or 1, rows), how values grow with what a step stands for.
        gradient, hessian, values: of the block; gradient and values are changed.
    """
    middles = (table[1:] + table[:-1]) / 2
    size = len(values) // len(steps)
    for group, along in enumerate(basis):
        part = slice(group * size, (group + 1) * size)
        own = np.broadcast_to(along, (size, along.shape[1]))
        square = np.einsum("cr,cr->r", own, hessian[part, part] @ own)
        slope = np.einsum("cr,cr->r", own, gradient[part])
        old = np.take(table, steps[group])
        wanted = old + _divide(slope, square)
        steps[group] = np.searchsorted(middles, wanted)
        move = np.take(table, steps[group]) - old
        if move.any():
            change = own * move
            values[part] += change
            gradient -= hessian[:, part] @ change


def _divide(above: Floats, below: Floats) -> Floats:
    """Divide, where that is possible; give 0 elsewhere."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def move_d(
    d: Floats,
    m: Floats | None,
    narrow: Callable[[Floats], Floats],
    along: Floats,
    added: Floats | None,
    gradient: Floats,
    hessian: Floats,
    values: Floats,
) -> None:
    """Give a block the d, or d and m, with the least loss.

    Args:
        d, m: float32 (rows,); changed. m is None where the format has none.
        narrow: rounds them to the type that they are stored in.
        along, added: float32 (block, rows), how values grow with d and with m.
        gradient, hessian, values: of the block; gradient and values are changed.
    """
    pushed = hessian @ along
    aa = np.einsum("cr,cr->r", along, pushed)
    ag = np.einsum("cr,cr->r", along, gradient)
    if added is None or m is None:
        x = narrow(d + _divide(ag, aa)) - d
        x *= 2 * x * ag > x * x * aa
        d += x
        values += x * along
        gradient -= x * pushed
        return
    pushed_m = hessian @ added
    ab = np.einsum("cr,cr->r", added, pushed)
    bb = np.einsum("cr,cr->r", added, pushed_m)
    bg = np.einsum("cr,cr->r", added, gradient)
    x = narrow(d + _divide(ag * bb - bg * ab, aa * bb - ab * ab)) - d
    y = narrow(m + _divide(bg - ab * x, bb)) - m
    better = 2 * (x * ag + y * bg) > x * x * aa + 2 * x * y * ab + y * y * bb
    x *= better
    y *= better
    d += x
    m += y
    values += x * along + y * added
    gradient -= x * pushed + y * pushed_m
