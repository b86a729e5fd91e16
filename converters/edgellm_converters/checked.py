"""Tensors that are looked at while they are read: NaN and infinity are refused, or noted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm_converters.errors import NotFiniteError
from edgellm_converters.finite import INFINITY, not_finite, rows_are_finite, spell
from edgellm_converters.streams import SLAB_VALUES, Tensors
from edgellm_quant.formats import FORMATS, Format
from edgellm_quant.recode import recode_rows

__all__ = ["CheckedTensors"]

Bytes = npt.NDArray[np.uint8]


class CheckedTensors:
    """Tensors whose numbers are looked at when they are read; of quantized ones, the scales.

    Args:
        tensors: where the rows come from.
        allow: note NaN and infinity, rather than refuse them.
    """

    def __init__(self, tensors: Tensors, *, allow: bool) -> None:
        self._tensors = tensors
        self._allow = allow
        self._counts: dict[str, dict[int, int]] = {}
        self._first: dict[str, str] = {}

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self._tensors.path

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return self._tensors.shapes

    def format(self, name: str) -> Format:
        """Give the format in which `rows` gives a tensor."""
        return self._tensors.format(name)

    def published(self, name: str) -> Format:
        """Give the format in which the weights were published."""
        return self._tensors.published(name)

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Read rows.

        Raises:
            NotFiniteError: a value is NaN or infinite, and that is not allowed.
        """
        blocks = self._tensors.rows(name, start, stop)
        if self._look(name, start, blocks) or self._allow:
            return blocks
        self._count_rest(name, stop)
        raise NotFiniteError(
            f"{self.path}: {self._sentence(name)}",
            hint="the training may have diverged, or the file is damaged; --allow-nan converts "
            "it as it is",
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on what was found."""
        return [self._sentence(name) for name in self._first]

    def _look(self, name: str, start: int, blocks: Bytes) -> bool:
        """Tell whether rows are finite, and note where they are not."""
        fmt, columns = self.format(name), self._columns(name)
        if rows_are_finite(blocks, fmt, columns):
            return True
        if fmt.name not in INFINITY:
            blocks, fmt = recode_rows(blocks, fmt, FORMATS["F32"], columns), FORMATS["F32"]
        plain = FORMATS[fmt.name]
        bad = not_finite(blocks, plain)
        # A tensor that is put together anew may be read in pieces that overlap.
        self._counts.setdefault(name, {})[start] = int(np.count_nonzero(bad))
        if name not in self._first:
            row, column = (int(at) for at in np.argwhere(bad)[0])
            width = plain.type_size
            cell = np.ascontiguousarray(blocks[row, column * width : (column + 1) * width])
            self._first[name] = f"row {start + row}, column {column} ({spell(cell, plain)})"
        return False

    def _count_rest(self, name: str, start: int) -> None:
        """Look at the rows behind the first bad ones, so that a person gets the whole number."""
        rows = 1
        for size in self.shapes[name][:-1]:
            rows *= size
        slab = max(1, SLAB_VALUES // self._columns(name))
        for at in range(start, rows, slab):
            self._look(name, at, self._tensors.rows(name, at, min(at + slab, rows)))

    def _columns(self, name: str) -> int:
        shape = self.shapes[name]
        return shape[-1] if shape else 1

    def _sentence(self, name: str) -> str:
        count = sum(self._counts[name].values())
        what = "1 value is" if count == 1 else f"{count} values are"
        return f"{what} NaN or infinite in the tensor {name}, the first in {self._first[name]}"
