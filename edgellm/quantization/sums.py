"""Sums over the inputs of weights, and the means that statistics are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.statistics import RowStatistics

__all__ = ["Sums", "means_of_experts"]

Floats = NDArray[np.float32]

# An expert that too few tokens came to has the mean over all experts count as so many more.
PRIOR_TOKENS = 64
# Held-out inputs of an expert that are fewer than this tell nothing.
FEWEST_HELD_OUT = 32


class Sums:
    """The sum of x x' and of x_j^2 over input vectors, those that are held out apart.

    Products are summed in float32, which is exact to about 1e-6 over a calibration text; squares
    in float64.
    """

    def __init__(self, columns: int, hessian: bool) -> None:
        self.columns = columns
        self.tokens = [0, 0]  # to fit, held out
        self._squares = np.zeros(columns, np.float64)
        self._products: list[Floats | None] = [None, None]
        self._hessian = hessian

    def add(self, x: Floats, held_out: bool, tokens: int | None = None) -> None:
        """Add vectors.

        Args:
            x: float32 (vectors, columns).
            held_out: whether to judge by them rather than to fit.
            tokens: how many tokens they are of, where that is not one each.
        """
        self.tokens[held_out] += len(x) if tokens is None else tokens
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            self._squares += np.einsum("ij,ij->j", x, x)
            product = x.T @ x if self._hessian and len(x) else None  # (columns, columns)
        if product is not None:
            found = self._products[held_out]
            if found is None:
                self._products[held_out] = product
            else:
                found += product

    @property
    def squares(self) -> NDArray[np.float64]:
        """The sum of x_j^2 over all vectors."""
        return self._squares

    def mean(self, start: int, stop: int, fewest: tuple[int, int] = (1, 1)) -> RowStatistics:
        """Give the means, of the rows `start` to `stop`; the sums are gone then.

        Args:
            start: first row.
            stop: one past the last.
            fewest: with fewer tokens than these (to fit, held out) there is no matrix.
        """
        matrices: list[Floats | None] = []
        for product, count, least in zip(self._products, self.tokens, fewest, strict=True):
            if product is not None and count >= least:
                product *= np.float32(1 / count)
                matrices.append(product)
            else:
                matrices.append(None)
        if matrices[0] is None:
            matrices[1] = None
        self._products = [None, None]
        total = sum(self.tokens)
        importance = (self._squares / max(1, total)).astype(np.float32)
        return RowStatistics(start, stop, total, importance, matrices[0], matrices[1])


def means_of_experts(sums: Sequence[Sums], rows: int) -> tuple[RowStatistics, ...]:
    """Give the means of each expert of a stack; `rows` in each.

    A matrix of products has too little rank with fewer tokens to fit than columns: such an expert
    keeps its importance alone. With fewer tokens in all than columns that one, m, is drawn to the
    mean over all that came to any expert, M: (n m + 64 M) / (n + 64) with n its tokens. One that no
    token came to has M.
    """
    total = sum(sum(each.tokens) for each in sums)
    overall = sum((each.squares for each in sums), np.zeros(sums[0].columns)) / max(1, total)
    found = []
    for number, each in enumerate(sums):
        start = number * rows
        fewest = (each.columns, FEWEST_HELD_OUT)
        mean = each.mean(start, start + rows, fewest)
        if mean.tokens < each.columns:
            prior = PRIOR_TOKENS * overall
            drawn = (each.squares + prior) / (mean.tokens + PRIOR_TOKENS)
            mean = RowStatistics(start, start + rows, mean.tokens, drawn.astype(np.float32))
        found.append(mean)
    return tuple(found)
