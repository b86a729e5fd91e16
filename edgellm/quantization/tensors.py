"""The tensors of a target as rows of numbers, with what calibration says about those rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm_converters.plan import Change, Step
from edgellm_converters.streams import Recoder, Tensors, stream
from edgellm_quant.formats import FORMATS
from edgellm_quant.statistics import RowStatistics, TensorStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["float_rows", "sources_of", "statistics_of"]


def sources_of(step: Step) -> Sequence[str]:
    """Name the source tensors of a step, each once."""
    return list(dict.fromkeys(piece.source for piece in step.pieces))


def float_rows(tensors: Tensors, step: Step, threads: int | None) -> Iterator[NDArray[np.float32]]:
    """Give the rows of a tensor of the target: float32 (rows, columns), a slab after the other.

    Raises:
        ConvertersError, QuantError: as in `edgellm_converters.streams.stream`.
    """
    columns = step.shape[-1]
    for slab in stream(tensors, step, Recoder(FORMATS["F32"], threads)):
        yield np.ascontiguousarray(slab).view(np.float32).reshape(-1, columns)


def statistics_of(step: Step, known: Mapping[str, TensorStatistics]) -> TensorStatistics | None:
    """Put the statistics of a target's tensor together from those of its pieces.

    Rows that are moved within a piece (rotary heads) meet the same inputs, so groups are cut at the
    borders of pieces alone. None where a piece has no statistics, or columns are not the source's.
    """
    if step.blank or any(Change.TRANSPOSE in piece.changes for piece in step.pieces):
        return None
    groups: list[RowStatistics] = []
    at = 0
    for piece in step.pieces:
        found = known.get(piece.source)
        if found is None or found.columns != piece.columns:
            return None
        for start, stop, group in found.of_rows(piece.row, piece.row + piece.rows):
            groups.append(
                RowStatistics(
                    at,
                    at + stop - start,
                    group.tokens,
                    group.importance,
                    group.hessian,
                    group.held_out,
                )
            )
            at += stop - start
    return TensorStatistics(step.shape[-1], tuple(groups))
