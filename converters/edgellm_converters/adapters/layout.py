"""Adapters as two programs load them: one scale for all pairs, and which matrix is called what.

llama.cpp (src/llama-adapter.cpp) adds alpha / rank * lora_b @ lora_a, where alpha is one for the
file and the rank that of the tensor. mlx-lm (tuner/lora.py) adds scale * x @ lora_a @ lora_b, where
scale and rank are one for the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm_converters.adapters.carry import Delta
from edgellm_converters.adapters.gguf import passed_over
from edgellm_converters.adapters.lowrank import Floats, Product
from edgellm_converters.architectures.base import Side
from edgellm_converters.errors import UnsupportedError
from edgellm_quant.errors import QuantError
from edgellm_quant.formats import FORMATS, BlockFormat
from edgellm_quant.recode import recode_rows

__all__ = ["Layout", "Matrix"]

EXPERTS = "_exps."
STACKED = 3  # dimensions of stacks of matrices


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor to be written, in numpy's order."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat


@dataclass(slots=True)
class Layout:
    """An adapter as one program loads it.

    Args:
        deltas: what is added to tensors of the target's side.
        architecture: general.architecture.
        target: `Side.GGUF` for llama.cpp, `Side.MLX` for mlx-lm.
        dtype: "f32", "f16" or "bf16"; "auto" for the adapter's own, but F32 where a scale was
            multiplied into a matrix.

    Attributes:
        strength: alpha in GGUF, the scale in MLX.
        rank: the largest of all.
        matrices: what `blocks` gives, in order.
        notes: sentences on what was done to scales and ranks.

    Raises:
        UnsupportedError: the program would pass a change over, or cannot make it.
    """

    deltas: Sequence[Delta]
    architecture: str
    target: Side
    dtype: str
    strength: float = 0.0
    rank: int = 0
    matrices: list[Matrix] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for delta in self.deltas:
            self._check(delta)
        found = [(each.scale, each.rank) for each in map(Delta.product, self.deltas)]
        alphas = [scale * rank if self.target is Side.GGUF else scale for scale, rank in found]
        self.strength = Counter(alphas).most_common(1)[0][0]
        self.rank = max(rank for _, rank in found)
        folded = rounded = 0
        for delta in self.deltas:
            product = self._product(delta)
            folded += product.folded
            rounded += not product.exact
            kept = "F32" if product.folded else delta.dtype
            name = kept if self.dtype == "auto" else self.dtype.upper()
            self.matrices += [
                Matrix(f"{self._stem(delta)}.lora_{letter}", values.shape, FORMATS[name])
                for letter, values in zip("ab", self._arranged(delta, product), strict=True)
            ]
        padded = sum(rank < self.rank for _, rank in found)
        self._take_notes(folded, rounded, padded if self.target is Side.MLX else 0)

    def blocks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Give the data of each matrix; memory holds one pair at a time.

        Raises:
            QuantError: a value is too large for the format; the message names the tensor.
        """
        left = iter(self.matrices)
        for delta in self.deltas:
            for values in self._arranged(delta, self._product(delta)):
                matrix = next(left)
                rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
                try:
                    yield recode_rows(
                        rows.view(np.uint8), FORMATS["F32"], matrix.format, rows.shape[1]
                    )
                except QuantError as error:
                    raise type(error)(f"{matrix.name}: {error}", hint=error.hint) from error

    def _product(self, delta: Delta) -> Product:
        """Give the matrices of a tensor with the scale and rank that the program will take."""
        product = delta.product()
        if self.target is Side.GGUF:
            return product.with_scale(self.strength / product.rank)
        return product.with_scale(self.strength).with_rank(self.rank)

    def _arranged(self, delta: Delta, product: Product) -> tuple[Floats, Floats]:
        """Give lora_a and lora_b as the program has them."""
        left, right = product.left, product.right
        if self.target is Side.GGUF:
            return (left, right.T) if delta.embedding else (right, left)
        if left.ndim == STACKED:
            return right, left
        return (left, right) if delta.embedding else (right.T, left.T)

    def _stem(self, delta: Delta) -> str:
        name = delta.step.target
        return name if self.target is Side.GGUF else name.removesuffix(".weight")

    def _check(self, delta: Delta) -> None:
        """Refuse a change that the program would not make."""
        name, step = delta.step.target, delta.step
        program = "llama.cpp" if self.target is Side.GGUF else "mlx-lm"
        what = ""
        if self.target is Side.GGUF:
            what = passed_over(name, step.shape, self.architecture, tied=delta.tied)
        elif "_norm." in step.gguf:
            what = "a norm"
        elif len(step.shape) == STACKED and EXPERTS not in step.gguf:
            what = "a stack of matrices that are no experts"
        if what:
            raise UnsupportedError(
                f"the adapter changes {name}, {what}, which {program} cannot do",
                hint="merge it: edgellm convert BASE --lora ADAPTER -o OUT",
            )

    def _take_notes(self, folded: int, rounded: int, padded: int) -> None:
        pairs = len(self.deltas)
        if folded:
            how = f"{rounded} of them rounded to float32" if rounded else "exactly"
            self.notes.append(
                f"{folded} of {pairs} pairs have a scale of their own, which the file cannot say: "
                f"it is multiplied into their matrices, {how}"
            )
        if padded:
            self.notes.append(
                f"{padded} of {pairs} pairs have a lower rank than {self.rank}, which the file "
                "cannot say: they are padded with zeros"
            )
