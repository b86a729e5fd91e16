"""Indexing real files with the real embedder: what is computed again, and what is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgellm.api.convert import convert
from edgellm.api.embed import LoadedEmbedder, load_embedder
from edgellm.errors import NotFoundError
from edgellm.rag.embedder import PassageEmbedder, fingerprint
from edgellm.rag.indexing import IndexProgress, IndexReport, index_paths
from edgellm.rag.retrieve import Filters, retrieve
from edgellm.rag.store import Library

ENGLISH = {
    "cats.txt": "The cat sat by the river and watched the fish in the cold water.",
    "stars.md": "# Astronomy\n\nQuasars are luminous nuclei of distant galaxies.",
    "sub/bread.txt": "Flour, water, salt and yeast make a dough that rises overnight.",
}
PERSIAN = "تهران پایتخت ایران است و در دامنهٔ کوه‌های البرز جای دارد."


@pytest.fixture(scope="module")
def model(all_minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedEmbedder]:
    path = tmp_path_factory.mktemp("minilm") / "all-minilm.gguf"
    convert(all_minilm, path, dtype="f16")
    with load_embedder(path, threads=1) as model:
        yield model


@pytest.fixture
def embedder(model: LoadedEmbedder) -> PassageEmbedder:
    return PassageEmbedder(model, str(model.path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    for name, text in {**ENGLISH, "fa.txt": PERSIAN}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        age(path)
    return folder


def age(path: Path, seconds: int = 100) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns - seconds * 10**9))


@pytest.fixture
def library(tmp_path: Path, embedder: PassageEmbedder) -> Iterator[Library]:
    with Library(tmp_path / "l.db", write=True) as library:
        library.use_embedder(embedder.facts)
        yield library


def counts(report: IndexReport) -> tuple[int, ...]:
    return (
        report.added,
        report.updated,
        report.unchanged,
        report.renamed,
        report.removed,
        len(report.failed),
        report.embedded,
    )


def test_what_is_unchanged_costs_nothing(library, folder, embedder) -> None:
    report = index_paths(library, [folder], embedder)
    assert counts(report) == (4, 0, 0, 0, 0, 0, 3)
    assert (report.chunks, report.by_words) == (4, 1)
    generation = library.generation
    assert counts(index_paths(library, [folder], embedder)) == (0, 0, 4, 0, 0, 0, 0)
    # another time and the same content
    age(folder / "cats.txt")
    assert counts(index_paths(library, [folder], embedder)) == (0, 0, 4, 0, 0, 0, 0)
    assert library.generation == generation


def test_changes_renames_and_deletions(library, folder, embedder) -> None:
    index_paths(library, [folder], embedder)
    (folder / "cats.txt").write_text("Dogs bark at night.")
    (folder / "stars.md").rename(folder / "sub" / "sky.md")
    (folder / "sub" / "bread.txt").unlink()
    assert counts(index_paths(library, [folder], embedder)) == (0, 1, 1, 1, 1, 0, 1)
    assert [source.path for source in library.sources()] == [
        str(folder / name) for name in ("cats.txt", "fa.txt", "sub/sky.md")
    ]
    for question in ("cat river fish", "yeast dough"):
        found = retrieve(library, question, lambda: embedder).hits
        assert not any("river" in hit.text or "dough" in hit.text for hit in found)
    (hit, *_) = retrieve(library, "quasars", lambda: embedder).hits
    assert hit.path == str(folder / "sub" / "sky.md")
    assert hit.heading == "Astronomy"


def test_a_file_that_changes_within_its_time_s_grain_is_seen(library, folder, embedder) -> None:
    path = folder / "cats.txt"
    path.write_text("old words")
    index_paths(library, [folder], embedder)
    stamp = path.stat().st_mtime_ns
    path.write_text("new words")
    os.utime(path, ns=(stamp, stamp))
    assert counts(index_paths(library, [folder], embedder)) == (0, 1, 3, 0, 0, 0, 1)


def test_a_copy_costs_no_embedding(library, folder, embedder) -> None:
    index_paths(library, [folder], embedder)
    (folder / "again.txt").write_text(ENGLISH["cats.txt"])
    assert counts(index_paths(library, [folder], embedder)) == (1, 0, 4, 0, 0, 0, 0)


def test_what_cannot_be_read_is_listed_and_tried_again(library, folder, embedder) -> None:
    (folder / "broken.txt").write_bytes(b"\0\1\2" * 500)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "empty.md").write_text(" \n")
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    (folder / "link.txt").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / ".hidden.txt").write_text("hidden")
    for _ in range(2):
        report = index_paths(library, [folder], embedder)
        assert [Path(each.path).name for each in report.failed] == ["broken.txt", "empty.md"]
        assert {Path(each.path).name for each in report.skipped} == {"picture.png", "link.txt"}
    assert all("secret" not in row[0] for row in library.execute("SELECT text FROM chunk"))
    failed = [source for source in library.sources() if source.status == "failed"]
    assert [source.error for source in failed] == [each.reason for each in report.failed]
    (folder / "broken.txt").write_text("It is mended.")
    assert counts(index_paths(library, [folder], embedder))[:2] == (0, 1)


def test_a_file_that_no_longer_reads_is_not_found_any_more(library, folder, embedder) -> None:
    index_paths(library, [folder], embedder)
    (folder / "cats.txt").write_bytes(b"\0\1\2" * 500)
    assert len(index_paths(library, [folder], embedder).failed) == 1
    hits = retrieve(library, "cat river", lambda: embedder).hits
    assert not any("cat" in hit.text for hit in hits)


def test_a_file_by_its_name_and_a_place_that_is_not_there(library, folder, embedder) -> None:
    report = index_paths(library, [folder / "cats.txt"], embedder)
    assert counts(report) == (1, 0, 0, 0, 0, 0, 1)
    assert counts(index_paths(library, [folder / "sub"], embedder))[:5] == (1, 0, 0, 0, 0)
    with pytest.raises(NotFoundError, match="no file or folder"):
        index_paths(library, [folder / "nothing"], embedder)
    assert len(library.sources()) == 2


def test_an_interrupted_indexing_goes_on(library, folder, embedder) -> None:
    class StopError(Exception):
        pass

    def stop(progress: IndexProgress) -> None:
        if progress.files_done == 2:
            raise StopError

    for number in range(6):
        (folder / f"{number}.txt").write_text("words " * 4000)  # a batch each
    with pytest.raises(StopError):
        index_paths(library, [folder], None, progress=stop)
    there = len(library.sources())
    assert there == 2
    report = index_paths(library, [folder], None)
    assert (report.added, report.unchanged) == (8, 2)


def test_vectors_of_a_long_document_survive_its_interruption(
    library, tmp_path, embedder, monkeypatch
) -> None:
    monkeypatch.setattr("edgellm.rag.indexing.KEPT", 4)
    monkeypatch.setattr("edgellm.rag.indexing.BATCH", 2)
    path = tmp_path / "long.md"
    path.write_text("".join(f"# Part {each}\n\n" + f"river {each} " * 120 for each in range(7)))
    plain, calls = embedder.embed_passages, []

    def stops(texts):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(texts)

    monkeypatch.setattr(embedder, "embed_passages", stops)
    with pytest.raises(KeyboardInterrupt):
        index_paths(library, [path], embedder)
    assert library.counts() == (0, 0, 0)
    report = index_paths(library, [path], embedder)
    assert report.chunks == report.embedded + 4
    assert library.execute("SELECT count(*) FROM embed_cache") == [(0,)]


def test_stored_vectors_are_the_embedder_s(library, folder, embedder, model) -> None:
    index_paths(library, [folder], embedder)
    (row,) = library.execute("SELECT id, text FROM chunk WHERE text LIKE '%cat%'")
    (vector,) = library.vectors([row[0]]).values()
    assert vector == pytest.approx(model.embed([row[1]])[0], abs=1e-3)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


def test_an_english_embedder_leaves_persian_to_the_words(library, folder, embedder) -> None:
    index_paths(library, [folder], embedder)
    for question in ("پایتخت ايران", "کوههای البرز"):
        found = retrieve(library, question, lambda: embedder)
        assert found.dense_weight == 0
        assert "script" in found.reason
        assert [hit.path for hit in found.hits] == [str(folder / "fa.txt")]
        assert found.hits[0].dense is None
    # of its words "in" alone is found, and elsewhere
    english = retrieve(library, "bright objects in space", lambda: embedder)
    assert english.dense_weight == 0.5
    assert english.hits[0].path == str(folder / "stars.md")
    assert english.hits[0].lexical is None or english.hits[0].lexical > 0


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("How are quasars found, and by whom?", True),
        ("Der schnelle braune Fuchs springt über den faulen Hund", True),
        ("def main(arguments): return sorted(arguments)", True),
        ("1234 5678", True),
        (PERSIAN, False),
        ("Где находится Москва и сколько в ней жителей", False),
        ("ما هي عاصمة فرنسا", False),
    ],
)
def test_which_scripts_the_embedder_knows(embedder, text: str, known: bool) -> None:
    assert embedder.knows(text) is known


def test_filters(library, folder, embedder) -> None:
    index_paths(library, [folder], embedder)
    os.utime(folder / "cats.txt", (10**9, 10**9))
    index_paths(library, [folder], embedder)

    def names(filters: Filters) -> set[str]:
        found = retrieve(library, "water", lambda: embedder, filters=filters).hits
        return {Path(hit.path).name for hit in found}

    assert names(Filters()) == {"cats.txt", "stars.md", "bread.txt"}
    assert names(Filters(types=("md",))) == {"stars.md"}
    assert names(Filters(types=(".TXT",))) == {"cats.txt", "bread.txt"}
    assert names(Filters(paths=("sub/*",))) == {"bread.txt"}
    assert names(Filters(paths=(f"{folder}/sub/*", "c*"))) == {"bread.txt", "cats.txt"}
    assert names(Filters(until=10**9 + 1)) == {"cats.txt"}
    assert names(Filters(since=10**9 + 1)) == {"stars.md", "bread.txt"}
    assert names(Filters(paths=("nothing",))) == set()


def test_a_fingerprint_tells_files_and_uses_apart(tmp_path: Path) -> None:
    path = tmp_path / "m"
    data = bytearray(os.urandom(3_000_000))
    path.write_bytes(data)
    prints = {fingerprint(path), fingerprint(path, "query: "), fingerprint(path)}
    assert len(prints) == 2
    for at in (0, 1_500_000, len(data) - 1):
        other = bytearray(data)
        other[at] ^= 1
        path.write_bytes(other)
        prints.add(fingerprint(path))
    assert len(prints) >= 4
