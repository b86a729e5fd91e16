"""Nearest vectors by their signs, scored exactly: an index beside the library, made from it.

The mean of the vectors is subtracted before their signs are taken: embedders whose vectors all lie
in one direction give signs that differ little otherwise. Chunks whose signs differ least from the
question's are scored with their stored vectors, so that scores are exact, and only which chunks are
scored is an approximation.

The file (`LIBRARY.bits`) holds a header, the mean, and for each chunk its id, its source and one
bit a dimension, the bits of 64 dimensions after those of the 64 before. Chunk ids are never used
again, and a chunk's vector never changes: so the index of another state of the library differs by
ids that are gone and by newer ones.
"""

from __future__ import annotations

import glob
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.rag.store import Library

__all__ = ["Index", "compare", "index_path", "open_index", "read_index"]

MAGIC = b"EDGEBITS"
VERSION = 1
# magic, version, dimension, chunks, chunks when the mean was taken, generation, library, padding
HEADER = struct.Struct("<8sIIQQQ16s8x")
BLOCK = 1 << 14  # chunks that are compared at a time
ROWS = 4096  # vectors that are read from the library at a time
RESCORED = 200  # chunks that are scored exactly, at least
ABANDONED_S = 3600  # what a writer of a file takes at most; a killed one's is removed then
FEW = 2000  # chunks: of so many or fewer all are scored exactly
PROBED = 256  # rows of an older index that are compared before the rest is believed
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """The signs of a library's vectors at one generation.

    Attributes:
        mean: (dimension,), taken when there were `mean_count` chunks.
        ids: (chunks,) ids of chunks, ascending.
        sources: (chunks,) the ids of their sources.
        bits: (words, chunks) uint64, a bit for each dimension.
    """

    generation: int
    library: bytes
    mean: Floats
    mean_count: int
    ids: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]

    def nearest(
        self, query: Floats, count: int, allowed: Mask | None = None
    ) -> npt.NDArray[np.intp]:
        """Give the rows of about `count` chunks whose signs differ least from the query's.

        Args:
            query: (dimension,), not centred.
            count: chunks; others that differ as little as the last may be among them or not.
            allowed: indexed by source id: whose chunks are looked at.
        """
        signs = _signs((query - self.mean)[None])[:, 0]
        rows = np.empty(0, np.intp)
        distances = np.empty(0, np.uint16)
        bound = len(self.mean) + 1
        for start in range(0, len(self.ids), BLOCK):
            stop = start + BLOCK
            far = np.zeros(len(self.ids[start:stop]), np.uint16)
            for word, plane in zip(signs, self.bits, strict=True):
                far += np.bitwise_count(plane[start:stop] ^ word)
            near = far < bound
            if allowed is not None:
                near &= allowed[self.sources[start:stop]]
            some = np.flatnonzero(near)
            rows = np.concatenate([rows, some + start])
            distances = np.concatenate([distances, far[some]])
            if len(rows) > count:
                kept = np.argpartition(distances, count - 1)[:count]
                rows, distances = rows[kept], distances[kept]
                bound = int(distances.max())
        return np.sort(rows)

    def search(
        self,
        library: Library,
        query: Floats,
        count: int,
        *,
        allowed: Mask | None = None,
        per_source: int | None = None,
    ) -> list[tuple[int, float]]:
        """Give the nearest chunks with their cosines, best first.

        Args:
            library: the library, in the state of this index.
            query: (dimension,), of length 1.
            count: chunks, at most.
            allowed: indexed by source id: whose chunks may be found.
            per_source: chunks of one source, at most.
        """
        found: list[tuple[int, float]] = []
        taken: dict[int, int] = {}
        while len(found) < count:
            there = len(self.ids)
            if allowed is not None:
                there = int(np.count_nonzero(allowed[self.sources]))
            scored = max(RESCORED, 4 * count)
            rows = self.nearest(query, there if there <= FEW else scored, allowed)
            if not len(rows):
                break
            by_id = dict(zip(self.ids[rows].tolist(), self.sources[rows].tolist(), strict=True))
            vectors = library.vectors(by_id)
            ids = list(vectors)
            scores = np.stack(list(vectors.values())) @ query if ids else np.empty(0, np.float32)
            have = {chunk for chunk, _ in found}
            full = set()
            for at in np.argsort(-scores, kind="stable").tolist():
                source = by_id[ids[at]]
                if ids[at] in have or len(found) == count:
                    continue
                if per_source is not None and taken.get(source, 0) >= per_source:
                    full.add(source)
                    continue
                taken[source] = taken.get(source, 0) + 1
                found.append((ids[at], float(scores[at])))
            # Sources that have given all they may make room for others, until there are enough.
            if not full or len(found) == count:
                break
            if allowed is None:
                allowed = np.ones(int(self.sources.max()) + 1, bool)
            allowed = allowed.copy()
            allowed[[source for source, number in taken.items() if number == per_source]] = False
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))

    def bytes(self) -> Iterator[bytes | memoryview]:
        """Give what its file holds, piece by piece."""
        yield HEADER.pack(
            MAGIC,
            VERSION,
            len(self.mean),
            len(self.ids),
            self.mean_count,
            self.generation,
            self.library,
        )
        padding = np.zeros(len(self.mean) % 2, np.float32)  # what follows has 8 bytes each
        for array in (self.mean, padding, self.ids, self.sources, *self.bits):
            for start in range(0, len(array), BLOCK):
                yield np.ascontiguousarray(array[start : start + BLOCK]).data


