"""A model with an adapter merged into its weights, as tensors that are read like any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm_converters.adapters.carry import Delta
from edgellm_converters.adapters.lowrank import LowRank
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.streams import Tensors
from edgellm_quant.formats import FORMATS, Format
from edgellm_quant.recode import recode_rows

__all__ = ["MergedTensors"]


class MergedTensors:
    """The tensors of a base with what an adapter adds to them, computed in float32.

    Memory holds the matrices of one tensor at a time, and the rows that are asked for.

    Args:
        base: the tensors of the base, those that change being of a float type.
        deltas: what is added, as the base's layout has it.
        scale: how many times it is added.

    Raises:
        UnsupportedError: a tensor that changes is quantized.
    """

    def __init__(self, base: Tensors, deltas: Sequence[Delta], scale: float) -> None:
        self._base = base
        self._deltas: Mapping[str, Delta] = {delta.step.target: delta for delta in deltas}
        self._scale = scale
        self._read: tuple[str, list[LowRank]] = ("", [])
        self.path: Path = base.path
        self.shapes: Mapping[str, tuple[int, ...]] = base.shapes
        quantized = [name for name in self._deltas if base.format(name).is_quantized]
        if quantized:
            raise UnsupportedError(
                f"{base.path}: {quantized[0]} is {base.format(quantized[0]).name}; an adapter is "
                "merged into float weights alone",
                hint="write float weights first (--dtype f32), or keep the adapter beside the "
                "model: edgellm convert ADAPTER -o adapter.gguf --base MODEL",
            )

    def format(self, name: str) -> Format:
        """Give F32 for what changes, else the base's format."""
        return FORMATS["F32"] if name in self._deltas else self._base.format(name)

    def published(self, name: str) -> Format:
        """Give what the base gives."""
        return self._base.published(name)

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read rows, changed ones in float32."""
        rows = self._base.rows(name, start, stop)
        if name not in self._deltas:
            return rows
        columns = self.shapes[name][-1]
        stored = self._base.format(name)
        # A copy, whatever the format is: rows of a reader are not to be changed.
        values: npt.NDArray[np.float32] = np.array(
            recode_rows(rows, stored, FORMATS["F32"], columns).view(np.float32)
        )
        for change in self._changes(name):
            first, end = max(start, change.row), min(stop, change.end)
            if first < end:
                values[first - start : end - start] += change.values(first, end, self._scale)
        return values.view(np.uint8)

    def _changes(self, name: str) -> list[LowRank]:
        if self._read[0] != name:
            self._read = (name, self._deltas[name].changes())
        return self._read[1]
