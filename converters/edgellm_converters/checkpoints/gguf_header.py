"""The bounded reader of a GGUF header: nothing that the file says is believed before it is checked.

The rules are those of the GGUF specification (ggml/docs/gguf.md), version 2 and 3, and the
narrower ones by which ggml itself reads a file: tensors lie one after the other in the order of
the header, each padded to the alignment.

The header is read in slabs into one buffer rather than mapped, so that a file that another
program cuts short meanwhile is an error and no SIGBUS.
"""

from __future__ import annotations

import codecs
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgellm_converters.checkpoints.gguf_values import (
    SIZES,
    Metadata,
    StoredType,
    StoredValue,
    ValueType,
)
from edgellm_converters.errors import CorruptFileError, SourceNotFoundError
from edgellm_quant.formats import BY_TYPE, BlockFormat

__all__ = ["GGUFHeader", "TensorInfo", "open_regular", "read_header"]

# What a header may hold. The largest vocabularies in use (262,144 tokens with 514,906 merges) make
# headers of 17 MB, the largest models have some 2,000 tensors; a header of all these limits at
# once is read in less than 200 MB of memory.
MAX_HEADER_BYTES = 32 << 20
MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_ELEMENTS = 1 << 20
MAX_KEY_BYTES = (1 << 16) - 1  # the specification's
MAX_NAME_BYTES = 63  # GGML_MAX_NAME with its NUL
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_ALIGNMENT = 1 << 20  # a page of a large kind; padding to more would only waste the disk
MAX_BYTES = (1 << 63) - 1

