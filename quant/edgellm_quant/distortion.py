"""How much of a layer's output is lost when its weights are stored in a format.

For rows W stored as Q that meet inputs of Hessian H, the relative error is

    E = tr((W - Q) H (W - Q)') / tr(W H W')

the squared error of the outputs by their squared size. Where the diagonal of H alone is known (the
importance), H is that diagonal; where nothing is, H is the identity. A column of larger inputs than
`CAP` times the median is scaled down to that, in rows and columns of H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm_quant import ggml, mlx
from edgellm_quant.formats import BlockFormat, Format, MLXFormat
from edgellm_quant.statistics import RowStatistics, TensorStatistics

__all__ = ["Encode", "relative_error", "round_values", "sampled_errors", "sampled_rows"]

Floats = NDArray[np.float32]
Encode = Callable[[Floats, Format, RowStatistics | None], Floats]
"""Rows, a format, and the statistics that all of the rows share: the rows as they come back."""

ROWS = 64
# Values of a sample: some formats take ten microseconds for one.
VALUES = 2**17
FEWEST_ROWS = 4
# Columns of an input reach some ten times the median, those that the first token fills thousands.
CAP = 30.0


def relative_error(
    weights: Floats, stored: Floats, pieces: Sequence[tuple[int, int, RowStatistics | None]]
) -> float:
    """Give E of some rows; 0 where the outputs are 0.

    Args:
        weights: float32 (rows, columns).
        stored: float32 (rows, columns): the same rows out of the format.
        pieces: (start, stop, statistics) of rows that share statistics, counted from the first.
    """
    lost = whole = 0.0
    for start, stop, group in pieces:
        lost += _energy(weights[start:stop] - stored[start:stop], group)
        whole += _energy(weights[start:stop], group)
    return lost / whole if whole > 0 else 0.0


def _energy(rows: Floats, group: RowStatistics | None) -> float:
    if group is None or not group.importance.any():
        return float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    # A column that one token in hundreds fills a thousandfold would hide all others.
    usual = float(np.median(group.importance))
    if usual > 0:
        scale = np.sqrt(np.minimum(1, CAP * usual / np.maximum(group.importance, usual)))
        rows = rows * scale.astype(np.float32)
    if group.hessian is not None:
        return float(np.einsum("ij,ij->", rows @ group.hessian, rows, dtype=np.float64))
    return float(np.einsum("ij,ij,j->", rows, rows, group.importance, dtype=np.float64))


def round_values(rows: Floats, fmt: Format, group: RowStatistics | None) -> Floats:
    """Store rows by ggml's encoders under their importance, or by MLX's, and read them back."""
    columns = rows.shape[1]
    if isinstance(fmt, MLXFormat):
        return mlx.dequantize_rows(mlx.quantize_rows(rows, fmt), fmt, columns)
    assert isinstance(fmt, BlockFormat)
    importance = None if group is None or not group.importance.any() else group.importance
    blocks = ggml.quantize_rows(np.ascontiguousarray(rows), fmt, importance)
    return ggml.dequantize_rows(blocks, fmt, columns)


def sampled_rows(
    rows: int, columns: int, statistics: TensorStatistics | None, most: int = ROWS
) -> list[tuple[NDArray[np.intp], RowStatistics | None]]:
    """Choose rows evenly, those that share statistics together.

    Args:
        rows: of the tensor, those of a stack counted through.
        columns: values in a row; long rows are fewer.
        statistics: of the tensor, if there are any.
        most: how many rows are chosen; each chosen group gives one at least.
    """
    count = max(FEWEST_ROWS, min(most, VALUES // columns))
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, count)).round().astype(np.intp))
    if statistics is None:
        return [(chosen, None)]
    found: list[tuple[NDArray[np.intp], RowStatistics | None]] = []
    for group in statistics.groups:
        mine = chosen[(chosen >= group.start) & (chosen < group.stop)]
        if len(mine):
            found.append((mine, group))
    return found


def sampled_errors(
    sample: Sequence[tuple[Floats, RowStatistics | None]],
    formats: Sequence[Format],
    encode: Encode = round_values,
) -> dict[Format, float]:
    """Give E of a tensor in each format, from some of its rows.

    Args:
        sample: rows that share statistics, and these: see `sampled_rows`.
        formats: what to try; plain floats cost nothing.
        encode: how values are chosen.

    Raises:
        QuantError: see what `encode` raises.
    """
    found: dict[Format, float] = {}
    for fmt in formats:
        if not fmt.is_quantized:
            found[fmt] = 0.0
            continue
        lost = whole = 0.0
        for rows, group in sample:
            lost += _energy(rows - encode(rows, fmt, group), group)
            whole += _energy(rows, group)
        found[fmt] = lost / whole if whole > 0 else 0.0
    return found
