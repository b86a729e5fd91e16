"""What a block format is: so many values in so many bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgellm_quant.errors import ShapeError

__all__ = ["BlockFormat", "Format"]


class Format(Protocol):
    """What every way to store a row of numbers tells of itself: ggml's blocks, MLX's triples."""

    @property
    def name(self) -> str:
        """The name that people see."""
        ...

    @property
    def bits_per_weight(self) -> float:
        """Bits that a value takes, scales included."""
        ...

    @property
    def is_quantized(self) -> bool:
        """True if several values share a scale, false for plain numbers."""
        ...

    def holds(self, columns: int) -> bool:
        """Tell whether rows of `columns` values can be stored."""
        ...

    def row_bytes(self, columns: int) -> int:
        """Give the bytes of a row of `columns` values; ShapeError if they cannot be stored."""
        ...


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A way to store a row of numbers, as ggml numbers and measures it.

    `name` is ggml's name in upper case ("Q4_K"); `ggml_type` its number in GGUF files;
    `block_size` the values in a block and `type_size` the bytes of a block. Plain numbers
    (F32, I8, ...) are blocks of one value.
    """

    name: str
    ggml_type: int
    block_size: int
    type_size: int

    @property
    def bits_per_weight(self) -> float:
        """Bits that a value takes, scales included."""
        return 8 * self.type_size / self.block_size

    @property
    def is_quantized(self) -> bool:
        """True if several values share a block, false for plain numbers."""
        return self.block_size > 1

    def holds(self, columns: int) -> bool:
        """Tell whether rows of `columns` values are whole blocks."""
        return columns > 0 and columns % self.block_size == 0

    def row_bytes(self, columns: int) -> int:
        """Give the bytes of a row of `columns` values.

        Raises:
            ShapeError: `columns` is not positive, or no multiple of the block.
        """
        if not self.holds(columns):
            raise ShapeError(
                f"a row of {columns} values is no positive multiple of the {self.block_size} "
                f"values in a block of {self.name}"
            )
        return columns // self.block_size * self.type_size
