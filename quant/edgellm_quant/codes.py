"""Blocks taken apart into codes and scales, and put together again.

A value of the formats here is `(d * step) * level + m * step_m`: `level` is what its code stands
for, `d` and `m` are numbers of the block, and where groups of a block have scales of their own,
`step` and `step_m` are small numbers that multiply them. Layouts are those of ggml's
`ggml-quants.c` and of MLX's affine mode and mxfp4; all numbers of a block are little-endian.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.bitstream import pack_codes, unpack_codes
from edgellm_quant.formats import Format
from edgellm_quant.formats.mlx import MLXFormat, join_rows, split_rows
from edgellm_quant.mlx import E2M1, E4M3, E8M0, narrow_scales, widen_scales

__all__ = [
    "LAYOUTS",
    "Layout",
    "Parts",
    "join_groups",
    "layout_of",
    "nibbles",
    "pack_nibbles",
    "split_groups",
]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parts:
    """Blocks in parts; the leading dimensions of all are the same, such as (rows, blocks).

    Attributes:
        codes: uint8 (..., block).
        d: float32 (...), or None where a block has no scale but its steps.
        m: float32 (...), what is added to values; None where a format has none.
        steps: uint8 (..., groups), which multiple of d a group has; None for d itself.
        steps_m: uint8 (..., groups), the same for m.
    """

    codes: Bytes
    d: Floats | None
    m: Floats | None = None
    steps: Bytes | None = None
    steps_m: Bytes | None = None


def _narrow_half(values: Floats) -> Floats:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Layout:
    """How blocks of a format are written, and what their codes and steps stand for.

    Attributes:
        block: values in a block.
        group: values that share a scale; the groups of a block are equally long.
        levels: float32 (codes,), what a code stands for.
        zero: the code of level 0 where levels are whole numbers in order; None where they are not.
        steps: float32 (n,), what multiplies d by stored step; ascending, or None.
        steps_m: the same for m.
        read: uint8 (..., bytes of a block) to parts.
        write: the inverse; d and m are rounded to the type that they are stored in.
        has_d: scales are multiples of d; else the steps alone are the scales.
        has_m: values have m added.
        codes: how many codes are written; None for all that have a level.
        narrow: rounds d or m, float32 of any shape, to the type that they are stored in.
    """

    block: int
    group: int
    levels: Floats
    zero: int | None
    read: Callable[[Bytes], Parts]
    write: Callable[[Parts], Bytes]
    steps: Floats | None = None
    steps_m: Floats | None = None
    has_d: bool = True
    has_m: bool = False
    codes: int | None = None
    narrow: Callable[[Floats], Floats] = _narrow_half

    @property
    def last(self) -> int:
        """The largest code that is written."""
        return (len(self.levels) if self.codes is None else self.codes) - 1

    def scales(self, parts: Parts) -> Floats:
        """Give the scale of each group: float32 (..., groups)."""
        return _product(parts.d, parts.steps, self.steps, self.block // self.group)

    def offsets(self, parts: Parts) -> Floats | None:
        """Give what is added to the values of each group: float32 (..., groups), or None."""
        if parts.m is None:
            return None
        return _product(parts.m, parts.steps_m, self.steps_m, self.block // self.group)

    def values(self, parts: Parts) -> Floats:
        """Decode, rounding after each product and sum: float32 (..., block)."""
        shape = (*parts.codes.shape[:-1], -1, self.group)
        values = np.take(self.levels, parts.codes).reshape(shape)
        values *= self.scales(parts)[..., None]
        offsets = self.offsets(parts)
        if offsets is not None:
            values += offsets[..., None]
        return values.reshape(parts.codes.shape)


def _product(one: Floats | None, steps: Bytes | None, table: Floats | None, groups: int) -> Floats:
    if steps is None or table is None:
        assert one is not None
        return np.repeat(one[..., None], groups, axis=-1)
    wide: Floats = np.take(table, steps)
    if one is not None:
        wide *= one[..., None]
    return wide


def half(blocks: Bytes, start: int) -> Floats:
    """Read one float16 of each block: (..., bytes) -> (...)."""
    return np.array(blocks[..., start : start + 2]).view("<f2")[..., 0].astype(np.float32)


def _as_half(values: Floats | None) -> Bytes:
    """Write float16: (...) -> (..., 2)."""
    assert values is not None
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(values, "<f2")[..., None].view(np.uint8)


def nibbles(packed: Bytes) -> Bytes:
    """Give the low nibbles, then the high ones: (..., k) -> (..., 2 k)."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def pack_nibbles(codes: Bytes) -> Bytes:
    """Give the inverse of `nibbles`, from the four lower bits of codes: (..., 2 k) -> (..., k)."""
    middle = codes.shape[-1] // 2
    return codes[..., :middle] & np.uint8(15) | codes[..., middle:] << np.uint8(4)


