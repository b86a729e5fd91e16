"""Blocks of ggml as codes with a scale and a bias for each group, and back.

Where a format's values are whole numbers of equal steps, another such format can hold them without
choosing anything anew: the codes move, and the scales are written another way. Layouts are those
of ggml's `ggml-quants.c`; all numbers of a block are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.bitstream import unpack_codes

__all__ = ["PACKERS", "UNPACKERS", "Affine", "Packer", "nibbles", "pack_nibbles"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Affine:
    """Rows of values code * scale + bias.

    `codes` are uint8 (rows, columns), `scales` and `biases` float32 (rows, groups); the groups
    of a row are equally long.
    """

    codes: Bytes
    scales: Floats
    biases: Floats

    @property
    def group_size(self) -> int:
        """Values that share a scale."""
        return int(self.codes.shape[1]) // int(self.scales.shape[1])

    def regroup(self, size: int) -> Affine:
        """Give the same values in groups of `size`, which divides the present size."""
        times = self.group_size // size
        if times == 1:
            return self
        return Affine(
            self.codes, np.repeat(self.scales, times, axis=1), np.repeat(self.biases, times, axis=1)
        )

    def take(self, rows: NDArray[np.bool_]) -> Affine:
        """Give some of the rows."""
        return Affine(self.codes[rows], self.scales[rows], self.biases[rows])

    def values(self) -> Floats:
        """Decode: float32 (rows, columns), rounded after each of the two steps."""
        values = self.codes.reshape(*self.scales.shape, -1).astype(np.float32)
        values *= self.scales[..., None]
        values += self.biases[..., None]
        return values.reshape(self.codes.shape)


def _halves(blocks: Bytes, start: int) -> Floats:
    """Read one float16 of each block: (..., bytes) -> (...)."""
    return np.array(blocks[..., start : start + 2]).view("<f2")[..., 0].astype(np.float32)


def nibbles(packed: Bytes) -> Bytes:
    """Give the low nibbles, then the high ones: (..., k) -> (..., 2 k)."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def _single_bits(packed: Bytes) -> Bytes:
    """Give bits as 0 or 1, least significant first: (..., k) -> (..., 8 k)."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _affine(codes: Bytes, scales: Floats, biases: Floats) -> Affine:
    """Join blocks to rows: (rows, blocks, ...) each."""
    rows = len(codes)
    return Affine(
        np.ascontiguousarray(codes).reshape(rows, -1),
        scales.reshape(rows, -1),
        biases.reshape(rows, -1),
    )


def _q4_0(blocks: Bytes) -> Affine:
    scale = _halves(blocks, 0)
    return _affine(nibbles(blocks[..., 2:]), scale, -8 * scale)


def _q4_1(blocks: Bytes) -> Affine:
    return _affine(nibbles(blocks[..., 4:]), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(blocks: Bytes) -> Affine:
    scale = _halves(blocks, 0)
    codes = nibbles(blocks[..., 6:]) | _single_bits(blocks[..., 2:6]) << np.uint8(4)
    return _affine(codes, scale, -16 * scale)


def _q5_1(blocks: Bytes) -> Affine:
    codes = nibbles(blocks[..., 8:]) | _single_bits(blocks[..., 4:8]) << np.uint8(4)
    return _affine(codes, _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: Bytes) -> Affine:
    scale = _halves(blocks, 0)
    return _affine(blocks[..., 2:] ^ np.uint8(0x80), scale, -128 * scale)


def _k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """Read the eight scales and minima, of six bits each: (..., 12) -> twice (..., 8)."""
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    low, top = np.uint8(15), np.uint8(0x30)
    scales = [first & np.uint8(63), third & low | first >> np.uint8(2) & top]
    minima = [second & np.uint8(63), third >> np.uint8(4) | second >> np.uint8(2) & top]
    return (
        np.concatenate(scales, axis=-1).astype(np.float32),
        np.concatenate(minima, axis=-1).astype(np.float32),
    )


def _k_nibbles(packed: Bytes) -> Bytes:
    """Two sub-blocks of 32 share 32 bytes: (..., 128) -> (..., 8 sub-blocks, 32)."""
    pairs = nibbles(packed.reshape(*packed.shape[:-1], 4, 32))  # (..., 4, 64)
    return pairs.reshape(*packed.shape[:-1], 8, 32)


def _k(blocks: Bytes, codes: Bytes) -> Affine:
    scales, minima = _k_scales(blocks[..., 4:16])  # (rows, blocks, 8)
    return _affine(
        codes, _halves(blocks, 0)[..., None] * scales, -(_halves(blocks, 2)[..., None] * minima)
    )


def _q4_k(blocks: Bytes) -> Affine:
    return _k(blocks, _k_nibbles(blocks[..., 16:]))


_TO_FIFTH = np.array([4, 3, 2, 1, 0, 0, 0, 0], np.uint8)[:, None]
_FROM_ABOVE = np.array([0, 0, 0, 0, 0, 1, 2, 3], np.uint8)[:, None]


def _q5_k(blocks: Bytes) -> Affine:
    # Bit s of byte i is the fifth bit of value i in sub-block s; it moves to where a fifth bit is.
    high = blocks[..., None, 16:48] << _TO_FIFTH >> _FROM_ABOVE  # (rows, blocks, 8, 32)
    high &= np.uint8(16)
    high |= _k_nibbles(blocks[..., 48:])
    return _k(blocks, high)


# The levels of IQ4, by code, as codes of a scale with bias -128.
_IQ4 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16
)
_IQ4_CODES = (_IQ4 + 128).astype(np.uint8)


def _iq4_nl(blocks: Bytes) -> Affine:
    scale = _halves(blocks, 0)
    return _affine(np.take(_IQ4_CODES, nibbles(blocks[..., 2:])), scale, -128 * scale)


def _iq4_xs(blocks: Bytes) -> Affine:
    low = np.stack([blocks[..., 4:8] & np.uint8(15), blocks[..., 4:8] >> np.uint8(4)], axis=-1)
    high = unpack_codes(np.array(blocks[..., 2:4]).reshape(-1, 2), 2)  # (rows * blocks, 8)
    shape = (*blocks.shape[:-1], 8)
    six = low.reshape(shape) | high.reshape(shape) << np.uint8(4)
    scale = _halves(blocks, 0)[..., None] * (six.astype(np.float32) - 32)  # (rows, blocks, 8)
    packed = blocks[..., 8:].reshape(*shape, 16)
    return _affine(np.take(_IQ4_CODES, nibbles(packed)), scale, -128 * scale)


def _q1_0(blocks: Bytes) -> Affine:
    scale = _halves(blocks, 0)
    return _affine(_single_bits(blocks[..., 2:]), 2 * scale, -scale)


def _q2_0(blocks: Bytes) -> Affine:
    scale = _halves(blocks, 0)
    packed = np.array(blocks[..., 2:]).reshape(-1, 16)
    codes = unpack_codes(packed, 2).reshape(*blocks.shape[:-1], 64)
    return _affine(codes, scale, -scale)


def _tq2_0(blocks: Bytes) -> Affine:
    # 32 bytes hold four runs of 32 values, in the bits 0-1, 2-3, 4-5 and 6-7.
    packed = blocks[..., :64].reshape(*blocks.shape[:-1], 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    scale = _halves(blocks, 64)
    codes = (packed >> shifts & np.uint8(3)).reshape(*blocks.shape[:-1], 256)
    return _affine(codes, scale, -scale)


UNPACKERS: Mapping[str, Callable[[Bytes], Affine]] = MappingProxyType(
    {
        "Q4_0": _q4_0,
        "Q4_1": _q4_1,
        "Q5_0": _q5_0,
        "Q5_1": _q5_1,
        "Q8_0": _q8_0,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "IQ4_NL": _iq4_nl,
        "IQ4_XS": _iq4_xs,
        "Q1_0": _q1_0,
        "Q2_0": _q2_0,
        "TQ2_0": _tq2_0,
    }
)
"""By ggml's name: uint8 (rows, blocks, bytes of a block) to the same values, exactly."""


