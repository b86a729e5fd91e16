"""Codes of a few bits as one stream of bits, least significant first, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_codes", "unpack_codes"]

Bytes = NDArray[np.uint8]

# Eight codes lie in the eight bytes of a 64-bit number. Three steps close the gaps between them:
# of single codes, of pairs, of fours. These are the lower halves of each step's lanes.
_LOWER = (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)
_ALL = 2**64 - 1


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Pack codes.

    Args:
        codes: uint8 (rows, columns), each below 2**bits; contiguous; columns a multiple of 8.
        bits: 1 to 8.

    Returns:
        uint8 (rows, columns * bits / 8).
    """
    if bits == 8:
        return codes
    lanes = codes.view("<u8")  # (rows, columns / 8)
    gap = 8 - bits
    for lower in _LOWER:
        upper = lanes & np.uint64(_ALL ^ lower)
        upper >>= np.uint64(gap)
        lanes = lanes & np.uint64(lower)
        lanes |= upper
        gap *= 2
    if bits in (2, 4):
        return lanes.astype(f"<u{bits}").view(np.uint8)
    groups = lanes.view(np.uint8).reshape(*lanes.shape, 8)[:, :, :bits]
    return np.ascontiguousarray(groups).reshape(len(codes), codes.shape[1] // 8 * bits)


def unpack_codes(packed: Bytes, bits: int) -> Bytes:
    """Unpack what `pack_codes` packed.

    Args:
        packed: uint8 (rows, n * bits), contiguous.
        bits: 1 to 8.

    Returns:
        uint8 (rows, 8 * n).
    """
    if bits == 8:
        return packed
    if bits in (2, 4):
        lanes = packed.view(f"<u{bits}").astype("<u8")
    else:
        groups = np.zeros((len(packed), packed.shape[1] // bits, 8), np.uint8)
        groups[:, :, :bits] = packed.reshape(groups[:, :, :bits].shape)
        lanes = groups.view("<u8")[:, :, 0]
    gap = 4 * (8 - bits)
    for lower in reversed(_LOWER):
        # Shifted, the upper field of a lane is in its place, and the lower one is masked out.
        upper = lanes << np.uint64(gap)
        upper &= np.uint64(_ALL ^ lower)
        lanes = lanes & np.uint64(lower & (lower >> gap))
        lanes |= upper
        gap //= 2
    return lanes.view(np.uint8)
