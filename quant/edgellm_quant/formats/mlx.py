"""The formats of MLX: codes packed into 32-bit words, with the scales of groups beside them.

A safetensors file of MLX holds a weight as two or three tensors: `weight` (the words of codes),
`scales`, and for affine ones `biases`. Here a row of them is one run of bytes, codes | scales |
biases, so that rows of it can be cut, moved and streamed as those of any block format.

A row's codes are one stream of bits, least significant first, in little-endian words; a code of
3, 5 or 6 bits may straddle two words. An affine value is code * scale + bias; scales may be
negative. The floating-point modes hold E2M1 or E4M3 values under an E8M0 (a power of two) or E4M3
scale of one byte (OCP Microscaling Formats 1.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgellm_quant.errors import ShapeError, UnknownTypeError

if TYPE_CHECKING:  # the tables of formats are imported without numpy
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AFFINE_BITS",
    "AFFINE_GROUPS",
    "AFFINE_SCALES",
    "FLOAT_MODES",
    "MLXFormat",
    "join_rows",
    "split_rows",
]

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
AFFINE_SCALES = ("F16", "BF16", "F32")

FLOAT_MODES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
)
"""Bits and group size of the modes with floating-point values; their scales are bytes (U8)."""

# numpy's types of a scale as stored; numpy has no bfloat16, so that one is its bits.
_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "U8": "u1"}
_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "U8": 1}


@dataclass(frozen=True, slots=True)
class MLXFormat:
    """A way to store a row of numbers, as `mlx.core.quantize` does.

    `mode` is MLX's name of it; `bits` are those of a code; `group_size` values share a scale;
    `scale` is the safetensors name of the type of scales and biases.

    Raises:
        UnknownTypeError: MLX has no such combination.
    """

    mode: str
    bits: int
    group_size: int
    scale: str

    def __post_init__(self) -> None:
        if self.mode == "affine":
            known = (
                self.bits in AFFINE_BITS
                and self.group_size in AFFINE_GROUPS
                and self.scale in AFFINE_SCALES
            )
        else:
            known = (
                FLOAT_MODES.get(self.mode) == (self.bits, self.group_size) and self.scale == "U8"
            )
        if not known:
            raise UnknownTypeError(
                f"MLX has no mode {self.mode!r} of {self.bits} bits in groups of "
                f"{self.group_size} with scales of type {self.scale}",
                hint="affine has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128 with scales "
                "of type F16, BF16 or F32; mxfp4, mxfp8 and nvfp4 have U8 scales and groups of "
                "32, 32 and 16",
            )

    @property
    def name(self) -> str:
        """Give the name that people see: "MLX4G64" for affine ones, else such as "MLX_MXFP4"."""
        if self.mode == "affine":
            return f"MLX{self.bits}G{self.group_size}"
        return f"MLX_{self.mode.upper()}"

    @property
    def has_biases(self) -> bool:
        """True if groups have a bias as well as a scale."""
        return self.mode == "affine"

    @property
    def bits_per_weight(self) -> float:
        """Bits that a value takes, scales and biases included."""
        return self.bits + 8 * self._group_bytes / self.group_size

    @property
    def is_quantized(self) -> bool:
        """True: several values always share a scale."""
        return True

    @property
    def _group_bytes(self) -> int:
        return _SIZES[self.scale] * (2 if self.has_biases else 1)

    def holds(self, columns: int) -> bool:
        """Tell whether rows of `columns` values are whole groups; those are whole words too."""
        return columns > 0 and columns % self.group_size == 0

    def words(self, columns: int) -> int:
        """Give the 32-bit words of codes in a row of `columns` values.

        Raises:
            ShapeError: `columns` is not positive, or no multiple of the group.
        """
        if not self.holds(columns):
            raise ShapeError(
                f"a row of {columns} values is no positive multiple of the {self.group_size} "
                f"values in a group of {self.name}"
            )
        return columns * self.bits // 32

    def row_bytes(self, columns: int) -> int:
        """Give the bytes of a row of `columns` values, scales and biases included.

        Raises:
            ShapeError: `columns` is not positive, or no multiple of the group.
        """
        return 4 * self.words(columns) + columns // self.group_size * self._group_bytes


def split_rows(
    blocks: NDArray[np.uint8], fmt: MLXFormat, columns: int
) -> tuple[NDArray[np.uint32], NDArray[Any], NDArray[Any] | None]:
    """Take rows apart into the arrays that MLX stores as tensors.

    Args:
        blocks: uint8 (rows, fmt.row_bytes(columns)).
        fmt: what the rows are.
        columns: values in a row.

    Returns:
        Codes, uint32 (rows, columns * bits / 32); scales, (rows, columns / group_size); biases of
        the same shape and type, or None. Scales are float16, float32, uint16 (the bits of a
        bfloat16) or uint8, as `fmt.scale` says. All are contiguous copies.

    Raises:
        ShapeError: a wrong shape or dtype.
    """
    import numpy as np

    width = fmt.row_bytes(columns)
    if blocks.ndim != 2 or blocks.dtype != np.uint8 or blocks.shape[1] != width:
        raise ShapeError(
            f"{fmt.name} rows of {columns} values must be uint8 (rows, {width}), "
            f"not {blocks.dtype} {blocks.shape}"
        )
    first = 4 * fmt.words(columns)
    size = columns // fmt.group_size * _SIZES[fmt.scale]

    def part(start: int, stop: int, dtype: str) -> NDArray[Any]:
        return np.array(blocks[:, start:stop], order="C").view(dtype)

    codes = part(0, first, "<u4")
    scales = part(first, first + size, _DTYPES[fmt.scale])
    biases = part(first + size, width, _DTYPES[fmt.scale]) if fmt.has_biases else None
    return codes, scales, biases


def join_rows(
    codes: NDArray[np.uint32],
    scales: NDArray[Any],
    biases: NDArray[Any] | None,
    fmt: MLXFormat,
    columns: int,
) -> NDArray[np.uint8]:
    """Put the arrays of MLX together into rows: the inverse of `split_rows`.

    Returns:
        uint8 (rows, fmt.row_bytes(columns)).

    Raises:
        ShapeError: shapes or dtypes that do not belong together or to the format.
    """
    import numpy as np

    groups = (len(codes), columns // fmt.group_size)
    wanted = [(codes, "<u4", (len(codes), fmt.words(columns)))]
    wanted.append((scales, _DTYPES[fmt.scale], groups))
    if fmt.has_biases and biases is not None:
        wanted.append((biases, _DTYPES[fmt.scale], groups))
    elif fmt.has_biases or biases is not None:
        raise ShapeError(f"{fmt.name} has {'' if fmt.has_biases else 'no '}biases")
    for array, dtype, shape in wanted:
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise ShapeError(
                f"an array of {fmt.name} rows of {columns} values must be {np.dtype(dtype)} "
                f"{shape}, not {array.dtype} {array.shape}"
            )
    parts = [np.ascontiguousarray(array).view(np.uint8) for array, _, _ in wanted]
    return np.concatenate(parts, axis=1)
