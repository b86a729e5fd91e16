"""Typed reads of config.json and of GGUF metadata: a wrong value names its key and its file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgellm_converters.errors import ConfigError

__all__ = ["LIMIT", "Values"]

# No size of a model comes near: larger numbers are damage, and would overflow elsewhere.
LIMIT = 2**31 - 1
# Those of float32, in which GGUF stores numbers.
SMALLEST, LARGEST = 1.2e-38, 3.4e38


class Values:
    """A mapping of untrusted values from a file, read one key at a time with its type checked."""

    __slots__ = ("_values", "path", "prefix")

    def __init__(self, path: Path, values: Mapping[str, object], prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._values = values

    def __contains__(self, key: str) -> bool:
        return self._values.get(self.prefix + key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def raw(self, key: str) -> object:
        """Give a value as it stands, None if it is absent."""
        return self._values.get(self.prefix + key)

    def under(self, prefix: str) -> Values:
        """Give the same values, keys being read after `prefix`."""
        return Values(self.path, self._values, self.prefix + prefix)

    def whole(self) -> Values:
        """Give the same values, keys being read as they are."""
        return Values(self.path, self._values)

    def updated(self, changes: Mapping[str, object]) -> Values:
        """Give the values after `prefix`, but for some that are others."""
        kept = {key: self._values[key] for key in self._values if key.startswith(self.prefix)}
        named = {self.prefix + key: value for key, value in changes.items()}
        return Values(self.path, kept | named, self.prefix)

    def section(self, key: str) -> Values | None:
        """Give a nested object, None if it is absent.

        Raises:
            ConfigError: the value is no object.
        """
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self.wrong(key, "an object")
        return Values(self.path, value)

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Read an integer from `least` to 2^31 - 1.

        Raises:
            ConfigError: it is absent without a default, or no such integer.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LIMIT:
            raise self.wrong(key, f"an integer from {least} to {LIMIT}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Read a positive number that a float32, as GGUF stores it, can hold.

        Raises:
            ConfigError: it is absent without a default, or no such number.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if not SMALLEST <= value <= LARGEST:
            raise self.wrong(key, "a finite number above 0")
        return float(value)

    def numbers(self, key: str, size: int) -> tuple[float, ...]:
        """Read a list of `size` finite positive numbers.

        Raises:
            ConfigError: it is absent, or no such list.
        """
        values = self._get(key, None)
        wanted = f"a list of {size} finite numbers above 0"
        if not isinstance(values, list) or len(values) != size:
            raise self.wrong(key, wanted)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.wrong(key, wanted)
            if not math.isfinite(value) or value <= 0:
                raise self.wrong(key, wanted)
        return tuple(float(value) for value in values)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Read a boolean.

        Raises:
            ConfigError: it is absent without a default, or no boolean.
        """
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Read a string.

        Raises:
            ConfigError: it is absent without a default, or no string.
        """
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def wrong(self, key: str, wanted: str) -> ConfigError:
        """Make the error for a value of a wrong kind."""
        value = repr(self.raw(key))
        shown = value if len(value) <= 60 else value[:57] + "..."
        return ConfigError(f"{self.path}: {self.prefix}{key} is {shown}, but {wanted} is needed")

    def _get(self, key: str, default: object) -> object:
        value = self.raw(key)
        if value is not None:
            return value
        if default is None:
            raise ConfigError(f"{self.path}: {self.prefix}{key} is missing")
        return default
