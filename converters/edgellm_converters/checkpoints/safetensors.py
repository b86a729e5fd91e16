"""Safetensors files as a checkpoint: one file or shards with an index, one tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm_converters.checkpoints.gguf_header import open_regular
from edgellm_converters.checkpoints.safetensors_header import (
    SafetensorInfo,
    read_index,
    read_safetensors_header,
)
from edgellm_converters.checkpoints.slabs import read_into
from edgellm_converters.errors import CorruptFileError, SourceNotFoundError, UnsupportedError

__all__ = ["SafetensorInfo", "SafetensorsCheckpoint"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NESTED = "[0-9]_Dense/model.safetensors"
# Files of these kinds run code when they are loaded.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

NUMPY_DTYPES: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|u1",
    "F8_E4M3": "|u1",
    "F8_E5M2": "|u1",
    "F8_E8M0": "|u1",
    "C64": "<c8",
}
"""What `raw` gives: the numbers themselves, or the bits of those that numpy has no type for."""

# Their bits are no numbers, so that a cast to float32 would give nonsense.
BITS_ONLY = frozenset({"F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"})


class SafetensorsCheckpoint:
    """The tensors of one safetensors file, or of all shards of a folder.

    No file stays open: every read opens its file, so that there is nothing to close. Tensors are
    read, not mapped, and memory holds only what the caller keeps.
    """

    def __init__(self, tensors: Mapping[str, SafetensorInfo], metadata: Mapping[str, str]) -> None:
        self.tensors: Mapping[str, SafetensorInfo] = MappingProxyType(dict(tensors))
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata))

    @classmethod
    def open(cls, path: Path) -> SafetensorsCheckpoint:
        """Check the headers of a file, or of a folder's model.safetensors or shards.

        Raises:
            SourceNotFoundError: there is no such path, or a folder without such files.
            CorruptFileError: a header or the index breaks a rule, or leads out of the folder.
            UnsupportedError: there are only files that hold pickled code.
        """
        if not path.is_dir():
            if path.suffix in PICKLES and path.exists():
                raise _pickle(path)
            return cls(*read_safetensors_header(path))
        tensors, metadata = _read_folder(path)
        return cls(tensors | _read_nested(path), metadata)

    def raw(self, name: str) -> npt.NDArray[Any]:
        """Read a tensor in its own type and shape, bf16 as its bits in uint16.

        BOOL and the 8-bit floats are uint8. KeyError if there is no tensor of that name.

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
        """
        tensor = self.tensors[name]
        return self.raw_rows(name, 0, tensor.rows).reshape(tensor.shape)

    def raw_rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows `start` to `stop` in their own type: (stop - start, columns).

        Rows are counted over all dimensions but the last; a scalar is one row of one column.

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
            IndexError: there are no such rows.
        """
        tensor = self.tensors[name]
        if not 0 <= start <= stop <= tensor.rows:
            raise IndexError(f"rows {start} to {stop} of {tensor.rows} of tensor {name}")
        values = np.empty((stop - start, tensor.columns), dtype=NUMPY_DTYPES[tensor.dtype])
        offset = tensor.offset + start * tensor.columns * values.itemsize
        descriptor = open_regular(tensor.path)
        try:
            read_into(descriptor, values, offset, tensor.path)
        finally:
            os.close(descriptor)
        return values

    def load(self, name: str) -> npt.NDArray[np.float32]:
        """Read a tensor as float32 in its shape; exact for F16 and BF16, rounded for the wider.

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
            UnsupportedError: the tensor's type is an 8-bit float or complex.
        """
        tensor = self.tensors[name]
        return self.load_rows(name, 0, tensor.rows).reshape(tensor.shape)

    def load_rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Read the rows `start` to `stop` as float32 (stop - start, columns); see `raw_rows`."""
        tensor = self.tensors[name]
        if tensor.dtype in BITS_ONLY:
            raise UnsupportedError(
                f"{tensor.path}: the tensor {name!r} is of type {tensor.dtype}, which cannot be "
                "read as float32 here"
            )
        values = self.raw_rows(name, start, stop)
        if tensor.dtype == "BF16":
            wide = values.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return values.astype(np.float32, copy=False)


def _read_folder(path: Path) -> tuple[dict[str, SafetensorInfo], dict[str, str]]:
    """Read the one file of a folder, or its shards."""
    if (path / SINGLE).exists():
        return read_safetensors_header(inside(path, SINGLE))
    if (path / INDEX).exists():
        return _read_shards(path)
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return read_safetensors_header(inside(path, files[0].name))
    if files:
        raise SourceNotFoundError(
            f"{path}: {len(files)} safetensors files, but no {INDEX} that says what is where"
        )
    pickles = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise SourceNotFoundError(f"{path}: there is no {SINGLE} and no {INDEX} in this folder")


def _read_shards(folder: Path) -> tuple[dict[str, SafetensorInfo], dict[str, str]]:
    """Read every shard that the index names; index and shards must tell the same."""
    index = inside(folder, INDEX)
    weight_map = read_index(index)
    tensors: dict[str, SafetensorInfo] = {}
    metadata: dict[str, str] = {}
    for file in sorted(set(weight_map.values())):
        shard = inside(folder, file)
        found, notes = read_safetensors_header(shard)
        metadata |= notes
        for name, tensor in found.items():
            if weight_map.get(name) != file:
                raise CorruptFileError(shard, f"the index does not place tensor {name!r} here")
            tensors[name] = tensor
    missing = weight_map.keys() - tensors.keys()
    if missing:
        name = min(missing)
        raise CorruptFileError(
            folder / weight_map[name], f"there is no tensor {name!r}, which the index places here"
        )
    return tensors, metadata


def _read_nested(folder: Path) -> dict[str, SafetensorInfo]:
    """Read the headers of sentence-transformers' dense layers; names begin with their folders'."""
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(folder.glob(NESTED))
        for name, tensor in read_safetensors_header(
            inside(folder, f"{file.parent.name}/{file.name}")
        )[0].items()
    }


def inside(folder: Path, name: str) -> Path:
    """Give the path of a folder's file, unless a symbolic link leads out of the folder.

    The Hugging Face cache is the one exception: `snapshots/<commit>/<file>` are links into the
    `blobs` beside `snapshots`.
    """
    path = folder / name
    home, target = folder.resolve(), path.resolve()
    blobs = home.parent.parent / "blobs"
    cached = home.parent.name == "snapshots" and target.parent == blobs
    if not cached and not target.is_relative_to(home):
        raise CorruptFileError(path, "a symbolic link that leads out of its folder")
    return path


def _pickle(path: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: pickled weights are never loaded, because loading them runs code",
        hint="save the model as safetensors: model.save_pretrained(FOLDER)",
    )