DEFAULT_ALIGNMENT = 32
SLAB = 1 << 20
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its `shape` in numpy's order (rows before columns), where its blocks lie.

    `offset` is counted from the start of the file `path`; `offset` and `nbytes` are in bytes.
    """

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    path: Path
    offset: int
    nbytes: int

    @property
    def columns(self) -> int:
        """The length of a row, in elements."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """The number of rows over all other dimensions."""
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return self.nbytes // self.rows


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What stands before the data of a GGUF file; sizes and offsets in bytes.

    `metadata` decodes a value when it is asked for: see `Metadata`. `value_types` holds each key's
    type, so that a writer can store it again as it was.
    """

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    value_types: Mapping[str, StoredType]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file; the data is not touched.

    Takes time and memory in proportion to the header, and never more than 200 MB.

    Raises:
        SourceNotFoundError: there is no such file, or it is no regular one.
        CorruptFileError: a rule of the format does not hold; it names the byte.
    """
    descriptor = open_regular(path)
    try:
        return _Reader(path, descriptor).header()
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> int:
    """Open a regular file for reading and give its descriptor; the caller closes it.

    Raises:
        SourceNotFoundError: there is no such file, or it is a folder or a device.
    """
    try:
        # O_NONBLOCK: a pipe must not hold us up before we see that it is one.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(f"{path}: there is no such file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        what = "a folder" if path.is_dir() else "no regular file"
        raise SourceNotFoundError(f"{path}: this is {what}; a file is needed")
    return descriptor


class _Reader:
    """Reads one header from front to back; `self.position` is where it stands."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.data = bytearray()
        self.position = 0

    def header(self) -> GGUFHeader:
        version, n_tensors, n_pairs = self._preamble()
        stored: dict[str, StoredValue] = {}
        for index in range(n_pairs):
            key = self._key(index, stored)
            stored[key] = self._value(key)
        metadata = Metadata(self.data, stored)
        alignment = self._alignment(metadata)
        heads: dict[str, tuple[tuple[int, ...], BlockFormat, int]] = {}
        for index in range(n_tensors):
            name = self._tensor_name(index, heads)
            heads[name] = self._tensor(name)
        end = self.position
        data_offset = _padded(end, alignment) if n_tensors else end
        tensors = self._place(heads, data_offset, alignment)
        del self.data[end:]
        types = {key: value.type for key, value in stored.items()}
        return GGUFHeader(
            self.path, version, alignment, metadata, types, tensors, data_offset, self.size
        )

    # -- the parts of a header ---------------------------------------------------------------

    def _preamble(self) -> tuple[int, int, int]:
        """Read magic, version and the two counts: 24 bytes."""
        if self.size == 0:
            self._fail("the file is empty", at=0)
        self._need(min(4, self.size))
        if bytes(self.data[:4]) != b"GGUF"[: self.size]:
            folder = f"give its folder, {self.path.parent}"
            hint = folder if self.path.suffix == ".safetensors" else None
            self._fail(f"not a GGUF file: it begins with {bytes(self.data[:4])!r}", at=0, hint=hint)
        self._need(24)
        version, n_tensors, n_pairs = struct.unpack_from("<IQQ", self.data, 4)
        if version not in (2, 3):
            if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
                self._fail("a big-endian GGUF file; only little-endian ones are read", at=4)
            hint = "convert the model again with a current converter" if version == 1 else None
            self._fail(f"GGUF version {version}; only 2 and 3 are read", at=4, hint=hint)
        # The least that a tensor takes is a name of one byte, one dimension, type and offset; a
        # pair takes a key of one byte, a type and a value of one byte.
        self._check_count("tensors", n_tensors, MAX_TENSORS, least=8 + 1 + 4 + 8 + 4 + 8, at=8)
        self._check_count("metadata pairs", n_pairs, MAX_PAIRS, least=8 + 1 + 4 + 1, at=16)
        self.position = 24
        return version, n_tensors, n_pairs

    def _check_count(self, what: str, count: int, most: int, *, least: int, at: int) -> None:
        if count > most:
            self._fail(f"the header declares {count} {what}, more than {most}", at=at)
        if count * least > self.size - 24:
            self._fail(f"the header declares {count} {what}, more than the file can hold", at=at)

    def _key(self, index: int, seen: Mapping[str, StoredValue]) -> str:
        at = self.position
        key = self._name(f"metadata key {index}", MAX_KEY_BYTES)
        if key in seen:
            self._fail(f"the metadata key {_short(key)} stands twice", at=at)
        return key

    def _value(self, key: str) -> StoredValue:
        at = self.position
        kind = self._value_type(key)
        if kind == ValueType.STRING:
            start = self.position
            self._text(f"the value of {_short(key)}", MAX_HEADER_BYTES)
            return StoredValue(StoredType(kind), 1, start, self.position)
        if kind != ValueType.ARRAY:
            return self._numbers(key, StoredType(kind), 1)
        element = self._value_type(key)
        if element == ValueType.ARRAY:
            self._fail(f"the value of {_short(key)} is an array of arrays", at=at)
        count_at = self.position
        count = self._u64()
        if count > MAX_ELEMENTS:
            self._fail(
                f"the array {_short(key)} has {count} elements, more than {MAX_ELEMENTS}",
                at=count_at,
            )
        if element == ValueType.STRING:
            return self._strings(key, count)
        return self._numbers(key, StoredType(kind, element), count)

    def _value_type(self, key: str) -> ValueType:
        at = self.position
        code = self._u32()
        if code > ValueType.FLOAT64:
            self._fail(f"the value of {_short(key)} has the unknown type {code}", at=at)
        return ValueType(code)

    def _numbers(self, key: str, kind: StoredType, count: int) -> StoredValue:
        element = kind.kind if kind.element is None else kind.element
        start = self.position
        stop = start + count * SIZES[element]
        self._need(stop)
        self.position = stop
        if element == ValueType.BOOL and self.data[start:stop].translate(None, b"\0\1"):
            self._fail(f"the value of {_short(key)} holds a boolean that is not 0 or 1", at=start)
        return StoredValue(kind, count, start, stop)

    def _strings(self, key: str, count: int) -> StoredValue:
        """Walk an array of strings once: lengths inside of the file, bytes that are UTF-8."""
        start = position = self.position
        if start + 8 * count > self.size:
            self._fail(f"the array {_short(key)} is longer than the file", at=start)
        data, unpack = self.data, U64.unpack_from
        long: list[tuple[int, int]] = []
        index, todo = 0, range(count)
        while todo:
            # The loop runs without looking at the buffer's end: unpacking does, and then the
            # buffer grows, or the file ends here.
            try:
                for index in todo:  # noqa: B007 (where it stopped is where to go on)
                    (length,) = unpack(data, position)
                    position += 8 + length
                    if length > 127:
                        long.append((position - length, position))
                todo = range(0)
            except (struct.error, OverflowError, IndexError):
                todo = range(index, count)
                self._need(position + 8)
        self._need(position)
        longest = max((stop - begin for begin, stop in long), default=127)
        self._check_utf8(f"a string of the array {_short(key)}", start, position, long)
        self.position = position
        kind = StoredType(ValueType.ARRAY, ValueType.STRING)
        return StoredValue(kind, count, start, position, longest)

    def _check_utf8(self, what: str, start: int, stop: int, long: list[tuple[int, int]]) -> None:
        """Check strings and the lengths between them at once.

        A length below 128 is eight ASCII bytes, so that no character can reach across it; the long
        strings, whose lengths are not, are checked one by one.
        """
        position = start
        with memoryview(self.data) as view:
            for begin, end in [*long, (stop + 8, stop + 8)]:
                for low, high in ((position, begin - 8), (begin, min(end, stop))):
                    decoder = codecs.getincrementaldecoder("utf-8")()
                    for at in range(low, high, SLAB):
                        piece = view[at : min(at + SLAB, high)]
                        try:
                            decoder.decode(piece, final=at + SLAB >= high)
                        except UnicodeDecodeError:
                            self._fail(f"{what} is not UTF-8", at=at)
                        finally:
                            piece.release()
                position = end

    def _alignment(self, metadata: Metadata) -> int:
        key = "general.alignment"
        if key not in metadata:
            return DEFAULT_ALIGNMENT
        value = metadata.stored(key)
        if value.type.kind != ValueType.UINT32:
            self._fail(f"{key} is of type {value.type}, not uint32", at=value.start)
        alignment = metadata[key]
        assert isinstance(alignment, int)
        if alignment == 0 or alignment & (alignment - 1):
            self._fail(f"{key} is {alignment}, no power of two", at=value.start)
        if alignment > MAX_ALIGNMENT:
            self._fail(f"{key} is {alignment}, more than {MAX_ALIGNMENT}", at=value.start)
        return alignment

    def _tensor_name(self, index: int, seen: Mapping[str, object]) -> str:
        at = self.position
        name = self._name(f"the name of tensor {index}", MAX_NAME_BYTES)
        if name in seen:
            self._fail(f"the tensor {_short(name)} stands twice", at=at)
        return name

    def _tensor(self, name: str) -> tuple[tuple[int, ...], BlockFormat, int]:
        """Read shape, type and offset; give shape (numpy's order), format, offset in the data."""
        at = self.position
        n_dimensions = self._u32()
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            self._fail(f"the tensor {_short(name)} has {n_dimensions} dimensions", at=at)
        self._need(self.position + 8 * n_dimensions)
        sizes = struct.unpack_from(f"<{n_dimensions}Q", self.data, self.position)
        self.position += 8 * n_dimensions
        elements = 1
        for size in sizes:
            elements *= size
        if elements == 0 or elements > MAX_BYTES:
            self._fail(f"the tensor {_short(name)} has the impossible shape {list(sizes)}", at=at)
        at = self.position
        code = self._u32()
        block = BY_TYPE.get(code)
        if block is None:
            self._fail(f"the tensor {_short(name)} has the unknown type {code}", at=at)
        if sizes[0] % block.block_size:
            self._fail(
                f"the tensor {_short(name)} has rows of {sizes[0]} elements, no multiple of the "
                f"{block.block_size} of a {block.name} block",
                at=at,
            )
        return sizes[::-1], block, self._u64()

    def _place(
        self,
        heads: Mapping[str, tuple[tuple[int, ...], BlockFormat, int]],
        data_offset: int,
        alignment: int,
    ) -> tuple[TensorInfo, ...]:
        """Check that the tensors lie one after the other, and inside of the file."""
        tensors = []
        expected = end = 0
        for name, (shape, block, offset) in heads.items():
            elements = 1
            for size in shape:
                elements *= size
            nbytes = elements // block.block_size * block.type_size
            if data_offset + offset + nbytes > self.size:
                self._fail(
                    f"the data of tensor {_short(name)} ends at byte "
                    f"{data_offset + offset + nbytes}, beyond the {self.size} bytes of the file",
                    hint="the file may be cut off: fetch it again",
                )
            if offset % alignment:
                self._fail(
                    f"the tensor {_short(name)} begins at {offset} of the data, "
                    f"no multiple of the alignment {alignment}"
                )
            if offset < end:
                self._fail(f"the tensor {_short(name)} overlaps the one before it")
            if offset != expected:
                self._fail(
                    f"the tensor {_short(name)} begins at {offset} of the data, not at {expected}"
                )
            tensors.append(TensorInfo(name, shape, block, self.path, data_offset + offset, nbytes))
            end = offset + nbytes
            expected = _padded(end, alignment)
        return tuple(tensors)

    # -- the smallest parts ------------------------------------------------------------------

    def _name(self, what: str, most: int) -> str:
        """Read a string that identifies something: not empty, and without NUL.

        C code compares such names up to their first NUL, and would see others than we do.
        """
        at = self.position
        name = self._text(what, most)
        if not name:
            self._fail(f"{what} is empty", at=at)
        if "\0" in name:
            self._fail(f"{what} holds a NUL character", at=at)
        return name

    def _text(self, what: str, most: int) -> str:
        at = self.position
        length = self._u64()
        if length > most:
            self._fail(f"{what} is {length} bytes long, more than {most}", at=at)
        start = self.position
        self._need(start + length)
        self.position = start + length
        try:
            return self.data[start : self.position].decode()
        except UnicodeDecodeError:
            self._fail(f"{what} is not UTF-8", at=start)

    def _u32(self) -> int:
        self._need(self.position + 4)
        (number,) = U32.unpack_from(self.data, self.position)
        self.position += 4
        return int(number)

    def _u64(self) -> int:
        self._need(self.position + 8)
        (number,) = U64.unpack_from(self.data, self.position)
        self.position += 8
        return int(number)

    def _need(self, stop: int) -> None:
        """See to it that the buffer holds the bytes up to `stop`."""
        if stop <= len(self.data):
            return
        if stop > self.size:
            self._fail(
                f"the header wants bytes up to {stop}, beyond the {self.size} bytes of the file",
                at=self.position,
                hint="the file may be cut off: fetch it again",
            )
        if stop > MAX_HEADER_BYTES:
            self._fail(f"the header is longer than {MAX_HEADER_BYTES} bytes", at=self.position)
        # Growing by doubling keeps the number of copies of a long header small.
        goal = min(max(stop, 2 * len(self.data), SLAB), self.size, MAX_HEADER_BYTES)
        while len(self.data) < goal:
            slab = os.pread(self.descriptor, min(SLAB, goal - len(self.data)), len(self.data))
            if not slab:
                self._fail("the file became shorter while it was read", at=len(self.data))
            self.data += slab

    def _fail(self, reason: str, *, at: int | None = None, hint: str | None = None) -> NoReturn:
        raise CorruptFileError(self.path, reason, offset=at, hint=hint)


def _padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment


def _short(name: str) -> str:
    """Quote a name of the file, cut to a length that a sentence can carry."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
