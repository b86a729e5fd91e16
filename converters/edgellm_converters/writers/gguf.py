"""Writing GGUF: gguf's writer lays out header, keys and tensor table; the data follows in slabs."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from edgellm_converters.checkpoints.gguf_split import ARCHITECTURE
from edgellm_converters.checkpoints.gguf_values import CODES, StoredType, Value, ValueType
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.writers.hashing import HashingFile
from edgellm_quant.formats import BlockFormat

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = [
    "ARCHITECTURE",
    "Entries",
    "OpenGGUF",
    "Packed",
    "TensorSpec",
    "file_bytes",
    "gguf_file",
    "header_bytes",
    "info_bytes",
    "pack",
    "padded",
    "repack",
]


@dataclass(frozen=True, slots=True)
class Packed:
    """A value of metadata as the bytes that the file will hold.

    `type` is the value's; `data` are its bytes, with the element type and count of an array.
    """

    type: StoredType
    data: bytes


Entries: TypeAlias = dict[str, Packed]
"""Metadata to be written: key -> packed value, in order."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; `shape` in numpy's order (columns last)."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape[:-1]) * self.format.row_bytes(self.shape[-1])

    @property
    def parameters(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


def pack(kind: StoredType, value: Value) -> Packed:
    """Turn a value into the bytes of its type (the GGUF specification, little-endian)."""
    if kind.kind == ValueType.STRING:
        return Packed(kind, _text(cast(str, value)))
    if kind.kind != ValueType.ARRAY:
        return Packed(kind, struct.pack("<" + CODES[kind.kind], value))
    items = cast("list[Any]", value)
    if kind.element is None:
        raise ValueError("an array needs the type of its elements")
    head = struct.pack("<IQ", kind.element, len(items))
    if kind.element == ValueType.STRING:
        return Packed(kind, head + b"".join(_text(item) for item in items))
    return Packed(kind, head + struct.pack(f"<{len(items)}{CODES[kind.element]}", *items))


def repack(kind: StoredType, count: int, raw: bytes) -> Packed:
    """Take over a value from another file: its `count` elements as that file holds them."""
    if kind.element is None:
        return Packed(kind, raw)
    return Packed(kind, struct.pack("<IQ", kind.element, count) + raw)


def file_bytes(entries: Mapping[str, Packed], tensors: Sequence[TensorSpec], alignment: int) -> int:
    """Give the bytes of a whole file: header, padding and data."""
    head = header_bytes(entries) + sum(info_bytes(tensor) for tensor in tensors)
    data = sum(padded(tensor.nbytes, alignment) for tensor in tensors)
    return padded(head, alignment) + data


def header_bytes(entries: Mapping[str, Packed]) -> int:
    """Give the bytes before the table of tensors: magic, version, two counts and the metadata."""
    return 24 + sum(8 + len(key.encode()) + 4 + len(of.data) for key, of in entries.items())


def info_bytes(tensor: TensorSpec) -> int:
    """Give the bytes of a row of that table: name, dimensions and their number, type, offset."""
    return 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8


def padded(size: int, alignment: int) -> int:
    """Give the next multiple of the alignment."""
    return size + -size % alignment


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


class OpenGGUF:
    """A GGUF file whose header is written; takes the data of its tensors in order."""

    def __init__(self, file: HashingFile, tensors: Sequence[TensorSpec], alignment: int) -> None:
        self._file = file
        self._left = iter(tensors)
        self._due = 0
        self._alignment = alignment

    def begin(self) -> TensorSpec:
        """Go to the next tensor, after the one before got all of its bytes."""
        if self._due:
            raise ValueError(f"{self._due} bytes of the tensor before are missing")
        self._pad()
        spec = next(self._left)
        self._due = spec.nbytes
        return spec

    def write(self, data: npt.NDArray[Any]) -> None:
        """Write some rows of the tensor; the array must not be changed afterwards."""
        if data.nbytes > self._due:
            raise ValueError(f"{data.nbytes - self._due} bytes more than the tensor has")
        self._file.write_array(data)
        self._due -= data.nbytes

    def finish(self) -> tuple[str, int]:
        """Give the sha256 and the bytes of the whole file."""
        if self._due or next(self._left, None) is not None:
            raise ValueError("tensors are missing")
        self._pad()
        self._file.flush()
        return self._file.sha256(), self._file.size

    def _pad(self) -> None:
        self._file.write(b"\0" * (-self._file.size % self._alignment))


@contextmanager
def gguf_file(
    path: Path, entries: Mapping[str, Packed], tensors: Sequence[TensorSpec], alignment: int = 32
) -> Iterator[OpenGGUF]:
    """Open a GGUF file for writing and write everything before the data.

    `entries` must hold general.architecture, which is written first as the specification wants.
    """
    writer = _writer(entries)
    writer.data_alignment = alignment
    for key, packed in entries.items():
        if key != ARCHITECTURE:
            writer.add_key_value(key, packed, _enum("GGUFValueType", packed.type.kind))
    for spec in tensors:
        number = _enum("GGMLQuantizationType", spec.format.ggml_type)
        writer.add_tensor_info(spec.name, spec.shape, np.dtype(np.float32), spec.nbytes, number)
    writer.open_output_file(path)
    files = cast("list[Any]", writer.fout)
    with HashingFile(files[0]) as file:
        files[0] = file
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        del writer  # it holds the whole vocabulary
        yield OpenGGUF(file, tensors, alignment)


def _writer(entries: Mapping[str, Packed]) -> GGUFWriter:
    """Make gguf's writer take values that are packed already."""
    from gguf import GGUFValueType, GGUFWriter

    class PackedWriter(GGUFWriter):
        def _pack_val(
            self,
            val: Any,
            vtype: GGUFValueType,
            add_vtype: bool,
            sub_type: GGUFValueType | None = None,
        ) -> bytes:
            if isinstance(val, Packed):
                return struct.pack("<I", vtype) + val.data
            return super()._pack_val(val, vtype, add_vtype, sub_type)

    architecture = entries[ARCHITECTURE].data[8:].decode()
    return PackedWriter(path=None, arch=architecture)


def _enum(name: str, number: int) -> Any:
    """Give gguf's own constant; an old gguf package may not have it."""
    import gguf

    try:
        return getattr(gguf, name)(number)
    except ValueError:
        raise UnsupportedError(
            f"the installed gguf package does not know {name} {number}",
            hint="install a newer one: pip install -U gguf",
        ) from None
