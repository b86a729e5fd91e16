"""llama.cpp's imatrix files: the mean squares of what each weight meets.

Two forms (tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp):

- GGUF: tensors NAME.in_sum2, the sums of x_j^2, float32 (matrices, columns), and NAME.counts, how
  many vectors were summed for each matrix of the stack, float32 (matrices, 1); metadata
  `imatrix.datasets`, `imatrix.chunk_count` and `imatrix.chunk_size`.
- the older one (.dat), little-endian: the number of entries, int32; for each the bytes of its name
  (int32) and the name, the chunks that it was computed over (int32, called calls), the number of
  values (int32) and as many float32, each the mean square times the calls; then the chunks in all
  and a text that names the data set, both optional.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from edgellm_converters.checkpoints.gguf import GGUFCheckpoint, StoredType, ValueType
from edgellm_converters.checkpoints.gguf_header import open_regular
from edgellm_converters.errors import CorruptFileError, UnsupportedError
from edgellm_converters.writers.atomic import atomic_file, check_target
from edgellm_converters.writers.gguf import ARCHITECTURE, TensorSpec, gguf_file, pack
from edgellm_quant.formats import FORMATS
from edgellm_quant.statistics import TensorStatistics

__all__ = ["Entry", "Imatrix", "imatrix_of", "read_imatrix", "write_imatrix"]

Floats = NDArray[np.float32]

KIND = "general.type"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = (
    f"imatrix.{name}" for name in ("datasets", "chunk_count", "chunk_size")
)
SUMS, COUNTS = ".in_sum2", ".counts"

MAX_ENTRIES = 1 << 16
MAX_NAME_BYTES = 63 - len(SUMS)  # what the GGUF form leaves of GGML_MAX_NAME
MAX_DATASET_BYTES = 1 << 16
MAX_MATRICES = 1 << 16
MAX_COUNT = 2**53  # of vectors: whole numbers in float64; more than any text has
INT32 = struct.Struct("<i")
LARGEST_INT32 = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """The importance of one tensor.

    Attributes:
        values: float32 (matrices, columns), the means of x_j^2. One matrix, but for experts; a file
            of the older form does not tell them apart and has all in one row.
        counts: int64 (matrices,), vectors (in the older form: chunks) that each is the mean of.
    """

    values: Floats
    counts: NDArray[np.int64]

    def of_shape(self, matrices: int, columns: int) -> Floats | None:
        """Give the values for a stack of so many matrices: float32 (matrices, columns).

        None where they are of another shape. A matrix alone stands for all of a stack.
        """
        if self.values.size == matrices * columns:
            return self.values.reshape(matrices, columns)
        if self.values.shape == (1, columns):
            return np.repeat(self.values, matrices, axis=0)
        return None


@dataclass(frozen=True, slots=True)
class Imatrix:
    """What such a file holds.

    Attributes:
        entries: by the names of tensors.
        datasets: what the texts were called.
        chunk_count: chunks of text.
        chunk_size: tokens in each; 0 in the older form.
    """

    entries: Mapping[str, Entry]
    datasets: Sequence[str] = field(default_factory=tuple)
    chunk_count: int = 0
    chunk_size: int = 0


def imatrix_of(
    statistics: Mapping[str, TensorStatistics],
    matrices: Mapping[str, int],
    *,
    datasets: Sequence[str] = (),
    chunk_count: int = 0,
    chunk_size: int = 0,
) -> Imatrix:
    """Put the importance of statistics into the form of an imatrix.

    Args:
        statistics: by the names of tensors.
        matrices: how many matrices a stack has, by the same names; 1 for those that are left out.
            Where a matrix has several groups of rows (heads of values), the mean over its rows
            stands for them, because the form has one row for each matrix.
        datasets: what the texts are called.
        chunk_count: chunks of text.
        chunk_size: tokens in each.
    """
    entries = {}
    for name, each in statistics.items():
        count = matrices.get(name, 1)
        values, tokens = [], []
        rows = each.rows // count
        for start in range(0, each.rows, rows):
            parts = each.of_rows(start, start + rows)
            total = sum(
                (np.float64(stop - begin) * group.importance for begin, stop, group in parts),
                np.zeros(each.columns),
            )
            values.append((total / rows).astype(np.float32))
            tokens.append(max(group.tokens for _, _, group in parts))
        entries[name] = Entry(np.stack(values), np.array(tokens, np.int64))
    return Imatrix(entries, tuple(datasets), chunk_count, chunk_size)


def read_imatrix(path: Path) -> Imatrix:
    """Read either form.

    A matrix that no vector came to (an expert, say) has the value 1 everywhere, as llama-quantize
    takes it.

    Raises:
        SourceNotFoundError: there is no such file.
        CorruptFileError: it breaks the form's rules, or holds values that are no sums of squares.
        UnsupportedError: it is a GGUF file of something else.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        legacy = file.read(4) != b"GGUF"
        file.seek(0)
        if legacy:
            return _Legacy(path, file).read()
    return _read_gguf(path)


