"""The search for the scales of a block.

Candidates are tried around the scale that just reaches the largest value; under each, values are
rounded, and the scale (and what is added) that fits the codes best is the weighted least-squares
solution. What loses least is kept. The encoders of MLX, and of ggml for Q8_0, MXFP4, NVFP4, TQ1_0
and TQ2_0, take the largest value alone; for other formats ggml searches as well, with weights
that grow with |x| and, where levels lie unevenly around zero, with one sign alone. Here an error
counts as the importance of its column, and both signs are tried.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.codes import Layout, Parts
from edgellm_quant.methods.columns import Rounder

__all__ = ["search_scales"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# How many steps more or fewer than there are shall reach from the least to the largest value.
_SHIFTS = np.linspace(-0.9, 1.5, 17)
# Where levels are few, many values may lie beyond the last one.
_FRACTIONS = np.linspace(0.15, 1, 14)
# How many stored steps a scale of one byte may be off the one that reaches the largest value.
_AROUND = {1: range(-1, 2), 8: range(-6, 4)}
# How many steps more or fewer than there are the largest of a block's groups shall take.
_NUDGES = np.linspace(-1.5, 1.5, 9).astype(np.float32)
# How far from the nearest steps others are tried, those first.
_NEAR = (0, -1, 1, -2, 2)
_TINY = np.float32(1e-30)


def search_scales(values: Floats, importance: Floats, layout: Layout) -> Parts:
    """Choose the scales of one block of each row, and round.

    Args:
        values: float32 (rows, block).
        importance: float32 (block,).
        layout: of the format.

    Returns:
        Parts of (rows, ...).
    """
    rows = len(values)
    groups = layout.block // layout.group
    # (groups, group, rows): sums over a group are sums of contiguous rows
    x = np.ascontiguousarray(values.T).reshape(groups, layout.group, rows)
    weights = np.maximum(importance, _TINY).reshape(groups, layout.group, 1)
    found = _Found(x, weights, layout)
    if not layout.has_d:
        found.steps()
        assert found.step is not None
        return Parts(found.codes_of_rows(), None, None, found.step.T.astype(np.uint8))
    if layout.has_m:
        found.affine()
    else:
        found.symmetric()
    if layout.steps is None:
        added = found.m[0] if layout.has_m else None
        return Parts(found.codes_of_rows(), found.d[0], added)
    d, steps = _share(found.d, found.curvature(), layout.steps, layout.narrow)
    if layout.steps_m is None:
        found.d = d * np.take(layout.steps, steps)
        return Parts(found.codes_of_rows(), d, None, steps.T)
    totals = np.broadcast_to(weights.sum(axis=1), found.m.shape)
    m, steps_m = _share(found.m, totals, layout.steps_m, layout.narrow)
    found.near_steps(d, steps, m, steps_m)
    return Parts(found.codes_of_rows(), d, m, steps.T, steps_m.T)


def _share(
    wanted: Floats, weights: Floats, table: Floats, narrow: Callable[[Floats], Floats]
) -> tuple[Floats, Bytes]:
    """Write the numbers of groups as steps of one number.

    Args:
        wanted: float32 (groups, rows).
        weights: float32 (groups, rows), what an error in each costs.
        table: whole numbers in order, what steps stand for.
        narrow: rounds to the type of the number.

    Returns:
        The number, float32 (rows,), and the steps, uint8 (groups, rows).
    """
    outermost = table[np.abs(table).argmax()]
    largest = np.take_along_axis(wanted, np.abs(wanted).argmax(axis=0)[None], axis=0)[0]
    best, steps = np.zeros_like(largest), np.zeros(wanted.shape, np.float32)
    loss = np.full(largest.shape, np.inf, np.float32)

    def attempt(number: Floats) -> Floats:
        inverse = np.divide(1, number, out=np.zeros_like(number), where=np.abs(number) > _TINY)
        found = np.clip(np.rint(wanted * inverse), table[0], table[-1])
        now = (weights * np.square(wanted - number * found)).sum(axis=0)
        better = now < loss
        np.copyto(loss, now, where=better)
        np.copyto(best, number, where=better)
        np.copyto(steps, found, where=better)
        return found

    for shift in _NUDGES:
        found = attempt(narrow(largest / (outermost + np.sign(outermost) * shift)))
        above, below = (weights * found * wanted).sum(axis=0), (weights * found * found).sum(axis=0)
        attempt(narrow(np.divide(above, below, out=best.copy(), where=below > 0)))
    return best, (steps - table[0]).astype(np.uint8)


def _shifted(
    table: Floats | None, steps: Bytes, shift: int, number: Floats
) -> tuple[Floats, Bytes]:
    """Give what steps stand for when they are `shift` larger, and these: (groups, rows)."""
    assert table is not None
    moved = np.clip(steps.astype(np.int16) + shift, 0, len(table) - 1).astype(np.uint8)
    return number * np.take(table, moved), moved


class _Found:
    """The best scales so far: each (groups, rows)."""

    def __init__(self, x: Floats, weights: Floats, layout: Layout) -> None:
        self.x, self.weights, self.layout = x, weights, layout
        self.rounder = Rounder(layout)
        # Where groups have steps of their own, the numbers found are rounded to them later.
        self.narrow = layout.narrow if layout.steps is None else np.asarray
        shape = (len(x), x.shape[2])
        self.loss = np.full(shape, np.inf, np.float32)
        self.d = np.zeros(shape, np.float32)
        self.m = np.zeros(shape, np.float32)
        self.step: NDArray[np.intp] | None = None

    def codes_of_rows(self) -> Bytes:
        """Round under the best scales: uint8 (rows, block)."""
        codes = self._round(self.d, self.m)[0]
        return codes.reshape(-1, codes.shape[2]).T

    def curvature(self) -> Floats:
        """Give what an error in the scales costs: (groups, rows)."""
        levels = np.take(self.layout.levels, self._round(self.d, self.m)[0])
        return self._sum(levels * levels)

    def _round(self, d: Floats, m: Floats) -> tuple[Bytes, Floats]:
        codes = np.empty(self.x.shape, np.uint8)
        values = np.empty_like(self.x)
        for group, part in enumerate(self.x):
            scale, offset = d[group], m[group] if self.layout.has_m else None
            prepared = self.rounder.prepare(scale, offset)
            values[group] = self.rounder.nearest(part, scale, prepared, codes[group])
        return codes, values

    def _sum(self, values: Floats) -> Floats:
        """Add up each group, weighted: (groups, group, rows) -> (groups, rows)."""
        total: Floats = np.einsum("gcr,gc->gr", values, self.weights[..., 0])
        return total

    def _try(self, d: Floats, m: Floats) -> Bytes:
        """Keep what is better than before; give the codes under d and m."""
        codes, values = self._round(d, m)
        values -= self.x
        np.square(values, out=values)
        loss = self._sum(values)
        better = loss < self.loss
        np.copyto(self.loss, loss, where=better)
        np.copyto(self.d, d, where=better)
        np.copyto(self.m, m, where=better)
        return codes

    def near_steps(self, d: Floats, steps: Bytes, m: Floats, steps_m: Bytes) -> None:
        """Try steps near the given ones: each was the best for itself, not for the two together.

        Args:
            d, m: float32 (rows,).
            steps, steps_m: uint8 (groups, rows); changed.
        """
        self.loss[...] = np.inf
        scales = [_shifted(self.layout.steps, steps, shift, d) for shift in _NEAR]
        offsets = [_shifted(self.layout.steps_m, steps_m, shift, m) for shift in _NEAR]
        for scale, step in scales:
            for offset, step_m in offsets:
                before = self.loss.copy()
                self._try(scale, offset)
                better = self.loss < before
                np.copyto(steps, step, where=better)
                np.copyto(steps_m, step_m, where=better)

    def steps(self) -> None:
        """Try the scales of one byte that are nearest to the one that reaches the largest value."""
        table = self.layout.steps
        assert table is not None
        reach = np.abs(self.x).max(axis=1) / np.abs(self.layout.levels).max()
        first = np.searchsorted(table, reach)
        least = int(np.flatnonzero(table > 0)[0])
        self.step = np.zeros(first.shape, np.intp)
        # neighbours differ by a factor of two, or by an eighth and less
        around = _AROUND[1 if table[-1] > 2 * table[-2] * 0.99 else 8]
        for shift in around:
            step = np.clip(first + shift, least, len(table) - 1)
            before = self.loss.copy()
            self._try(np.take(table, step), self.m)
            np.copyto(self.step, step, where=self.loss < before)

    def symmetric(self) -> None:
        """Try scales for levels around zero: the outermost level goes to the largest value."""
        levels = self.layout.levels[: self.layout.last + 1]
        outermost = levels[np.abs(levels).argmax()]
        at = np.abs(self.x).argmax(axis=1)[:, None]
        reach = np.take_along_axis(self.x, at, axis=1)[:, 0] / outermost
        far = np.abs(outermost)
        shares = _FRACTIONS if len(levels) <= 4 else far / (far + _SHIFTS * far / len(levels) * 2)
        if levels[0] != -levels[-1]:  # the outermost level on the other side, too
            shares = np.concatenate([shares, shares * outermost / levels[-1]])
        for share in shares:
            codes = self._try(self.narrow(reach * np.float32(share)), self.m)
            self._fit_d(codes)
        self._fit_d(self._round(self.d, self.m)[0])

    def _fit_d(self, codes: Bytes) -> None:
        levels = np.take(self.layout.levels, codes)
        above, below = self._sum(levels * self.x), self._sum(levels * levels)
        d = np.divide(above, below, out=self.d.copy(), where=below > 0)
        self._try(self.narrow(d), self.m)

    def affine(self) -> None:
        """Try scales and biases; the first are those that reach all values."""
        low, high = self.x.min(axis=1), self.x.max(axis=1)
        if self.layout.steps_m is not None:
            low = np.minimum(low, 0)  # steps have no sign
        last, narrow = self.layout.last, self.narrow
        for shift in _SHIFTS:
            d = (high - low) / np.float32(last + shift)
            codes = self._try(narrow(d), narrow(low))
            self._fit_both(codes)
        for _ in range(2):
            self._fit_both(self._round(self.d, self.m)[0])

    def _fit_both(self, codes: Bytes) -> None:
        levels = codes.astype(np.float32)
        total = self.weights.sum(axis=1)  # (groups, 1)
        mean = self._sum(levels) / total
        centre = self._sum(self.x) / total
        levels -= mean[:, None]
        above, below = self._sum(levels * self.x), self._sum(levels * levels)
        d = np.divide(above, below, out=self.d.copy(), where=below > 0)
        d = self.narrow(d)
        m = centre - d * mean
        if self.layout.steps_m is not None:
            levels += mean[:, None]
            above, below = self._sum(levels * self.x), self._sum(levels * levels)
            alone = np.divide(above, below, out=d.copy(), where=below > 0)
            d = np.where(m > 0, alone, d)
            m = np.minimum(m, 0)
        self._try(d, self.narrow(m))
