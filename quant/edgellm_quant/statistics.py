"""What calibration tells about a tensor: which inputs its rows meet.

A linear layer computes y = W x. To second order the harm of replacing a row w by q is
(w - q)' H (w - q) with H = E[x x'], the mean over calibration tokens of the outer product of the
inputs (the Hessian of the layer's squared error, up to a factor of 2; Frantar et al. 2022, "GPTQ").
Its diagonal E[x_j^2] is what llama-imatrix gathers, here called importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.errors import ShapeError

__all__ = ["RowStatistics", "TensorStatistics"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """What the rows `start` to `stop` of a tensor meet, the rows of a stack counted through.

    Attributes:
        start: first row.
        stop: one past the last row.
        tokens: input vectors that were seen; 0 for an expert that no token came to.
        importance: float32 (columns,), the mean of x_j^2 over all of them.
        hessian: float32 (columns, columns), the mean of x x' over the tokens to fit; None where
            the diagonal alone was gathered.
        held_out: the same over other tokens, to judge by; None where there are none.
    """

    start: int
    stop: int
    tokens: int
    importance: Floats
    hessian: Floats | None = None
    held_out: Floats | None = None


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Statistics of all rows of a tensor, in order.

    Most tensors have one group. Experts of a stack have one each; attention values one for each
    key-value head, because what counts there is their sum under the attention's probabilities.

    Raises:
        ShapeError: the groups leave rows out, or arrays are not of `columns` values.
    """

    columns: int
    groups: tuple[RowStatistics, ...]

    def __post_init__(self) -> None:
        at = 0
        for group in self.groups:
            matrices = [each for each in (group.hessian, group.held_out) if each is not None]
            shapes = {each.shape for each in matrices} - {(self.columns, self.columns)}
            if group.importance.shape != (self.columns,) or shapes:
                raise ShapeError(f"statistics of other shapes than {self.columns} columns")
            if group.start != at or group.stop <= at:
                raise ShapeError(f"statistics for the rows from {group.start}, not from {at}")
            at = group.stop

    @property
    def rows(self) -> int:
        """The rows that the groups cover."""
        return self.groups[-1].stop if self.groups else 0

    def of_rows(self, start: int, stop: int) -> Sequence[tuple[int, int, RowStatistics]]:
        """Cut rows at the borders of groups: (start, stop, group), in order."""
        return [
            (max(start, group.start), min(stop, group.stop), group)
            for group in self.groups
            if group.start < stop and start < group.stop
        ]