def _read_gguf(path: Path) -> Imatrix:
    with GGUFCheckpoint(path) as checkpoint:
        names = [name.removesuffix(SUMS) for name in checkpoint.names if name.endswith(SUMS)]
        if not names:
            raise UnsupportedError(
                f"{path}: this GGUF file holds no tensor NAME{SUMS}: it is no imatrix",
                hint="llama-imatrix makes one from a model and a text",
            )
        others = [
            name for name in checkpoint.names if not name.endswith(SUMS) and name[-7:] != COUNTS
        ]
        if others or 2 * len(names) != len(checkpoint.names):
            what = others[0] if others else "a sum or a count without the other"
            raise CorruptFileError(path, f"an imatrix with more than sums and counts: {what}")
        entries = {name: _entry(checkpoint, name) for name in names}
        metadata = checkpoint.header.metadata
        datasets = metadata.get(DATASETS, [])
        if not isinstance(datasets, list) or not all(isinstance(each, str) for each in datasets):
            raise CorruptFileError(path, f"{DATASETS} is no list of texts")
        numbers = [metadata.get(key, 0) for key in (CHUNK_COUNT, CHUNK_SIZE)]
        for key, number in zip((CHUNK_COUNT, CHUNK_SIZE), numbers, strict=True):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise CorruptFileError(path, f"{key} is {number!r}, not a number of them")
        count, size = cast("list[int]", numbers)
        return Imatrix(entries, tuple(cast("list[str]", datasets)), count, size)


def _entry(checkpoint: GGUFCheckpoint, name: str) -> Entry:
    path = checkpoint.path
    if name + COUNTS not in checkpoint.names:
        raise CorruptFileError(path, f"{name}{SUMS} has no {name}{COUNTS} beside it")
    sums, counts = (checkpoint.info(name + kind) for kind in (SUMS, COUNTS))
    if sums.format.name != "F32" or counts.format.name != "F32":
        raise CorruptFileError(path, f"the values of {name!r} are not float32")
    matrices = counts.rows * counts.columns
    if matrices > MAX_MATRICES or sums.rows % matrices:
        raise CorruptFileError(path, f"{name!r} has {matrices} counts for {sums.rows} rows")
    # The columns of a matrix may be spread over more than one row of the file.
    of = checkpoint.load(sums.name).reshape(matrices, -1)
    exact = checkpoint.load(counts.name).reshape(-1).astype(np.float64)
    if not ((exact >= 0) & (exact <= MAX_COUNT)).all():
        raise CorruptFileError(path, f"a count of {name!r} is no number of vectors")
    _check_squares(path, name, of)
    number = np.rint(exact).astype(np.int64)
    values = np.ones_like(of)
    with np.errstate(over="ignore"):  # of a count below one half, rounded
        np.divide(of, number[:, None].astype(np.float32), out=values, where=number[:, None] > 0)
    return Entry(values, number)


def _check_squares(path: Path, name: str, values: Floats) -> None:
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise CorruptFileError(path, f"a sum of squares of {name!r} is negative or not finite")


