"""Writing a Hugging Face or MLX folder: safetensors files in slabs, and JSON files beside them.

A safetensors file is a u64 length, a JSON header padded with spaces to 8 bytes, and the data of the
tensors without gaps. A quantized weight of MLX is three of them: codes, scales and biases.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgellm_converters.writers.hashing import HashingFile
from edgellm_quant.formats import Format, MLXFormat
from edgellm_quant.formats.mlx import split_rows

__all__ = ["MAX_SHARD", "FolderSpec", "OpenFolder", "tensor_folder", "write_json"]

MAX_SHARD = 5_000_000_000
"""Bytes of tensors in one file, as transformers and mlx-lm cut them."""

SINGLE = "model.safetensors"
WIDTHS: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a safetensors file holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class FolderSpec:
    """A tensor to be written: F32, F16, BF16, or a format of MLX."""

    name: str
    shape: tuple[int, ...]
    format: Format

    @property
    def parameters(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return sum(part.nbytes for part in self.stored)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """The tensors that it becomes."""
        fmt = self.format
        if not isinstance(fmt, MLXFormat):
            return (Stored(self.name, fmt.name, self.shape),)
        module = self.name.removesuffix(".weight")
        rows, columns = self.shape[:-1], self.shape[-1]
        groups = (*rows, columns // fmt.group_size)
        codes = Stored(self.name, "U32", (*rows, fmt.words(columns)))
        ends = ("scales", "biases") if fmt.has_biases else ("scales",)
        return (codes, *(Stored(f"{module}.{end}", fmt.scale, groups) for end in ends))


class OpenFolder:
    """A folder whose tensor files are written one after the other; takes their data in order."""

    def __init__(
        self,
        folder: Path,
        tensors: Sequence[FolderSpec],
        mark: str,
        max_shard: int,
        single: str,
    ) -> None:
        self.folder = folder
        self._mark = mark
        self._late: list[list[npt.NDArray[Any]]] = [[], []]
        plain = [spec for spec in tensors if "/" not in spec.name]
        self._shards = _shards(plain, max_shard)
        self._names = _names(len(self._shards), single)
        self._plain = len(self._shards)
        # Tensors of folders within come after all others: each folder has a file of its own.
        for name, specs in groupby(tensors[len(plain) :], lambda spec: spec.name.partition("/")[0]):
            self._shards.append([replace(s, name=s.name.removeprefix(f"{name}/")) for s in specs])
            self._names.append(f"{name}/{SINGLE}")
        self._file: HashingFile | None = None
        self._due = 0
        self._digests: dict[str, str] = {}
        self._queue = [
            (number, spec) for number, shard in enumerate(self._shards) for spec in shard
        ]
        self._open = -1

    def begin(self) -> FolderSpec:
        """Go to the next tensor, after the one before got all of its bytes."""
        if self._due:
            raise ValueError(f"{self._due} bytes of the tensor before are missing")
        number, spec = self._queue.pop(0)
        if number != self._open:
            self._close_file()
            path = self.folder / self._names[number]
            path.parent.mkdir(exist_ok=True)
            self._file = HashingFile(path.open("wb"))
            self._file.write(_header(self._shards[number], self._mark))
            self._open = number
        self._due = spec.nbytes
        self._spec = spec
        return spec

    def write(self, data: npt.NDArray[Any]) -> None:
        """Write some rows of the tensor; the array must not be changed afterwards.

        Of MLX's rows the codes are written, and scales and biases kept until the last row.
        """
        if self._file is None or data.nbytes > self._due:
            raise ValueError(f"{data.nbytes} bytes, but {self._due} are due")
        self._due -= data.nbytes
        fmt = self._spec.format
        if not isinstance(fmt, MLXFormat):
            self._file.write_array(data)
            return
        codes, scales, biases = split_rows(data, fmt, self._spec.shape[-1])
        self._file.write_array(codes)
        for kept, part in zip(self._late, (scales, biases), strict=True):
            if part is not None:
                kept.append(part)
        if not self._due:
            for kept in self._late:
                for part in kept:
                    self._file.write_array(part)
                kept.clear()

    def finish(self) -> tuple[str, int]:
        """Write the index if there are several files; give digest and bytes of the folder.

        The digest is the sha256 of the text that `sha256sum` prints in the folder for all files,
        those of its subfolders by their paths, sorted by name.
        """
        if self._due or self._queue:
            raise ValueError("tensors are missing")
        self._close_file()
        if self._plain > 1:
            shards = self._shards[: self._plain]
            total = sum(spec.nbytes for shard in shards for spec in shard)
            places = {
                part.name: self._names[number]
                for number, shard in enumerate(shards)
                for spec in shard
                for part in spec.stored
            }
            index = {"metadata": {"total_size": total}, "weight_map": places}
            write_json(self.folder / "model.safetensors.index.json", index)
        lines, size = [], 0
        files = {
            file.relative_to(self.folder).as_posix(): file
            for file in self.folder.rglob("*")
            if file.is_file()
        }
        for name, file in sorted(files.items()):
            digest = self._digests.get(name)
            if digest is None:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
            lines.append(f"{digest}  {name}\n")
            size += file.stat().st_size
        return hashlib.sha256("".join(lines).encode()).hexdigest(), size

    def close(self) -> None:
        """Close what is open, also after an error."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.flush()
            self._digests[self._names[self._open]] = self._file.sha256()
            self.close()


@contextmanager
def tensor_folder(
    folder: Path,
    tensors: Sequence[FolderSpec],
    mark: str = "pt",
    max_shard: int = MAX_SHARD,
    single: str = SINGLE,
) -> Iterator[OpenFolder]:
    """Open an existing, empty folder for the tensors.

    `mark` is what files say of their origin: "pt" is for transformers, "mlx" for mlx-lm. `single`
    is the name of a file that stays the only one.
    """
    writer = OpenFolder(folder, tensors, mark, max_shard, single)
    try:
        yield writer
    finally:
        writer.close()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file as transformers does: indented, other scripts as they are.

    A subfolder that it is to lie in is made.
    """
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Sequence[FolderSpec], most: int) -> list[list[FolderSpec]]:
    shards: list[list[FolderSpec]] = [[]]
    size = 0
    for spec in tensors:
        if shards[-1] and size + spec.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def _names(count: int, single: str) -> list[str]:
    if count == 1:
        return [single]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _header(tensors: Sequence[FolderSpec], mark: str) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": mark}}
    end = 0
    for part in (part for spec in tensors for part in spec.stored):
        begin, end = end, end + part.nbytes
        header[part.name] = {
            "dtype": part.dtype,
            "shape": list(part.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
