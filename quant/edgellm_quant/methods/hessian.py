"""Hessians made ready for error compensation: damped, factored, and what a row loses under them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.errors import ValueRangeError

# The least number on a diagonal, as a share of the mean.
_LEAST = 1e-6
# The largest damping that is tried.
_MOST = 1000

__all__ = ["Factors", "factor", "row_losses"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """A damped Hessian and the factor of its inverse.

    Attributes:
        order: which block of columns comes first, second ...: (blocks,). Columns of the matrices
            are in that order.
        hessian: float32 (columns, columns), H with its damping.
        inverse: float32 (columns, columns), upper triangular U with H^-1 = U' U.
        damping: what it was damped with.
    """

    order: NDArray[np.intp]
    hessian: Floats
    inverse: Floats
    damping: float

    def sort_columns(self, values: Floats) -> Floats:
        """Put the columns of values into the order: (..., columns), contiguous."""
        blocks = values.reshape(*values.shape[:-1], len(self.order), -1)
        return np.take(blocks, self.order, axis=-2).reshape(values.shape)


def factor(hessian: Floats, damping: float, block: int) -> Factors:
    """Damp a Hessian and factor its inverse, in float64.

    Blocks of `block` columns are sorted, those with the largest inputs first: there are the most
    columns left to make up for their errors. (GPTQ sorts columns; the columns of a block here stay
    together, as its scales are chosen when it is reached.)

    A few thousand tokens tell little of the directions that they hardly reach. GPTQ (Frantar et
    al. 2022, section 3.3) adds a share of the diagonal's mean to the diagonal; shrinking towards
    the diagonal would add a share of each h_jj. Added here is `damping` times the geometric mean
    of the two, sqrt(h_jj mean(h)), which was never far from the better one where either failed.
    A column that no input ever met gets a small number on its diagonal, and its values are rounded
    plainly. A Hessian of zeros becomes the identity.

    With the rows and columns in reverse order, H = L L' becomes H = V V' of an upper triangular V,
    and the inverse of V is U.

    Args:
        hessian: float32 (columns, columns).
        damping: 0 or more.
        block: columns that stay together; divides their number.

    Raises:
        ValueRangeError: the Hessian holds NaN or infinity, or is none (no damping up to 1000 makes
            it positive definite).
    """
    if not np.isfinite(hessian.sum(dtype=np.float64)):
        raise ValueRangeError("a Hessian holds NaN or infinity", hint="gather statistics again")
    diagonal: Doubles = np.diagonal(hessian).astype(np.float64)
    order = np.argsort(-diagonal.reshape(-1, block).sum(axis=1), kind="stable")
    columns = (order[:, None] * block + np.arange(block)).ravel()
    diagonal = diagonal[columns]
    mean = float(diagonal.mean())
    if mean > 0:
        sorted_ = hessian[np.ix_(columns, columns)]
    else:
        sorted_, diagonal, mean = np.eye(len(hessian), dtype=np.float32), np.ones(len(hessian)), 1.0
    floor = np.maximum(diagonal, _LEAST * mean) - diagonal
    amount = np.sqrt(np.maximum(diagonal, 0) * mean)
    while True:
        damped = diagonal + floor + damping * amount
        backwards = sorted_[::-1, ::-1].astype(np.float64)
        backwards.flat[:: len(backwards) + 1] = damped[::-1]
        try:
            lower: Doubles = np.asarray(np.linalg.cholesky(backwards), np.float64)
            break
        except np.linalg.LinAlgError:  # fewer tokens than columns, and hardly any damping
            damping = max(10 * damping, 1e-6)
        if damping > _MOST:
            raise ValueRangeError("a Hessian is far from positive", hint="gather statistics again")
    del backwards  # large models have large ones
    sorted_.flat[:: len(sorted_) + 1] = damped
    upper = _triangular_inverse(lower)[::-1, ::-1]
    return Factors(order, sorted_, np.ascontiguousarray(upper, np.float32), damping)


def _triangular_inverse(lower: Doubles) -> Doubles:
    """Invert a lower triangular matrix, by halves: numpy alone has no solver for triangles."""
    size = len(lower)
    if size <= 64:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    out = np.zeros_like(lower)
    out[:half, :half] = first = _triangular_inverse(lower[:half, :half])
    out[half:, half:] = second = _triangular_inverse(lower[half:, half:])
    out[half:, :half] = -second @ (lower[half:, :half] @ first)
    return out


def row_losses(errors: Floats, hessian: Floats) -> Doubles:
    """Give what each row loses: e' H e of errors (rows, columns), float64 (rows,)."""
    losses: Doubles = np.einsum("rc,rc->r", errors @ hessian, errors, dtype=np.float64)
    return losses