class _Legacy:
    """Reads the older form from front to back."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def read(self) -> Imatrix:
        entries: dict[str, Entry] = {}
        for _ in range(self._number("entries", 1, MAX_ENTRIES)):
            size = self._number("bytes of a name", 1, MAX_NAME_BYTES)
            try:
                name = self._take(size, "a name").decode()
            except UnicodeDecodeError:
                raise self._corrupt("a name is not UTF-8") from None
            if name in entries or "\0" in name:
                raise self._corrupt(f"the name {name!r} stands twice or holds a NUL")
            calls = self._number(f"chunks of {name!r}", 0, LARGEST_INT32)
            count = self._number(f"values of {name!r}", 1, self._left // 4)
            values = np.frombuffer(self._take(4 * count, name), "<f4").astype(np.float32)
            _check_squares(self._path, name, values)
            if calls:
                values /= np.float32(calls)
            entries[name] = Entry(values[None], np.array([calls], np.int64))
        chunks = self._number("chunks", 0, LARGEST_INT32) if self._left else 0
        datasets: tuple[str, ...] = ()
        if self._left:
            size = self._number("bytes of the data set's name", 0, MAX_DATASET_BYTES)
            if size:
                datasets = (self._take(size, "the data set").decode("utf-8", "replace"),)
        if self._left:
            raise self._corrupt(f"{self._left} bytes follow the end")
        return Imatrix(entries, datasets, chunks)

    def _number(self, what: str, least: int, most: int) -> int:
        (number,) = INT32.unpack(self._take(4, f"the number of {what}"))
        if not least <= number <= most:
            raise self._corrupt(f"{number} {what}, which is not from {least} to {most}")
        return int(number)

    def _take(self, size: int, what: str) -> bytes:
        data = self._file.read(size) if size <= self._left else b""
        if len(data) != size:
            raise self._corrupt(f"it ends within {what}")
        self._left -= size
        return data

    def _corrupt(self, reason: str) -> CorruptFileError:
        hint = "an imatrix is a GGUF file, or the older form of llama-imatrix"
        return CorruptFileError(self._path, reason, offset=self._file.tell(), hint=hint)


def write_imatrix(
    path: Path, imatrix: Imatrix, *, legacy: bool = False, force: bool = False
) -> None:
    """Write a file that llama-quantize reads; whole or not at all.

    Args:
        path: the file.
        imatrix: at least one entry.
        legacy: write the older form. It holds one number of chunks for a tensor.
        force: replace a file that is there.

    Raises:
        OutputError: the file is there, or cannot be written.
        UnsupportedError: nothing to write, or a name too long for the form.
    """
    if not imatrix.entries:
        raise UnsupportedError(f"{path}: an imatrix without entries")
    for name in imatrix.entries:
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise UnsupportedError(f"{path}: the tensor name {name!r} is too long for an imatrix")
    check_target(path, folder=False, force=force)
    with atomic_file(path, force=force) as temporary:
        if legacy:
            _write_legacy(temporary, imatrix)
        else:
            _write_gguf(temporary, imatrix)


def _write_gguf(path: Path, imatrix: Imatrix) -> None:
    text, whole = StoredType(ValueType.STRING, None), StoredType(ValueType.UINT32, None)
    entries = {
        ARCHITECTURE: pack(text, "imatrix"),
        KIND: pack(text, "imatrix"),
        DATASETS: pack(StoredType(ValueType.ARRAY, ValueType.STRING), list(imatrix.datasets)),
        CHUNK_COUNT: pack(whole, imatrix.chunk_count),
        CHUNK_SIZE: pack(whole, imatrix.chunk_size),
    }
    tensors = []
    for name in sorted(imatrix.entries):
        shape = imatrix.entries[name].values.shape
        tensors += [
            TensorSpec(name + SUMS, shape, FORMATS["F32"]),
            TensorSpec(name + COUNTS, (shape[0], 1), FORMATS["F32"]),
        ]
    with gguf_file(path, entries, tensors) as file:
        for name in sorted(imatrix.entries):
            entry = imatrix.entries[name]
            counts = entry.counts.astype(np.float32)[:, None]
            for values in (entry.values * counts, counts):
                file.begin()
                file.write(np.ascontiguousarray(values, "<f4"))
        file.finish()


def _write_legacy(path: Path, imatrix: Imatrix) -> None:
    size = max(1, imatrix.chunk_size)
    with path.open("wb") as file:
        file.write(INT32.pack(len(imatrix.entries)))
        for name in sorted(imatrix.entries):
            entry = imatrix.entries[name]
            # Rounded up, so that a tensor that was seen at all has one.
            calls = min(LARGEST_INT32, -(-int(entry.counts.max()) // size))
            values = np.ascontiguousarray(entry.values * np.float32(max(1, calls)), "<f4")
            raw = name.encode()
            file.write(INT32.pack(len(raw)) + raw + INT32.pack(max(1, calls)))
            file.write(INT32.pack(values.size) + values.tobytes())
        named = "; ".join(imatrix.datasets).encode()[:MAX_DATASET_BYTES]
        file.write(INT32.pack(imatrix.chunk_count) + INT32.pack(len(named)) + named)