def index_path(library: Path) -> Path:
    """Name the file of a library's index."""
    return library.with_name(library.name + ".bits")


def open_index(library: Library, progress: Callable[[int, int], None] | None = None) -> Index:
    """Give the index of the library's present state; its file is brought up to it.

    Where the file cannot be written (a read-only folder), the index is made for this process alone.

    Args:
        library: read in one transaction (`Library.reading`).
        progress: called with vectors read and vectors in all.
    """
    kept = library.index if isinstance(library.index, Index) else read_index(library)
    if kept is not None and kept.generation == library.generation:
        library.index = kept
        return kept
    library.index = None
    index = _updated(library, kept, progress or (lambda _done, _total: None))
    with suppress(OSError):
        _write(index, index_path(library.path))
    library.index = index
    return index


def read_index(library: Library) -> Index | None:
    """Read the library's index; None if there is none, or it is another's or damaged."""
    facts = library.embedder
    if facts is None or not facts.dimension:
        return None
    dimension = facts.dimension
    try:
        with index_path(library.path).open("rb") as file:
            raw = file.read(HEADER.size)
            size = os.fstat(file.fileno()).st_size
            if len(raw) != HEADER.size:
                return None
            magic, version, width, count, mean_count, generation, key = HEADER.unpack(raw)
            words = -(-dimension // 64)
            length = HEADER.size + 8 * -(-dimension // 2) + count * (16 + 8 * words)
            known = (magic, version, width, key, size)
            if known != (MAGIC, VERSION, dimension, library.key, length):
                return None
            # Read and not mapped: a file that is cut short meanwhile would end the process.
            data = np.fromfile(file, np.uint8)
    except (OSError, ValueError):
        return None
    if len(data) != length - HEADER.size:
        return None
    at = 0
    mean = np.array(data[at : at + 4 * dimension].view(np.float32))
    at += 8 * -(-dimension // 2)
    ids = data[at : at + 8 * count].view(np.int64)
    sources = data[at + 8 * count : at + 16 * count].view(np.int64)
    bits = data[at + 16 * count :].view(np.uint64).reshape(words, count)
    if not np.isfinite(mean).all():
        return None
    return Index(generation, key, mean, mean_count, ids, sources, bits)


def _updated(library: Library, kept: Index | None, progress: Callable[[int, int], None]) -> Index:
    """Take over the signs of chunks that are still there, and read the vectors of newer ones."""
    # The covering index of chunks: vectors are not read for it.
    rows = library.rows("SELECT id, source_id FROM chunk WHERE dense = 1")
    table = np.fromiter((number for row in rows for number in row), np.int64).reshape(-1, 2)
    table = table[np.argsort(table[:, 0], kind="stable")]
    ids, sources = np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
    facts = library.embedder
    dimension = facts.dimension if facts else 0
    words = -(-dimension // 64)
    bits = np.zeros((words, len(ids)), np.uint64)
    last, mean, mean_count = 0, None, 0
    # A mean of half the chunks is good enough; that of fewer is taken again.
    if kept is not None and len(kept.ids) and 2 * kept.mean_count >= len(ids):
        mean, mean_count, last = kept.mean, kept.mean_count, int(kept.ids[-1])
        old = int(np.searchsorted(ids, last, "right"))
        where = np.searchsorted(kept.ids, ids[:old])
        if (kept.ids[where] != ids[:old]).any() or not _fits(library, kept, where[-PROBED:]):
            return _updated(library, None, progress)  # of a copy of the library that went its way
        for plane, before in zip(bits, kept.bits, strict=True):
            plane[:old] = before[where]
    if mean is None:
        mean, mean_count = _mean(library, dimension), len(ids)
    at = int(np.searchsorted(ids, last, "right"))
    for some, vectors in _read(library, last):
        here = slice(at, at + len(some))
        if not np.array_equal(ids[here], some):
            raise library.damaged("chunks and vectors do not belong together")
        bits[:, here] = _signs(vectors - mean)
        at += len(some)
        progress(at, len(ids))
    if at != len(ids):
        raise library.damaged("vectors of chunks are missing")
    return Index(library.generation, library.key, mean, mean_count, ids, sources, bits)


def _fits(library: Library, kept: Index, rows: npt.NDArray[np.intp]) -> bool:
    """Tell whether some rows hold the signs of the library's vectors."""
    vectors = library.vectors(kept.ids[rows].tolist())
    if len(vectors) != len(rows):
        return False
    if not len(rows):
        return True
    signs = _signs(np.stack(list(vectors.values())) - kept.mean)
    return bool(np.array_equal(signs, kept.bits[:, rows]))


def _mean(library: Library, dimension: int) -> Floats:
    total, count = np.zeros(dimension, np.float64), 0
    for some, vectors in _read(library, 0):
        total += vectors.sum(axis=0, dtype=np.float64)
        count += len(some)
    return (total / max(count, 1)).astype(np.float32)


def _read(library: Library, last: int) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Read the vectors of chunks whose ids are larger than `last`, in their order."""
    while True:
        rows = library.execute(
            "SELECT chunk_id, f16 FROM vec WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?",
            (last, ROWS),
        )
        if not rows:
            return
        last = rows[-1][0]
        yield np.array([row[0] for row in rows], np.int64), library.decode([row[1] for row in rows])


def _signs(vectors: Floats) -> npt.NDArray[np.uint64]:
    """Give the signs of (chunks, dimension) numbers as (words, chunks) bits."""
    count, dimension = vectors.shape
    words = -(-dimension // 64)
    packed = np.zeros((count, 8 * words), np.uint8)
    packed[:, : -(-dimension // 8)] = np.packbits(vectors > 0, axis=1)
    return np.ascontiguousarray(packed.view(np.uint64).T)


def _write(index: Index, target: Path) -> None:
    """Write the file beside its place and rename it, so that it is whole or not there."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in index.bytes():
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def compare(library: Library, index: Index) -> str | None:
    """Say what of an index is not what the vectors give; None where all is."""
    at = 0
    for some, vectors in _read(library, 0):
        here = slice(at, at + len(some))
        if not np.array_equal(index.ids[here], some):
            return "the index holds other chunks than the library"
        if not np.array_equal(index.bits[:, here], _signs(vectors - index.mean)):
            return "the signs in the index are not those of the vectors"
        at += len(some)
    return None if at == len(index.ids) else "the index holds chunks that the library has not"
