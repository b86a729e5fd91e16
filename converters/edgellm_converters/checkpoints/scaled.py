"""Weights in 8-bit floats with scales beside them, decoded to float32 a slab of rows at a time.

A value is code * scale, in float32. A scale stands for the whole matrix, for a row of it, or for a
block of rows and columns, as in the checkpoints of DeepSeek and Qwen (`weight_scale_inv` with
`weight_block_size`; despite its name it is multiplied by: DeepSeek-V3 technical report, 3.3).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm_converters.checkpoints.float8 import FLOAT8, decode_float8
from edgellm_converters.checkpoints.safetensors import SafetensorInfo, SafetensorsCheckpoint
from edgellm_converters.errors import UnsupportedError

__all__ = ["DecodedWeight", "Float8Weight"]

Floats = npt.NDArray[np.float32]


class DecodedWeight(Protocol):
    """A weight whose numbers have to be computed from what the checkpoint stores of it.

    `published` names the format in which such a checkpoint is meant to be computed with: F32, F16
    or BF16.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight, rows before columns."""
        ...

    @property
    def published(self) -> str:
        """See above."""
        ...

    def rows(self, start: int, stop: int) -> Floats:
        """Give rows (over all dimensions but the last): float32 (stop - start, columns)."""
        ...


class Float8Weight:
    """A tensor of 8-bit floats, and its scale if it has one.

    Args:
        checkpoint: where both are.
        tensor: the weight.
        scale: its scale; None where the codes are the values.
        block: rows and columns that share a scale; None for a scale of the matrix or of its rows.

    Raises:
        UnsupportedError: the shapes do not fit, or the scale is of another type than a float.
    """

    published = "BF16"

    def __init__(
        self,
        checkpoint: SafetensorsCheckpoint,
        tensor: SafetensorInfo,
        scale: SafetensorInfo | None = None,
        block: tuple[int, int] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._tensor = tensor
        self._scale = scale
        self.shape = tensor.shape
        self._scales: Floats | None = None
        if scale is not None:
            one = math.prod(scale.shape) == 1
            self._matrix_rows = tensor.rows if one or len(tensor.shape) < 2 else tensor.shape[-2]
            # (rows, columns) of scales for each matrix, and the size of what one stands for
            self._grid, self._block = _layout(tensor, scale, block)

    def rows(self, start: int, stop: int) -> Floats:
        """Give rows: float32 (stop - start, columns)."""
        codes = self._checkpoint.raw_rows(self._tensor.name, start, stop)
        values = decode_float8(codes, self._tensor.dtype)
        if self._scale is None:
            return values
        scales = self._load_scales(self._scale)  # (rows of scales of all matrices, columns)
        places = np.arange(start, stop)
        matrix, row = np.divmod(places, self._matrix_rows)
        lines = matrix * self._grid[0] + row // self._block[0]
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported later
            if scales.shape[1] == 1:
                values *= scales[lines]
                return values
            # Rows of one line of scales lie together: each line is spread over the columns once.
            bounds = [0, *(np.flatnonzero(np.diff(lines)) + 1), len(lines)]
            for first, last in pairwise(bounds):
                if first < last:
                    line = np.repeat(scales[lines[first]], self._block[1])[: values.shape[1]]
                    values[first:last] *= line
        return values

    def _load_scales(self, scale: SafetensorInfo) -> Floats:
        if self._scales is None:
            if scale.dtype in FLOAT8:
                raw = self._checkpoint.raw(scale.name)
                values = decode_float8(raw, scale.dtype)
            else:
                values = self._checkpoint.load(scale.name)
            self._scales = values.reshape(-1, self._grid[1])
        return self._scales


def _layout(
    tensor: SafetensorInfo, scale: SafetensorInfo, block: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the grid of scales over a matrix, and the block of values that one stands for."""
    if scale.dtype not in ("F32", "F16", "BF16", "F8_E8M0"):
        raise UnsupportedError(
            f"{scale.path}: the scale {scale.name!r} is of type {scale.dtype}, not F32, F16, BF16 "
            "or F8_E8M0"
        )
    *lead, rows, columns = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    if math.prod(scale.shape) == 1:
        return (1, 1), (max(tensor.rows, 1), columns)
    if block is not None:
        grid = -(-rows // block[0]), -(-columns // block[1])
        if scale.shape == (*lead, *grid):
            return grid, block
        raise _misfit(tensor, scale, f"blocks of {block[0]} x {block[1]} need {[*lead, *grid]}")
    if scale.shape in ((*lead,), (*lead, 1), (*lead, 1, 1)) and lead:
        return (1, 1), (max(rows, 1), columns)
    if scale.shape in ((*lead, rows), (*lead, rows, 1)) and len(tensor.shape) > 1:
        return (rows, 1), (1, columns)
    raise _misfit(tensor, scale, f"1 or {[*lead, rows]} is needed")


def _misfit(tensor: SafetensorInfo, scale: SafetensorInfo, wanted: str) -> UnsupportedError:
    return UnsupportedError(
        f"{scale.path}: the scale {scale.name!r} has the shape {list(scale.shape)}, which does not "
        f"fit the tensor of {list(tensor.shape)}: {wanted}"
    )
