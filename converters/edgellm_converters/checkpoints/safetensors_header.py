"""The bounded reader of a safetensors header, and of the index of a sharded checkpoint.

The layout is the one of the safetensors format: a u64 length, a JSON object that gives each
tensor's dtype, shape and byte range, and the data, which the ranges cover without hole or overlap.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgellm_converters.checkpoints.gguf_header import open_regular
from edgellm_converters.errors import CorruptFileError, UnsupportedError

__all__ = ["DTYPE_BYTES", "SafetensorInfo", "read_index", "read_safetensors_header"]

# The format allows headers of 100 MB; the largest in use have some 100,000 bytes. JSON takes far
# more memory than its text, so the number of tensors and of its parts are bounded besides.
MAX_HEADER_BYTES = 16 << 20
MAX_INDEX_BYTES = 32 << 20
MAX_TENSORS = 1 << 16
MAX_SHARDS = 4096
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 16
MAX_BYTES = (1 << 63) - 1
METADATA = "__metadata__"

DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "C64": 8,
}
"""The bytes of an element. Types whose elements are no whole bytes (F4, F6) are not read."""


@dataclass(frozen=True, slots=True)
class SafetensorInfo:
    """One tensor: `dtype` as the file spells it, `shape` in numpy's order, where its data lie.

    `offset` is counted from the start of the file `path`; `offset` and `nbytes` are in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def columns(self) -> int:
        """The length of a row, in elements; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """The number of rows over all other dimensions; 1 for a scalar."""
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows


class _DuplicateKeyError(ValueError):
    """A JSON object with the same key twice: readers would disagree about its value."""


def read_safetensors_header(path: Path) -> tuple[dict[str, SafetensorInfo], dict[str, str]]:
    """Read and check a header; give the tensors in the order of their data, and the metadata.

    Raises:
        SourceNotFoundError: there is no such file, or it is no regular one.
        CorruptFileError: a rule of the format does not hold.
        UnsupportedError: a dtype whose elements are no whole bytes.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size < 10:
            _fail(path, f"{size} bytes are too few for a safetensors file")
        (length,) = struct.unpack("<Q", os.pread(descriptor, 8, 0).ljust(8, b"\0"))
        if length > size - 8:
            _fail(
                path,
                f"the header's length is {length}, beyond the {size} bytes of the file",
                hint="the file may be cut off: fetch it again",
            )
        if length > MAX_HEADER_BYTES:
            _fail(path, f"the header's length is {length}, more than {MAX_HEADER_BYTES}")
        text = os.pread(descriptor, length, 8)
    finally:
        os.close(descriptor)
    if len(text) < length:
        _fail(path, "the file became shorter while it was read")
    if not text.startswith(b"{"):
        _fail(path, "the header is not a JSON object", offset=8)
    header = _parse(path, text, "the header", MAX_TENSORS)
    metadata = _metadata(path, header.pop(METADATA, {}))
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    # Empty tensors stand before the one that begins where they do.
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.offset != end:
            what = "overlaps the data before it" if tensor.offset < end else "leaves a hole"
            _fail(path, f"the tensor {_short(tensor.name)} {what}", offset=tensor.offset)
        end = tensor.offset + tensor.nbytes
    if end != size:
        _fail(
            path,
            f"the data end at byte {end}, but the file has {size}",
            hint="the file may be cut off: fetch it again" if end > size else None,
        )
    return {tensor.name: tensor for tensor in tensors}, metadata


def read_index(path: Path) -> dict[str, str]:
    """Read model.safetensors.index.json: the file name for each tensor's name.

    Raises:
        SourceNotFoundError: there is no such file.
        CorruptFileError: it is no index, or names files that are not beside it.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_INDEX_BYTES:
            _fail(path, f"an index of {size} bytes, more than {MAX_INDEX_BYTES}")
        text = os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)
    weight_map = _parse(path, text, "the index", 4 * MAX_TENSORS).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _fail(path, "the index has no weight_map that names the tensors' files")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _plain_name(file):
            _fail(
                path, f"the file of tensor {_short(name)} is {_short(file)}, not a file beside it"
            )
        if not file.endswith(".safetensors"):
            _fail(path, f"tensor {_short(name)} is in {_short(file)}, which is not safetensors")
    if len(set(weight_map.values())) > MAX_SHARDS:
        _fail(path, f"the index names more than {MAX_SHARDS} files")
    return weight_map


def _plain_name(file: str) -> bool:
    """Tell whether a file name stays in its folder on every system."""
    return file.isprintable() and file not in ("", ".", "..") and not set(file) & set('/\\:*?"<>|')


def _parse(path: Path, text: bytes, what: str, most: int) -> dict[str, Any]:
    # Each bracket and each comma becomes at most one Python object of some 100 bytes.
    if text.count(b"{") + text.count(b"[") > 3 * most + 16 or text.count(b",") > 12 * most:
        _fail(path, f"{what} has more than {most} tensors")
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except _DuplicateKeyError as error:
        _fail(path, f"{what} names {error} twice")
    except (ValueError, RecursionError):
        # Also a number of too many digits, and bytes that are not UTF-8.
        _fail(path, f"{what} is not valid JSON")
    if not isinstance(parsed, dict):
        _fail(path, f"{what} is not a JSON object")
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKeyError(_short(key))
        found[key] = value
    return found


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if value is None:  # what mlx writes where there is none
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        _fail(path, f"{METADATA} is not an object of strings")
    return value


def _tensor(path: Path, name: str, entry: Any, data: int) -> SafetensorInfo:
    """Check one entry of the header; `data` is the byte at which the data begin."""
    shown = _short(name)
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        _fail(path, f"the tensor name {shown} is no text")
    if not 0 < len(encoded) <= MAX_NAME_BYTES or b"\0" in encoded:
        _fail(path, f"the tensor name {shown} is empty, too long or holds a NUL character")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _fail(path, f"the tensor {shown} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype in ("F4", "F6_E2M3", "F6_E3M2"):
        raise UnsupportedError(f"{path}: the tensor {shown} is of type {dtype}, not read here")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        _fail(path, f"the tensor {shown} is of the unknown type {_short(dtype)}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        _fail(path, f"the tensor {shown} has the impossible shape {_short(shape)}")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(path, f"the tensor {shown} has the impossible data_offsets {_short(offsets)}")
    nbytes = DTYPE_BYTES[dtype]
    for size in shape:
        nbytes *= size
    if nbytes != offsets[1] - offsets[0]:
        _fail(
            path,
            f"the tensor {shown} needs {nbytes} bytes for {dtype} {_short(shape)}, "
            f"its data_offsets hold {offsets[1] - offsets[0]}",
        )
    return SafetensorInfo(name, dtype, tuple(shape), path, data + offsets[0], nbytes)


def _sizes(value: Any) -> bool:
    """Tell whether a value is a list of whole numbers that fit into 63 bits (bool is none)."""
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size <= MAX_BYTES for size in value
    )


def _short(value: object) -> str:
    """Quote a value of the file, cut to a length that a sentence can carry."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, list) and len(value) <= MAX_DIMENSIONS:
        return "[" + ", ".join(_short(item) for item in value) + "]"
    if isinstance(value, int) and -MAX_BYTES < value <= MAX_BYTES:
        return repr(value)
    return f"a {type(value).__name__}"


def _fail(
    path: Path, reason: str, *, offset: int | None = None, hint: str | None = None
) -> NoReturn:
    raise CorruptFileError(path, reason, offset=offset, hint=hint)
