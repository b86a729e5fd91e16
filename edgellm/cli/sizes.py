"""Sizes and times as people read them: MB are 10^6 bytes, in JSON all stays in bytes and s."""

from __future__ import annotations

import re

import click

__all__ = ["human_bytes", "human_count", "human_time", "parse_bytes", "size_option", "size_or_none"]

_STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?\s*(?:([KMGT])(I?))?B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read a size: "2GB" and "2G" are 2 * 10^9 bytes, "2GiB" 2 * 2^30, "500" 500 bytes.

    Raises:
        ValueError: it is no size, or less than a byte.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size, such as 2GB or 500MB")
    whole, fraction, letter, binary = (part or "" for part in found.groups())
    power = " KMGT".index(letter.upper() or " ")
    unit: int = (1024 if binary else 1000) ** power
    size: int = int(whole + fraction) * unit // 10 ** len(fraction)
    if size < 1:
        raise ValueError(f"{text!r} is less than a byte")
    return size


def size_option(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Read a size that was typed: the callback of an option."""
    if value is None:
        return None
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def size_or_none(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Read a size that was typed, or 0: the callback of an option."""
    return 0 if value.strip() == "0" else size_option(ctx, param, value) or 0


def human_bytes(count: int) -> str:
    """Write a number of bytes: 98362432 -> "98.4 MB"."""
    return _scaled(count, "B")


def human_count(count: int) -> str:
    """Write a number of weights: 134515008 -> "134.5 M"."""
    return _scaled(count, "").rstrip()


def human_time(seconds: float) -> str:
    """Write a time: 8 -> "8 s", 200 -> "3 min 20 s", 7500 -> "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _scaled(count: int, unit: str) -> str:
    for step, letter in _STEPS:
        if count >= step:
            return f"{count / step:.1f} {letter}{unit}"
    return f"{count} {unit}"
