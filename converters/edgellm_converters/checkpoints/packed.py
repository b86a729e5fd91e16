"""Weights that GPTQ and AWQ tools packed into 32-bit words, decoded to float32.

Both store, for a matrix of `out` rows and `in` columns, codes `q` transposed, and for each group of
columns a zero point and a scale (float16 in most): the value is (q - zero) * scale, exact in
float32. See GPTQ (Frantar et al. 2022) with the files of AutoGPTQ and GPTQModel, and AWQ (Lin et
al. 2023) with those of AutoAWQ's "gemm" kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm_converters.checkpoints.safetensors import SafetensorInfo, SafetensorsCheckpoint
from edgellm_converters.errors import CorruptFileError, UnsupportedError

__all__ = ["AWQWeight", "GPTQWeight", "Pieces"]

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]

# Where AWQ puts the columns 0 to 7 of a word: the first four bits hold column 0, the next column 2.
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The tensors that a packed matrix is made of; `groups` gives each column's group."""

    codes: SafetensorInfo
    zeros: SafetensorInfo
    scales: SafetensorInfo
    groups: SafetensorInfo | None = None


class _Packed:
    """What the two layouts share: groups, zero points and scales of (groups, out)."""

    def __init__(
        self,
        checkpoint: SafetensorsCheckpoint,
        pieces: Pieces,
        bits: int,
        group_size: int,
        shape: tuple[int, int],
    ) -> None:
        self._checkpoint = checkpoint
        self._pieces = pieces
        self._bits = bits
        self._group_size = group_size if group_size > 0 else shape[1]
        self.shape = shape
        self.published = pieces.scales.dtype
        rows, columns = shape
        n_groups = -(-columns // self._group_size)
        if pieces.scales.dtype not in ("F16", "BF16", "F32"):
            raise _wrong(pieces.scales, f"of type {pieces.scales.dtype}, no float")
        _expect(pieces.scales, (n_groups, rows))
        _expect(pieces.zeros, (n_groups, -(-rows * bits // 32)))
        for piece in (pieces.codes, pieces.zeros):
            if piece.dtype not in ("I32", "U32"):
                raise _wrong(piece, f"of type {piece.dtype}, not I32")
        if pieces.groups is not None:
            _expect(pieces.groups, (columns,))
            if pieces.groups.dtype not in ("I32", "I64"):
                raise _wrong(pieces.groups, f"of type {pieces.groups.dtype}, not I32 or I64")
        self._n_groups = n_groups
        self._parts: tuple[Words, Floats, Floats, npt.NDArray[Any]] | None = None

    def rows(self, start: int, stop: int) -> Floats:
        """Give rows: float32 (stop - start, columns)."""
        # The codes lie transposed, so that rows need all of them: a fraction of the decoded size.
        if self._parts is None:
            self._parts = self._load()
        words, zeros, scales, groups = self._parts
        codes = self._unpack(words, start, stop)  # (columns, n)
        span = slice(start, stop)
        values = codes.astype(np.float32)
        values -= zeros[groups, span]
        values *= scales[groups, span]
        if stop == self.shape[0]:
            self._parts = None
        return np.ascontiguousarray(values.T)

    def _load(self) -> tuple[Words, Floats, Floats, npt.NDArray[Any]]:
        pieces, load = self._pieces, self._checkpoint
        if pieces.groups is None:
            groups = np.arange(self.shape[1]) // self._group_size
        else:
            groups = load.raw(pieces.groups.name)
            if groups.min() < 0 or groups.max() >= self._n_groups:
                raise CorruptFileError(
                    pieces.groups.path,
                    f"the tensor {pieces.groups.name!r} names a group beyond {self._n_groups - 1}",
                )
        words = load.raw(pieces.codes.name).view(np.uint32)
        return words, self._zeros(), load.load(pieces.scales.name), groups

    def _zeros(self) -> Floats:
        """Give the zero points: float32 (groups, out)."""
        raise NotImplementedError

    def _unpack(self, words: Words, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Give the codes of some rows of the matrix: (columns, stop - start)."""
        raise NotImplementedError


class GPTQWeight(_Packed):
    """A matrix of GPTQ: codes of 2, 4 or 8 bits, columns packed in order, lowest bits first.

    Files of the first version hold each zero point less one; `second_version` says that they do
    not. In the first, all bits set can mean 0 or 2^bits, which readers take differently.
    """

    def __init__(
        self,
        checkpoint: SafetensorsCheckpoint,
        pieces: Pieces,
        bits: int,
        group_size: int,
        *,
        second_version: bool,
    ) -> None:
        words, rows = _matrix(pieces.codes)
        super().__init__(checkpoint, pieces, bits, group_size, (rows, words * 32 // bits))
        self._second_version = second_version

    def _zeros(self) -> Floats:
        words = self._checkpoint.raw(self._pieces.zeros.name).view(np.uint32)
        fields = _fields(words, self._bits)  # (groups, words, fields of a word)
        zeros = fields.reshape(len(words), -1).astype(np.float32)
        if self._second_version:
            return zeros
        most = (1 << self._bits) - 1
        if (zeros == most).any():
            raise UnsupportedError(
                f"{self._pieces.zeros.path}: {self._pieces.zeros.name!r} holds the zero point "
                f"{most}, which means 0 to some readers of this version and {most + 1} to others",
                hint="convert from the original weights, or write the checkpoint again as gptq_v2",
            )
        return zeros + 1

    def _unpack(self, words: Words, start: int, stop: int) -> npt.NDArray[np.uint8]:
        fields = _fields(words[:, start:stop], self._bits)  # (words, n, fields of a word)
        return fields.swapaxes(1, 2).reshape(self.shape[1], stop - start)


class AWQWeight(_Packed):
    """A matrix of AWQ's gemm layout: 4 bits, eight rows of the matrix in a word, interleaved."""

    def __init__(self, checkpoint: SafetensorsCheckpoint, pieces: Pieces, group_size: int) -> None:
        columns, words = _matrix(pieces.codes)
        super().__init__(checkpoint, pieces, 4, group_size, (words * 8, columns))

    def _zeros(self) -> Floats:
        words = self._checkpoint.raw(self._pieces.zeros.name).view(np.uint32)
        return self._ordered(words).astype(np.float32)

    def _unpack(self, words: Words, start: int, stop: int) -> npt.NDArray[np.uint8]:
        first, last = start // 8, -(-stop // 8)
        return self._ordered(words[:, first:last])[:, start - 8 * first : stop - 8 * first]

    @staticmethod
    def _ordered(words: Words) -> npt.NDArray[np.uint8]:
        """Unpack words (n, m) into codes (n, 8 m) in the order of the matrix's rows."""
        return _fields(words, 4)[..., AWQ_ORDER].reshape(len(words), -1)


def _fields(words: Words, bits: int) -> npt.NDArray[np.uint8]:
    """Cut each word into its fields, the lowest bits first: (..., 32 / bits)."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    fields: npt.NDArray[np.uint8] = (words[..., None] >> shifts).astype(np.uint8)
    fields &= (1 << bits) - 1
    return fields


def _matrix(piece: SafetensorInfo) -> tuple[int, int]:
    if len(piece.shape) != 2 or 0 in piece.shape:
        raise _wrong(piece, f"of the shape {list(piece.shape)}, no matrix")
    return piece.shape[0], piece.shape[1]


def _expect(piece: SafetensorInfo, shape: tuple[int, ...]) -> None:
    if piece.shape != shape:
        raise _wrong(piece, f"of the shape {list(piece.shape)}, not {list(shape)}")


def _wrong(piece: SafetensorInfo, what: str) -> UnsupportedError:
    return UnsupportedError(f"{piece.path}: the tensor {piece.name!r} is {what}")
