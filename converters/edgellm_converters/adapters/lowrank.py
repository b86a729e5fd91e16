"""Matrices of low rank, as adapters add them to weights: cut, reordered and put together.

LoRA (Hu et al., 2021) adds `scale * B @ A` to a weight; here B is `left` and A is `right`, so that
the product has the rows and columns of the weight as it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellm_converters.plan import Change, Piece

__all__ = ["Floats", "LowRank", "Product", "join", "move", "stack"]

Floats: TypeAlias = npt.NDArray[np.float32]

# Adding one to a weight, or taking it away, leaves alone what is added to it.
_SHIFTS = {Change.ADD_ONE, Change.SUBTRACT_ONE}
_ROPE = {Change.TO_GGML_ROPE, Change.FROM_GGML_ROPE}


@dataclass(frozen=True, slots=True)
class LowRank:
    """`scale * left @ right`, added to the rows of a tensor from `row` on.

    `left` is (rows, rank), `right` (rank, columns). Rows are counted as `Place` counts them.
    """

    left: Floats
    right: Floats
    scale: float
    row: int = 0

    @property
    def end(self) -> int:
        """The row after the last one."""
        return self.row + len(self.left)

    def values(self, start: int, stop: int, factor: float = 1.0) -> Floats:
        """Give the rows `start` to `stop` of the product, times `factor`: (rows, columns)."""
        left = self.left[start - self.row : stop - self.row]
        product: Floats = _times(left, self.scale * factor) @ self.right
        return product


@dataclass(frozen=True, slots=True)
class Product:
    """What one pair of an adapter file holds: left (rows, rank) and right (rank, columns).

    Of stacked experts, both have the number of experts before that. `folded` tells that a scale
    was multiplied into `left`, `exact` that all such scales were powers of two.
    """

    left: Floats
    right: Floats
    scale: float
    folded: bool = False
    exact: bool = True

    @property
    def rank(self) -> int:
        """The columns of `left`."""
        return int(self.left.shape[-1])

    def with_scale(self, scale: float) -> Product:
        """Give the same with another scale: what differs is multiplied into `left`."""
        factor = _ratio(self.scale, scale)
        return replace(
            self,
            left=_times(self.left, factor),
            scale=scale,
            folded=self.folded or factor != 1,
            exact=self.exact and _is_power_of_two(factor),
        )

    def with_rank(self, rank: int) -> Product:
        """Give the same with columns and rows of zeros up to a rank that is not lower."""
        more = rank - self.rank
        if not more:
            return self
        none = [(0, 0)] * (self.left.ndim - 2)
        left = np.pad(self.left, [*none, (0, 0), (0, more)])
        right = np.pad(self.right, [*none, (0, more), (0, 0)])
        return replace(self, left=left, right=right)


def move(change: LowRank, piece: Piece, row: int) -> LowRank | None:
    """Give what a piece takes over from a change of its source; `row` is its first in the target.

    Returns None where they have no row in common.

    Raises:
        ValueError: the piece is changed in a way that a matrix of low rank cannot follow.
    """
    first, end = max(change.row, piece.row), min(change.end, piece.row + piece.rows)
    if first >= end:
        return None
    left = change.left[first - change.row : end - change.row]
    kinds = set(piece.changes) - _SHIFTS
    if not kinds:
        return replace(change, left=left, row=row + first - piece.row)
    whole = end - first == piece.rows
    if kinds <= _ROPE and whole:
        return replace(change, left=_reorder(left, piece), row=row)
    if kinds == {Change.TRANSPOSE} and whole:
        # (left @ right).T = right.T @ left.T
        return LowRank(change.right.T, left.T, change.scale, row)
    raise ValueError(f"a matrix of low rank cannot follow {piece}")


def join(changes: Sequence[LowRank], rows: int, columns: int) -> Product:
    """Put changes of one matrix together in one product.

    Those with the same `right` share it (rows that were cut and put together again); the others
    stand side by side: [L1 0; 0 L2] @ [R1; R2], whose rank is the sum of theirs.
    """
    first: dict[int, int] = {}
    rights: list[Floats] = []
    for change in changes:
        if id(change.right) not in first:
            first[id(change.right)] = sum(len(right) for right in rights)
            rights.append(change.right)
    scale = changes[0].scale
    left = np.zeros((rows, sum(len(right) for right in rights)), np.float32)
    factors = [_ratio(change.scale, scale) for change in changes]
    for change, factor in zip(changes, factors, strict=True):
        at = first[id(change.right)]
        part = _times(change.left, factor)
        left[change.row : change.end, at : at + part.shape[1]] = part
    right = np.concatenate(rights).reshape(-1, columns)
    return Product(left, right, scale, *_told(factors))


def stack(changes: Sequence[LowRank], experts: int, rows: int, columns: int) -> Product:
    """Put changes of stacked experts together; ranks are padded with zeros to the largest one.

    Args:
        changes: none reaches from one expert into the next.
        experts: their number.
        rows: rows of each.
        columns: values in a row.
    """
    products: dict[int, Product] = {}
    for number in sorted({change.row // rows for change in changes}):
        own = [change for change in changes if change.row // rows == number]
        own = [replace(change, row=change.row - number * rows) for change in own]
        products[number] = join(own, rows, columns)
    scale = next(iter(products.values())).scale
    rank = max(product.rank for product in products.values())
    left = np.zeros((experts, rows, rank), np.float32)
    right = np.zeros((experts, rank, columns), np.float32)
    alike = [product.with_scale(scale).with_rank(rank) for product in products.values()]
    for number, product in zip(products, alike, strict=True):
        left[number], right[number] = product.left, product.right
    folded, exact = any(each.folded for each in alike), all(each.exact for each in alike)
    return Product(left, right, scale, folded, exact)


def _reorder(left: Floats, piece: Piece) -> Floats:
    """Reorder the rows of each head, as those of the weight itself are."""
    half = piece.head_dim // 2
    to_ggml = Change.TO_GGML_ROPE in piece.changes
    split = (-1, 2, half, left.shape[1]) if to_ggml else (-1, half, 2, left.shape[1])
    return left.reshape(split).swapaxes(1, 2).reshape(left.shape)


def _times(left: Floats, factor: float) -> Floats:
    """Multiply in float64, so that float32 rounds once."""
    return left if factor == 1 else (left * np.float64(factor)).astype(np.float32)


def _ratio(scale: float, other: float) -> float:
    """Divide two scales; what is a power of two but for float64's rounding comes out as one."""
    mantissa, exponent = math.frexp(scale / other)
    for power in (0.5, 1.0):
        if math.isclose(mantissa, power, rel_tol=1e-12):
            mantissa = power
    return math.ldexp(mantissa, exponent)


def _told(factors: Sequence[float]) -> tuple[bool, bool]:
    """Tell whether anything was folded, and whether exactly."""
    return any(factor != 1 for factor in factors), all(map(_is_power_of_two, factors))


def _is_power_of_two(factor: float) -> bool:
    return math.frexp(factor)[0] == 0.5
