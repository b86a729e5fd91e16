"""Writing GGUF in parts of a given size, in the layout of `checkpoints/gguf_split.py`.

A file that fits into one part stays whole and has no split.* keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgellm_converters.checkpoints.gguf_split import (
    ARCHITECTURE,
    MAX_PARTS,
    SPLIT_COUNT,
    SPLIT_NUMBER,
    SPLIT_TENSORS,
    TYPES,
    part_path,
)
from edgellm_converters.checkpoints.gguf_values import StoredType
from edgellm_converters.errors import OutputError
from edgellm_converters.writers.gguf import (
    Entries,
    OpenGGUF,
    Packed,
    TensorSpec,
    file_bytes,
    gguf_file,
    header_bytes,
    info_bytes,
    pack,
    padded,
)

__all__ = ["OpenParts", "Part", "gguf_parts", "plan_parts"]

# What the later parts repeat of the metadata: what every GGUF file must have, and its name.
REPEATED = (ARCHITECTURE, "general.name", "general.alignment")


@dataclass(frozen=True, slots=True)
class Part:
    """One file: its final path, its metadata and its tensors."""

    path: Path
    entries: Mapping[str, Packed]
    tensors: Sequence[TensorSpec]


def plan_parts(
    target: Path,
    entries: Mapping[str, Packed],
    tensors: Sequence[TensorSpec],
    alignment: int,
    most: int | None = None,
) -> list[Part]:
    """Cut a file into parts of at most `most` bytes each, headers counted; None for a whole file.

    Tensors stay in their order and are never cut. The first part holds the metadata, and no tensor
    if there is no room left.

    Raises:
        OutputError: the metadata or a tensor alone is larger, or there would be too many parts.
    """
    if most is None or file_bytes(entries, tensors, alignment) <= most:
        return [Part(target, dict(entries), tensors)]
    number = len(tensors)
    repeated = {key: entries[key] for key in REPEATED if key in entries}
    # The numbers take the same bytes whatever they are.
    whole, later = (_numbered(keys, 0, 0, number) for keys in (entries, repeated))
    if (size := file_bytes(whole, (), alignment)) > most:
        raise _too_small(target, "the metadata take", size, most)
    shares: list[list[TensorSpec]] = [[]]
    head, data = header_bytes(whole), 0
    for tensor in tensors:
        more, room = info_bytes(tensor), padded(tensor.nbytes, alignment)
        if padded(head + more, alignment) + data + room > most:
            if (size := file_bytes(later, (tensor,), alignment)) > most:
                what = f"a part with the tensor {tensor.name} alone takes"
                raise _too_small(target, what, size, most)
            shares.append([])
            head, data = header_bytes(later), 0
        shares[-1].append(tensor)
        head, data = head + more, data + room
    if (count := len(shares)) > MAX_PARTS:
        raise OutputError(
            f"{target}: {count} parts of at most {most} bytes, more than {MAX_PARTS}",
            hint="choose a larger size for the parts",
        )
    return [
        Part(
            part_path(target, part, count),
            _numbered(repeated if part else entries, part, count, number),
            share,
        )
        for part, share in enumerate(shares)
    ]


def _too_small(target: Path, what: str, size: int, most: int) -> OutputError:
    return OutputError(
        f"{target}: {what} {size} bytes, more than the {most} of a part",
        hint="choose a larger size for the parts",
    )


def _numbered(entries: Mapping[str, Packed], part: int, count: int, tensors: int) -> Entries:
    """Add the keys that say which part of how many a file is."""
    numbers = {SPLIT_NUMBER: part, SPLIT_COUNT: count, SPLIT_TENSORS: tensors}
    return dict(entries) | {
        key: pack(StoredType(TYPES[key]), value) for key, value in numbers.items()
    }


class OpenParts:
    """The parts of a model, written one after the other; takes their tensors in order."""

    def __init__(self, parts: Sequence[Part], paths: Sequence[Path], alignment: int) -> None:
        self._left = list(zip(paths, parts, strict=True))
        self._alignment = alignment
        self._stack = ExitStack()
        self._open: OpenGGUF | None = None
        self._due = 0
        self._finished: list[tuple[str, int]] = []

    def begin(self) -> TensorSpec:
        """Go to the next tensor, after the one before got all of its bytes."""
        while self._open is None or not self._due:
            self._next()
            assert self._open is not None
        self._due -= 1
        return self._open.begin()

    def write(self, data: npt.NDArray[Any]) -> None:
        """Write some rows of the tensor; the array must not be changed afterwards."""
        if self._open is None:
            raise ValueError("no tensor was begun")
        self._open.write(data)

    def finish(self) -> list[tuple[str, int]]:
        """Give sha256 and bytes of every part."""
        while self._left:
            self._next()
        self._close_part()
        return self._finished

    def close(self) -> None:
        """Close what is open, also after an error."""
        self._stack.close()

    def _next(self) -> None:
        self._close_part()
        path, part = self._left.pop(0)
        # The vocabulary of the first part is not kept: it has been written then.
        file = gguf_file(path, part.entries, part.tensors, self._alignment)
        self._open = self._stack.enter_context(file)
        self._due = len(part.tensors)

    def _close_part(self) -> None:
        if self._open is not None:
            self._finished.append(self._open.finish())
            self._open = None
        self._stack.close()


@contextmanager
def gguf_parts(
    parts: Sequence[Part], paths: Sequence[Path], alignment: int = 32
) -> Iterator[OpenParts]:
    """Open the parts for writing, each at its place in `paths`."""
    writer = OpenParts(parts, paths, alignment)
    try:
        yield writer
    finally:
        writer.close()