def _bits(packed: Bytes) -> Bytes:
    """Give bits as 0 or 1, least significant first: (..., k) -> (..., 8 k)."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _pack_bits(codes: Bytes) -> Bytes:
    return np.packbits(codes, axis=-1, bitorder="little")


_QUARTERS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def _quarters(packed: Bytes) -> Bytes:
    """Runs of 32 bytes hold four runs of 32 values, lowest bits first: (..., k) -> (..., 4 k)."""
    runs = packed.reshape(*packed.shape[:-1], -1, 1, 32)
    return (runs >> _QUARTERS & np.uint8(3)).reshape(*packed.shape[:-1], -1)


def _pack_quarters(codes: Bytes) -> Bytes:
    """Give the inverse of `_quarters`, from the two lower bits of codes."""
    runs = codes.reshape(*codes.shape[:-1], -1, 4, 32) & np.uint8(3)
    packed: Bytes = np.bitwise_or.reduce(runs << _QUARTERS, axis=-2)
    return packed.reshape(*codes.shape[:-1], -1)


def _runs(packed: Bytes, length: int) -> Bytes:
    """Give `nibbles` of every run of `length` bytes: (..., k) -> (..., 2 k)."""
    pairs = nibbles(packed.reshape(*packed.shape[:-1], -1, length))
    return pairs.reshape(*packed.shape[:-1], -1)


def _pack_runs(codes: Bytes, length: int) -> Bytes:
    packed = pack_nibbles(codes.reshape(*codes.shape[:-1], -1, 2 * length))
    return packed.reshape(*codes.shape[:-1], -1)


def _eighths(packed: Bytes) -> Bytes:
    """Bit s of byte i belongs to value i of run s: (..., 32) -> (..., 256), each 0 or 1."""
    bits = _bits(packed).reshape(*packed.shape[:-1], 32, 8)
    return np.swapaxes(bits, -1, -2).reshape(*packed.shape[:-1], 256)


def _pack_eighths(codes: Bytes) -> Bytes:
    bits = np.swapaxes(codes.reshape(*codes.shape[:-1], 8, 32), -1, -2)
    return _pack_bits(bits)[..., 0]


def _join(*parts: Bytes) -> Bytes:
    return np.concatenate(parts, axis=-1)


# Blocks of 32 values, and the formats of one and two bits


def _simple(
    levels: Floats,
    zero: int | None,
    block: int,
    unpack: Callable[[Bytes], Bytes],
    pack: Callable[[Bytes], Bytes],
    has_m: bool = False,
) -> Layout:
    """Describe blocks of a float16 scale, perhaps a float16 that is added, and codes."""
    first = 4 if has_m else 2

    def read(blocks: Bytes) -> Parts:
        added = half(blocks, 2) if has_m else None
        return Parts(unpack(blocks[..., first:]), half(blocks, 0), added)

    def write(parts: Parts) -> Bytes:
        added = [_as_half(parts.m)] if has_m else []
        return _join(_as_half(parts.d), *added, pack(parts.codes))

    return Layout(block, block, levels, zero, read, write, has_m=has_m)


def _whole(first: int, last: int) -> Floats:
    return np.arange(first, last + 1, dtype=np.float32)


def _five(packed: Bytes) -> Bytes:
    return nibbles(packed[..., 4:]) | _bits(packed[..., :4]) << np.uint8(4)


def _pack_five(codes: Bytes) -> Bytes:
    return _join(_pack_bits(codes >> np.uint8(4)), pack_nibbles(codes))


def _eight(packed: Bytes) -> Bytes:
    return packed ^ np.uint8(0x80)


def _two(packed: Bytes) -> Bytes:
    flat = np.array(packed).reshape(-1, packed.shape[-1])
    return unpack_codes(flat, 2).reshape(*packed.shape[:-1], -1)


def _pack_two(codes: Bytes) -> Bytes:
    flat = np.ascontiguousarray(codes).reshape(-1, codes.shape[-1])
    return pack_codes(flat, 2).reshape(*codes.shape[:-1], -1)


IQ4 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""What the codes of IQ4_NL and IQ4_XS stand for."""


