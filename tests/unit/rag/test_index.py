"""The index of signs against numpy's exact answers, and how it follows the library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import CorruptLibraryError
from edgellm.rag import index as index_module
from edgellm.rag.index import compare, index_path, open_index, read_index
from edgellm.rag.store import EmbedderFacts, Library
from library import FACTS, SIZE, document, exact, unit_vectors

FILES, EACH = 60, 10


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    vectors = unit_vectors(FILES * EACH, 1)
    with Library(tmp_path / "l.db", write=True) as library:
        library.use_embedder(FACTS)
        for number in range(FILES):
            here = vectors[number * EACH : (number + 1) * EACH]
            document(library, f"/{number}", [f"t{each}" for each in range(EACH)], here)
        yield library


def queries(count: int = 20) -> np.ndarray:
    return unit_vectors(count, 2).astype(np.float32)


def test_every_score_is_exact_and_the_order_numpy_s(library: Library) -> None:
    vectors = unit_vectors(FILES * EACH, 1)
    index = open_index(library)
    for query in queries():
        found = index.search(library, query, 10)
        assert [chunk - 1 for chunk, _ in found] == exact(vectors, query, 10)
        products = vectors.astype(np.float32) @ query
        assert [score for _, score in found] == pytest.approx(
            [float(products[chunk - 1]) for chunk, _ in found], abs=1e-6
        )


def test_the_rows_nearest_by_signs_are_those_of_plain_numpy(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(FILES * EACH, 1).astype(np.float32)
    mean = vectors.mean(axis=0)
    index = open_index(library)
    assert index.mean == pytest.approx(mean, abs=1e-6)
    monkeypatch.setattr(index_module, "BLOCK", 64)  # several blocks
    for query in queries():
        distance = ((vectors > index.mean) != (query > index.mean)).sum(axis=1)
        rows = index.nearest(query, 50)
        assert len(rows) == 50
        assert sorted(distance[rows]) == sorted(distance)[:50]


def test_centring_finds_what_vectors_of_one_direction_hide(tmp_path: Path) -> None:
    vectors = unit_vectors(5000, 3, shift=2.0)
    with Library(tmp_path / "l.db", write=True) as library:
        library.use_embedder(FACTS)
        document(library, "/x", ["t"] * 5000, vectors)
        centred = open_index(library)
        raw = replace(
            centred,
            mean=np.zeros(SIZE, np.float32),
            bits=index_module._signs(vectors.astype(np.float32)),
        )
        good = {"centred": 0, "raw": 0}
        for query in unit_vectors(20, 4, shift=2.0).astype(np.float32):
            best = set(exact(vectors, query, 10))
            for name, index in (("centred", centred), ("raw", raw)):
                found = {chunk - 1 for chunk, _ in index.search(library, query, 10)}
                good[name] += len(found & best)
    assert good["centred"] > 2 * good["raw"] > 0, good


def test_it_is_kept_and_read_again(library: Library) -> None:
    first = open_index(library)
    path = index_path(library.path)
    assert path.stat().st_size == 64 + 4 * SIZE + FILES * EACH * (16 + 16)
    stamp = path.stat().st_mtime_ns
    again = open_index(library)
    assert path.stat().st_mtime_ns == stamp
    assert np.array_equal(first.bits, again.bits)
    assert np.array_equal(first.ids, again.ids)
    assert compare(library, again) is None


def test_it_grows_and_shrinks_with_the_library(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(library)
    library.remove([library.sources(f"/{number}")[0].id for number in (0, 7, 59)])
    more = unit_vectors(25, 5)
    document(library, "/new", ["n"] * 25, more)
    read: list[int] = []
    plain = index_module._read

    def counted(of: Library, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some, vectors in plain(of, last):
            read.append(len(some))
            yield some, vectors

    monkeypatch.setattr(index_module, "_read", counted)
    index = open_index(library)
    assert read == [25]  # the signs of the others are taken over
    assert len(index.ids) == (FILES - 3) * EACH + 25
    assert compare(library, index) is None
    top = index.search(library, more[3].astype(np.float32), 1)
    assert top[0][1] == pytest.approx(1.0, abs=2e-3)
    gone = unit_vectors(FILES * EACH, 1)[3].astype(np.float32)
    assert 4 not in {chunk for chunk, _ in index.search(library, gone, 10)}


def test_the_mean_is_taken_again_when_most_chunks_are_new(library: Library) -> None:
    before = open_index(library)
    document(library, "/new", ["n"] * 700, unit_vectors(700, 5, shift=1.0))
    after = open_index(library)
    assert (before.mean_count, after.mean_count) == (600, 1300)
    assert not np.allclose(before.mean, after.mean)
    assert compare(library, after) is None


def damage(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def test_a_damaged_or_foreign_file_is_made_anew(library: Library, tmp_path: Path) -> None:
    good = open_index(library)
    path = index_path(library.path)
    data = path.read_bytes()
    with Library(tmp_path / "other.db", write=True) as other:
        other.use_embedder(FACTS)
        document(other, "/x", ["t"] * 600, unit_vectors(600, 8))
        open_index(other)
    foreign = index_path(tmp_path / "other.db").read_bytes()
    nan = data[:64] + b"\xff" * 8 + data[72:]
    for wrong in (b"", data[:50], data[:-1], data + b"x", b"X" + data[1:], foreign, nan):
        damage(path, wrong)
        library.index = None
        assert read_index(library) is None
        assert np.array_equal(open_index(library).bits, good.bits)
        assert path.read_bytes() == data


def test_an_index_of_another_copy_s_future_is_made_anew(library: Library, tmp_path: Path) -> None:
    """A backup of the library that is put back has the index of what came after it."""
    copy = tmp_path / "copy.db"
    shutil.copy(library.path, copy)
    document(library, "/new", ["n"] * 25, unit_vectors(25, 5))
    open_index(library)
    shutil.copy(index_path(library.path), index_path(copy))
    with Library(copy, write=True) as back:
        document(back, "/else", ["e"] * 30, unit_vectors(30, 6))
        document(back, "/more", ["e"] * 30, unit_vectors(30, 7))
        index = open_index(back)
        assert compare(back, index) is None


def test_filters_and_the_cap_of_a_source(library: Library) -> None:
    vectors = unit_vectors(FILES * EACH, 1).astype(np.float32)
    index = open_index(library)
    (query,) = queries(1)
    order = exact(vectors, query, FILES * EACH)
    allowed = np.zeros(FILES + 1, bool)
    allowed[[3, 4, 5]] = True
    found = [chunk - 1 for chunk, _ in index.search(library, query, 12, allowed=allowed)]
    assert found == [row for row in order if row // EACH + 1 in (3, 4, 5)][:12]
    capped = [chunk - 1 for chunk, _ in index.search(library, query, 30, per_source=1)]
    firsts = list({row // EACH: row for row in reversed(order)}.values())
    assert capped == sorted(firsts, key=order.index)[:30]


def test_a_source_that_would_fill_every_place_leaves_room(tmp_path: Path) -> None:
    (query,) = queries(1)
    near = (query + 0.01 * unit_vectors(3000, 6).astype(np.float32)).astype("<f2")
    with Library(tmp_path / "l.db", write=True) as library:
        library.use_embedder(FACTS)
        document(library, "/large", ["t"] * 3000, near)
        for number in range(20):
            document(library, f"/{number}", ["t"], unit_vectors(1, 100 + number))
        found = open_index(library).search(library, query, 10, per_source=2)
        sources = [
            library.execute("SELECT source_id FROM chunk WHERE id = ?", (chunk,))[0][0]
            for chunk, _ in found
        ]
    assert len(sources) == 10
    assert sources.count(1) == 2
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_library_without_vectors_and_one_with_a_few(tmp_path: Path) -> None:
    with Library(tmp_path / "l.db", write=True) as library:
        library.use_embedder(EmbedderFacts("x", "x", "x", SIZE))
        (query,) = queries(1)
        assert open_index(library).search(library, query, 5) == []
        document(library, "/x", ["a", "b"], unit_vectors(2, 1))
        document(library, "/words", ["c"])
        assert len(open_index(library).search(library, query, 5)) == 2


def test_vectors_that_are_missing_are_damage(library: Library) -> None:
    library.execute("DELETE FROM vec WHERE chunk_id = 5")
    with pytest.raises(CorruptLibraryError, match="do not belong together"):
        open_index(library)


def test_a_folder_that_cannot_be_written(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(index_module.tempfile, "mkstemp", refused)
    assert len(open_index(library).ids) == FILES * EACH
    assert not index_path(library.path).exists()
