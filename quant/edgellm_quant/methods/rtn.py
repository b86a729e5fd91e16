"""Round to nearest: ggml's own choice of scales, from the weights alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.errors import ShapeError
from edgellm_quant.formats import BlockFormat
from edgellm_quant.ggml import quantize_rows

__all__ = ["round_to_nearest"]


def round_to_nearest(
    weights: NDArray[np.float32], fmt: BlockFormat, threads: int | None = None
) -> NDArray[np.uint8]:
    """Encode a tensor.

    Args:
        weights: float32 (..., columns).
        fmt: what to encode to.
        threads: how many cores to use; None for all.

    Returns:
        uint8 (..., fmt.row_bytes(columns)).

    Raises:
        ShapeError, ValueRangeError, ImportanceRequiredError, UnknownTypeError: as in
            `edgellm_quant.ggml.quantize_rows`.
    """
    if weights.ndim == 0:
        raise ShapeError("a single number has no row to encode")
    rows = weights.reshape(-1, weights.shape[-1]) if weights.size else weights
    return quantize_rows(rows, fmt, None, threads).reshape(*weights.shape[:-1], -1)