# Five ternary digits in a byte: the byte is the fraction that they are the digits of.
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def _trits(packed: Bytes, digits: int) -> Bytes:
    """Give the first digit of all bytes, then the second: (..., k) -> (..., digits * k)."""
    shifted = packed[..., None, :] * _POWERS[:digits, None]  # modulo 256
    found = (shifted.astype(np.uint16) * np.uint16(3) >> np.uint16(8)).astype(np.uint8)
    return found.reshape(*packed.shape[:-1], -1)


def _pack_trits(codes: Bytes, digits: int) -> Bytes:
    runs = codes.reshape(*codes.shape[:-1], digits, -1).astype(np.uint16)
    weights = _POWERS[::-1][:digits].astype(np.uint16)[:, None]
    number = (runs * weights).sum(axis=-2, dtype=np.uint16)
    packed: Bytes = ((number.astype(np.uint32) * 256 + 242) // 243).astype(np.uint8)
    return packed


def _read_tq1_0(blocks: Bytes) -> Parts:
    codes = [
        _trits(blocks[..., :32], 5),
        _trits(blocks[..., 32:48], 5),
        _trits(blocks[..., 48:52], 4),
    ]
    return Parts(_join(*codes), half(blocks, 52))


def _write_tq1_0(parts: Parts) -> Bytes:
    codes = parts.codes
    return _join(
        _pack_trits(codes[..., :160], 5),
        _pack_trits(codes[..., 160:240], 5),
        _pack_trits(codes[..., 240:], 4),
        _as_half(parts.d),
    )


def _read_tq2_0(blocks: Bytes) -> Parts:
    return Parts(_quarters(blocks[..., :64]), half(blocks, 64))


def _write_tq2_0(parts: Parts) -> Bytes:
    return _join(_pack_quarters(parts.codes), _as_half(parts.d))


# Super-blocks of 256 values


def _read_six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Read eight scales and eight minima of Q4_K and Q5_K: (..., 12) -> twice (..., 8)."""
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    low, top = np.uint8(15), np.uint8(0x30)
    scales = _join(first & np.uint8(63), third & low | first >> np.uint8(2) & top)
    minima = _join(second & np.uint8(63), third >> np.uint8(4) | second >> np.uint8(2) & top)
    return scales, minima


def _write_six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    top = np.uint8(0xC0)
    first = scales[..., :4] | scales[..., 4:] << np.uint8(2) & top
    second = minima[..., :4] | minima[..., 4:] << np.uint8(2) & top
    third = scales[..., 4:] & np.uint8(15) | minima[..., 4:] << np.uint8(4)
    return _join(first, second, third)


def _minimum(blocks: Bytes, start: int) -> Floats:
    """Read a float16 that is taken away."""
    return -half(blocks, start)


def _as_minimum(values: Floats | None) -> Bytes:
    assert values is not None
    return _as_half(-values)


def _read_q2_k(blocks: Bytes) -> Parts:
    both = blocks[..., :16]
    return Parts(
        _quarters(blocks[..., 16:80]),
        half(blocks, 80),
        _minimum(blocks, 82),
        both & np.uint8(15),
        both >> np.uint8(4),
    )


def _write_q2_k(parts: Parts) -> Bytes:
    assert parts.steps is not None
    assert parts.steps_m is not None
    both = parts.steps | parts.steps_m << np.uint8(4)
    return _join(both, _pack_quarters(parts.codes), _as_half(parts.d), _as_minimum(parts.m))


_PAIRS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def _read_q3_k(blocks: Bytes) -> Parts:
    codes = _quarters(blocks[..., 32:96]) | _eighths(blocks[..., :32]) << np.uint8(2)
    low = nibbles(blocks[..., 96:104])  # (..., 16)
    high = blocks[..., None, 104:108] >> _PAIRS & np.uint8(3)  # (..., 4, 4)
    steps = low | high.reshape(low.shape) << np.uint8(4)
    return Parts(codes, half(blocks, 108), None, steps)


def _write_q3_k(parts: Parts) -> Bytes:
    assert parts.steps is not None
    high = (parts.steps >> np.uint8(4)).reshape(*parts.steps.shape[:-1], 4, 4) << _PAIRS
    return _join(
        _pack_eighths(parts.codes >> np.uint8(2)),
        _pack_quarters(parts.codes),
        pack_nibbles(parts.steps),
        np.bitwise_or.reduce(high, axis=-2),
        _as_half(parts.d),
    )


def _read_q4_k(blocks: Bytes) -> Parts:
    steps = _read_six_bits(blocks[..., 4:16])
    return Parts(_runs(blocks[..., 16:], 32), half(blocks, 0), _minimum(blocks, 2), *steps)


def _k_head(parts: Parts) -> Bytes:
    assert parts.steps is not None
    assert parts.steps_m is not None
    return _join(
        _as_half(parts.d), _as_minimum(parts.m), _write_six_bits(parts.steps, parts.steps_m)
    )


def _write_q4_k(parts: Parts) -> Bytes:
    return _join(_k_head(parts), _pack_runs(parts.codes, 32))


def _read_q5_k(blocks: Bytes) -> Parts:
    codes = _runs(blocks[..., 48:], 32) | _eighths(blocks[..., 16:48]) << np.uint8(4)
    steps = _read_six_bits(blocks[..., 4:16])
    return Parts(codes, half(blocks, 0), _minimum(blocks, 2), *steps)


def _write_q5_k(parts: Parts) -> Bytes:
    fifth = _pack_eighths(parts.codes >> np.uint8(4))
    return _join(_k_head(parts), fifth, _pack_runs(parts.codes, 32))


def _read_q6_k(blocks: Bytes) -> Parts:
    codes = _runs(blocks[..., :128], 64) | _quarters(blocks[..., 128:192]) << np.uint8(4)
    return Parts(codes, half(blocks, 208), None, _eight(blocks[..., 192:208]))


def _write_q6_k(parts: Parts) -> Bytes:
    assert parts.steps is not None
    return _join(
        _pack_runs(parts.codes, 64),
        _pack_quarters(parts.codes >> np.uint8(4)),
        _eight(parts.steps),
        _as_half(parts.d),
    )


def _read_iq4_xs(blocks: Bytes) -> Parts:
    shape = (*blocks.shape[:-1], 8)
    low = np.stack([blocks[..., 4:8] & np.uint8(15), blocks[..., 4:8] >> np.uint8(4)], axis=-1)
    steps = low.reshape(shape) | _two(blocks[..., 2:4]) << np.uint8(4)
    return Parts(_runs(blocks[..., 8:], 16), half(blocks, 0), None, steps)


def _write_iq4_xs(parts: Parts) -> Bytes:
    steps = parts.steps
    assert steps is not None
    low = steps[..., 0::2] & np.uint8(15) | steps[..., 1::2] << np.uint8(4)
    high = _pack_two(steps >> np.uint8(4))
    return _join(_as_half(parts.d), high, low, _pack_runs(parts.codes, 16))


# Floating-point values under a scale of one byte


def _floats(levels: Floats, steps: Floats, group: int, groups: int) -> Layout:
    """Describe blocks that begin with the scales of their groups."""

    def read(blocks: Bytes) -> Parts:
        packed = blocks[..., groups:]
        return Parts(_runs(packed, group // 2), None, None, np.array(blocks[..., :groups]))

    def write(parts: Parts) -> Bytes:
        assert parts.steps is not None
        return _join(parts.steps, _pack_runs(parts.codes, group // 2))

    return Layout(group * groups, group, levels, None, read, write, steps, has_d=False)


_FOUR = _whole(0, 15)
_SIX = _whole(0, 63)
_SIGNED_SIX = _whole(-32, 31)

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "Q1_0": _simple(np.array([-1, 1], np.float32), None, 128, _bits, _pack_bits),
        "Q2_0": _simple(_whole(-1, 2), 1, 64, _two, _pack_two),
        "Q4_0": _simple(_whole(-8, 7), 8, 32, nibbles, pack_nibbles),
        "Q4_1": _simple(_whole(0, 15), 0, 32, nibbles, pack_nibbles, has_m=True),
        "Q5_0": _simple(_whole(-16, 15), 16, 32, _five, _pack_five),
        "Q5_1": _simple(_whole(0, 31), 0, 32, _five, _pack_five, has_m=True),
        "Q8_0": _simple(_whole(-128, 127), 128, 32, _eight, _eight),
        "IQ4_NL": _simple(IQ4, None, 32, nibbles, pack_nibbles),
        "TQ1_0": Layout(256, 256, _whole(-1, 1), 1, _read_tq1_0, _write_tq1_0),
        # a fourth code can be read, but it is none of three digits
        "TQ2_0": Layout(256, 256, _whole(-1, 2), 1, _read_tq2_0, _write_tq2_0, codes=3),
        "Q2_K": Layout(256, 16, _whole(0, 3), 0, _read_q2_k, _write_q2_k, _FOUR, _FOUR, has_m=True),
        "Q3_K": Layout(256, 16, _whole(-4, 3), 4, _read_q3_k, _write_q3_k, _SIGNED_SIX),
        "Q4_K": Layout(256, 32, _whole(0, 15), 0, _read_q4_k, _write_q4_k, _SIX, _SIX, has_m=True),
        "Q5_K": Layout(256, 32, _whole(0, 31), 0, _read_q5_k, _write_q5_k, _SIX, _SIX, has_m=True),
        "Q6_K": Layout(256, 16, _whole(-32, 31), 32, _read_q6_k, _write_q6_k, _whole(-128, 127)),
        "IQ4_XS": Layout(256, 32, IQ4, None, _read_iq4_xs, _write_iq4_xs, _SIGNED_SIX),
        # ggml's levels are twice those of E2M1, its scales half as large
        "MXFP4": _floats(2 * E2M1, np.ldexp(E8M0[:255], -1), 32, 1),
        "NVFP4": _floats(2 * E2M1, np.ldexp(E4M3[:127], -1), 16, 4),
    }
)
"""By ggml's name: the formats whose values have codes of their own, one for each."""


def layout_of(fmt: Format) -> Layout | None:
    """Give the layout of a format; None where values have no codes of their own.

    A block of an MLX format is one group, and its bytes are those of a row of one group.
    """
    if isinstance(fmt, MLXFormat):
        return _mlx(fmt)
    return LAYOUTS.get(fmt.name)


def join_groups(groups: Bytes, fmt: MLXFormat) -> Bytes:
    """Join the bytes of groups to rows of MLX: (rows, groups, bytes of a group) -> (rows, bytes).

    A row has the codes of all groups first, then all scales, then all biases.
    """
    first = 4 * fmt.words(fmt.group_size)
    size = (fmt.row_bytes(fmt.group_size) - first) // (2 if fmt.has_biases else 1)
    cuts = [0, first, *range(first + size, groups.shape[2] + 1, size)]
    parts = [groups[..., a:b].reshape(len(groups), -1) for a, b in itertools.pairwise(cuts)]
    return np.concatenate(parts, axis=1)


def split_groups(rows: Bytes, fmt: MLXFormat, columns: int) -> Bytes:
    """Give the inverse of `join_groups`."""
    count = columns // fmt.group_size
    first = 4 * fmt.words(columns)
    size = (fmt.row_bytes(columns) - first) // (2 if fmt.has_biases else 1)
    cuts = [0, first, *range(first + size, rows.shape[1] + 1, size)]
    parts = [rows[:, a:b].reshape(len(rows), count, -1) for a, b in itertools.pairwise(cuts)]
    return np.concatenate(parts, axis=2)


@functools.cache
def _mlx(fmt: MLXFormat) -> Layout | None:
    size = fmt.group_size
    if fmt.mode not in ("affine", "mxfp4"):
        return None

    def read(blocks: Bytes) -> Parts:
        flat = np.ascontiguousarray(blocks).reshape(-1, blocks.shape[-1])
        shape = blocks.shape[:-1]
        words, scales, biases = split_rows(flat, fmt, size)
        codes = unpack_codes(words.view(np.uint8), fmt.bits).reshape(*shape, size)
        if biases is None:
            return Parts(codes, None, None, scales.reshape(*shape, 1))
        d, m = (widen_scales(part, fmt).reshape(shape) for part in (scales, biases))
        return Parts(codes, d, m)

    def write(parts: Parts) -> Bytes:
        shape = parts.codes.shape[:-1]
        flat = np.ascontiguousarray(parts.codes).reshape(-1, size)
        words = pack_codes(flat, fmt.bits).view("<u4")
        if parts.d is None:
            assert parts.steps is not None
            rows = join_rows(words, parts.steps.reshape(-1, 1), None, fmt, size)
        else:
            assert parts.m is not None
            scales, biases = (
                narrow_scales(np.ascontiguousarray(part).reshape(-1, 1), fmt)
                for part in (parts.d, parts.m)
            )
            rows = join_rows(words, scales, biases, fmt, size)
        return rows.reshape(*shape, -1)

    if fmt.mode == "mxfp4":
        return Layout(size, size, E2M1, None, read, write, E8M0[:255], has_d=False)

    def narrow(values: Floats) -> Floats:
        return widen_scales(narrow_scales(values, fmt), fmt)

    levels = _whole(0, 2**fmt.bits - 1)
    return Layout(size, size, levels, 0, read, write, has_m=True, narrow=narrow)
