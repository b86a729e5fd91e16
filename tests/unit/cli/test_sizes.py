"""Sizes as people type them."""

from __future__ import annotations

import pytest

from edgellm.cli.sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500", 500),
        ("500 B", 500),
        ("2GB", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("1.5MB", 1_500_000),
        ("0.25kB", 250),
        ("1.2345678TB", 1_234_567_800_000),
        ("2GiB", 2 << 30),
        ("1.5KiB", 1536),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "B", "GB", "-1", "1e3", "1,5MB", "2 XB", "2iB", "0", "0.1B"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 2GB|less than a byte"):
        parse_bytes(text)
