"""The metadata of a GGUF file: the types of its values, and values decoded when they are asked for.

The layout is the one of the GGUF specification (ggml/docs/gguf.md): little-endian throughout, a
string is a u64 length and its UTF-8 bytes, an array is its element type (u32), a u64 count and the
elements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple, TypeAlias

__all__ = ["Metadata", "StoredType", "StoredValue", "Value", "ValueType"]

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | list[int] | list[float] | list[bool] | list[str]


class ValueType(IntEnum):
    """The type codes of metadata values, as the file stores them."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# The struct code of every type of a fixed size; a boolean is a byte.
CODES: Mapping[int, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
SIZES: Mapping[int, int] = {kind: struct.calcsize("<" + code) for kind, code in CODES.items()}
INTEGERS = frozenset(
    {
        ValueType.UINT8,
        ValueType.INT8,
        ValueType.UINT16,
        ValueType.INT16,
        ValueType.UINT32,
        ValueType.INT32,
        ValueType.UINT64,
        ValueType.INT64,
    }
)


class StoredType(NamedTuple):
    """What a writer needs to store a value again as it was: its type, and an array's elements'."""

    kind: ValueType
    element: ValueType | None = None

    def __str__(self) -> str:
        if self.element is None:
            return self.kind.name.lower()
        return f"array of {self.element.name.lower()}"


class StoredValue(NamedTuple):
    """Where a value lies in the header: `length` elements in the bytes `start` to `stop`.

    For a string, and for the elements of an array of strings, the bytes include the lengths;
    `longest` is the number of bytes of the longest of them.
    """

    type: StoredType
    length: int
    start: int
    stop: int
    longest: int = 0


class Metadata(Mapping[str, Value]):
    """The metadata by key, in the file's order; a value is decoded when it is asked for.

    Numbers are Python's, strings are `str`, arrays are lists of them (never numpy arrays). Scalars
    are kept once decoded; arrays are not, since they may be large: ask once and keep the list.
    Everything was validated when the header was read, so decoding cannot fail.
    """

    __slots__ = ("_data", "_decoded", "_stored")

    def __init__(self, data: bytearray, stored: Mapping[str, StoredValue]) -> None:
        self._data = data
        self._stored = stored
        self._decoded: dict[str, Value] = {}

    def __getitem__(self, key: str) -> Value:
        if key in self._decoded:
            return self._decoded[key]
        value = self._decode(key)
        if not isinstance(value, list):
            self._decoded[key] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key: object) -> bool:
        return key in self._stored

    def stored(self, key: str) -> StoredValue:
        """Say where a value lies and of which type it is, without decoding it."""
        return self._stored[key]

    def raw(self, key: str) -> bytes:
        """Give the bytes of a value as the file holds them (strings with their lengths)."""
        value = self._stored[key]
        return bytes(self._data[value.start : value.stop])

    def view(self, key: str) -> memoryview:
        """Give the same bytes as `raw` without copying them; read-only."""
        value = self._stored[key]
        return memoryview(self._data).toreadonly()[value.start : value.stop]

    def byte_strings(self, key: str) -> list[bytes]:
        """Give an array of strings as bytes, which is cheaper than decoding them."""
        value = self._stored[key]
        data, unpack, position = self.raw(key), struct.Struct("<Q").unpack_from, 0
        # The header's reader has walked the lengths: where none needs a second byte, one will do.
        short = value.longest < 256
        strings = []
        for _ in range(value.length):
            start = position + 8
            position = start + (data[position] if short else unpack(data, position)[0])
            strings.append(data[start:position])
        return strings

    def first(self, key: str, count: int) -> Value:
        """Decode a scalar, or at most the first `count` elements of an array.

        `stored(key).length` is the number of all of them.
        """
        kind, length, start, _, _ = value = self._stored[key]
        if kind.element is None or length <= count:
            return self[key]
        if kind.element == ValueType.STRING:
            return self._strings(value, count)
        return self._numbers(kind.element, start, count)

    def _decode(self, key: str) -> Value:
        value = self._stored[key]
        kind, element = value.type
        if kind == ValueType.STRING:
            return self._data[value.start + 8 : value.stop].decode()
        if kind != ValueType.ARRAY:
            (number,) = struct.unpack_from("<" + CODES[kind], self._data, value.start)
            return bool(number) if kind == ValueType.BOOL else number
        if element == ValueType.STRING:
            return self._strings(value, value.length)
        assert element is not None
        return self._numbers(element, value.start, value.length)

    def _numbers(self, element: ValueType, start: int, count: int) -> Value:
        numbers = struct.unpack_from(f"<{count}{CODES[element]}", self._data, start)
        return [bool(n) for n in numbers] if element == ValueType.BOOL else list(numbers)

    def _strings(self, value: StoredValue, count: int) -> list[str]:
        data, unpack, position = self._data, struct.Struct("<Q").unpack_from, value.start
        strings = []
        for _ in range(count):
            start = position + 8
            position = start + unpack(data, position)[0]
            strings.append(data[start:position].decode())
        return strings