@dataclass(frozen=True, slots=True)
class Packer:
    """How blocks of 32 values with float16 scales are written.

    `bits` are those of a code. `signed`: there is no bias; a code is a whole number from
    -2**(bits - 1) on, and zero is one of them. `pack` takes codes, uint8 (rows, blocks, 32), with
    2**(bits - 1) added if signed.
    """

    bits: int
    signed: bool
    pack: Callable[[Bytes], list[Bytes]]


def pack_nibbles(codes: Bytes) -> Bytes:
    """Give the inverse of `nibbles`, from the four lower bits of codes: (..., 2 k) -> (..., k)."""
    half = codes.shape[-1] // 2
    return codes[..., :half] & np.uint8(15) | codes[..., half:] << np.uint8(4)


def _pack_4(codes: Bytes) -> list[Bytes]:
    return [pack_nibbles(codes)]


def _pack_5(codes: Bytes) -> list[Bytes]:
    fifth = np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little")
    return [fifth, pack_nibbles(codes)]


def _pack_8(codes: Bytes) -> list[Bytes]:
    return [codes ^ np.uint8(0x80)]


PACKERS: Mapping[str, Packer] = MappingProxyType(
    {
        "Q4_0": Packer(4, True, _pack_4),
        "Q4_1": Packer(4, False, _pack_4),
        "Q5_0": Packer(5, True, _pack_5),
        "Q5_1": Packer(5, False, _pack_5),
        "Q8_0": Packer(8, True, _pack_8),
    }
)
"""By ggml's name; the parts that `pack` gives follow the scale, and the bias if there is one."""
