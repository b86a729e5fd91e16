"""Sizes as people read them: MB are 10^6 bytes, in JSON everything stays in bytes."""

from __future__ import annotations

__all__ = ["human_bytes", "human_count"]

_STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def human_bytes(count: int) -> str:
    """Write a number of bytes: 98362432 -> "98.4 MB"."""
    return _scaled(count, "B")


def human_count(count: int) -> str:
    """Write a number of weights: 134515008 -> "134.5 M"."""
    return _scaled(count, "").rstrip()


def _scaled(count: int, unit: str) -> str:
    for step, letter in _STEPS:
        if count >= step:
            return f"{count / step:.1f} {letter}{unit}"
    return f"{count} {unit}"
