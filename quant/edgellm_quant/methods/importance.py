"""Round to nearest under weights: errors in columns that see large activations count more.

The importance of a column is the mean square of the activations that meet it, as llama-imatrix
gathers it; ggml's encoders choose scales that minimise the error weighted by it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.errors import ShapeError
from edgellm_quant.formats import BlockFormat
from edgellm_quant.ggml import quantize_rows

__all__ = ["round_with_importance"]


def round_with_importance(
    weights: NDArray[np.float32],
    fmt: BlockFormat,
    importance: NDArray[np.float32],
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Encode a matrix, or a stack of experts that have an importance each.

    Args:
        weights: float32 (rows, columns) or (experts, rows, columns).
        fmt: what to encode to.
        importance: float32 (columns,), or (experts, columns) for a stack.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (rows, row_bytes) or (experts, rows, row_bytes).

    Raises:
        ShapeError: the two shapes do not belong together.
        ValueRangeError, UnknownTypeError: as in `edgellm_quant.ggml.quantize_rows`.
    """
    if weights.ndim == 2:
        return quantize_rows(weights, fmt, importance, threads)
    if weights.ndim != 3 or importance.shape != (weights.shape[0], weights.shape[2]):
        raise ShapeError(
            f"importance {importance.shape} does not belong to weights {weights.shape}"
        )
    experts, rows, columns = weights.shape
    out = np.empty((experts, rows, fmt.row_bytes(columns)), np.uint8)
    for expert in range(experts):
        out[expert] = quantize_rows(weights[expert], fmt, importance[expert], threads)
    return out
