"""A library's file: what it accepts, what it refuses, and who may write."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import BackendError, CorruptLibraryError, NotFoundError, UsageError
from edgellm.rag.store import Library, Source
from library import FACTS, document, unit_vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "l.db"
    with Library(path, write=True) as library:
        library.use_embedder(FACTS)
        vectors = unit_vectors(40, 1)
        for number in range(8):
            here = vectors[5 * number : 5 * number + 5]
            texts = [f"word{number} text{5 * number + each}" for each in range(5)]
            document(library, f"/a/{number}.txt", texts, here)
    return path


def test_a_document_takes_the_place_of_the_one_before(path: Path) -> None:
    with Library(path, write=True) as library:
        document(library, "/a/3.txt", ["renewed"], unit_vectors(1, 9))
        assert library.counts() == (8, 36, 36)
        match = "SELECT count(*) FROM fts WHERE fts MATCH ?"
        assert library.execute(match, ("word3",)) == [(0,)]
        assert library.execute(match, ("renewed",)) == [(1,)]
        library.execute("INSERT INTO fts(fts, rank) VALUES ('integrity-check', 0)")


def test_what_is_removed_leaves_nothing(path: Path) -> None:
    with Library(path, write=True) as library:
        library.remove([source.id for source in library.sources("/a")])
        assert library.counts() == (0, 0, 0)
        for table in ("fts_docsize", "embed_cache"):
            assert library.execute(f"SELECT count(*) FROM {table}") == [(0,)]
        assert library.execute("SELECT count(*) FROM fts WHERE fts MATCH 'word1'") == [(0,)]


def test_sources_below_a_folder_are_not_those_of_its_namesakes(path: Path) -> None:
    with Library(path, write=True) as library:
        for name in ("/a.txt", "/a-b/x.txt", "/a0/x.txt", "/ab"):
            document(library, name, ["x"])
        assert {source.path for source in library.sources("/a")} == {
            f"/a/{number}.txt" for number in range(8)
        }
        assert [source.path for source in library.sources("/a.txt")] == ["/a.txt"]
        assert len(library.sources("/")) == 12


def test_vectors_come_back_as_they_were(path: Path) -> None:
    with Library(path) as library:
        found = library.vectors(range(1, 41))
    assert np.array_equal(np.stack(list(found.values())), unit_vectors(40, 1).astype(np.float32))


def test_another_embedder_is_refused_with_both_names(path: Path) -> None:
    other = replace(FACTS, name="another", embed_id="1" * 64)
    with Library(path, write=True) as library:
        with pytest.raises(UsageError, match=r"made-up \(dimension 70\).*another"):
            library.use_embedder(other)
        library.use_embedder(FACTS)


def test_a_second_writer_is_told_and_a_reader_reads(path: Path) -> None:
    program = "import sys; from pathlib import Path; from edgellm.rag.store import Library\n"
    program += "with Library(Path(sys.argv[1]), write=sys.argv[2] == 'w') as library:\n"
    program += "    print(library.counts())"

    def other(mode: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(path), mode]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with Library(path, write=True) as library, library.transaction():
        library.execute("DELETE FROM vec")
        assert other("r").stdout == "(8, 40, 40)\n"  # what is not committed is not seen
        refused = other("w")
    assert "UsageError: another process is writing to" in refused.stderr
    assert other("w").stdout == "(8, 40, 0)\n"


def test_a_transaction_that_fails_changes_nothing(path: Path) -> None:
    with Library(path, write=True) as library:
        before = library.generation

        def fails() -> None:
            with library.transaction():
                library.execute("DELETE FROM source")
                library.execute("nonsense")

        with pytest.raises(BackendError, match="SQLite cannot do it"):
            fails()
        assert library.counts() == (8, 40, 40)
        assert library.generation == before


def test_a_reader_does_not_write(path: Path) -> None:
    with Library(path) as library, pytest.raises(BackendError, match="readonly"):
        library.remove([1])


def test_no_library_is_made_for_a_reader(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no library"):
        Library(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_becomes_a_library(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    path.touch()
    with pytest.raises(NotFoundError):
        Library(path)
    with Library(path, write=True) as library:
        assert library.counts() == (0, 0, 0)


def test_a_library_in_a_folder_that_cannot_be_written_is_read(path: Path) -> None:
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with Library(path) as library:
            assert library.counts() == (8, 40, 40)
    finally:
        path.parent.chmod(0o755)


def broken(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()


@pytest.mark.parametrize(
    ("sql", "kind", "sentence"),
    [
        ("PRAGMA application_id = 7", CorruptLibraryError, "no library of edgellm"),
        ("PRAGMA user_version = 99", UsageError, "version 99, and this edgellm reads version 1"),
        ("CREATE TABLE more(x)", CorruptLibraryError, "its tables are not those"),
        (
            "CREATE TRIGGER evil AFTER INSERT ON chunk BEGIN DELETE FROM source; END",
            CorruptLibraryError,
            "its tables are not those",
        ),
        ("CREATE VIEW v AS SELECT * FROM chunk", CorruptLibraryError, "its tables are not those"),
        ("DELETE FROM meta", CorruptLibraryError, "what it says of itself cannot be read"),
        ("UPDATE meta SET dimension = 'x'", CorruptLibraryError, "cannot be read"),
        ("UPDATE meta SET dimension = 99999999", CorruptLibraryError, "cannot be right"),
        ("UPDATE meta SET library = x'00'", CorruptLibraryError, "cannot be right"),
        ("UPDATE meta SET norm_version = 0", UsageError, "other rules for letters"),
    ],
)
def test_another_s_tables_are_refused(
    path: Path, sql: str, kind: type[Exception], sentence: str
) -> None:
    broken(path, sql)
    with pytest.raises(kind, match=sentence):
        Library(path)


@pytest.mark.parametrize("data", [b"hello, I am no database", b"SQLite format 3\0", b"\0" * 9000])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "l.db"
    path.write_bytes(data)
    for write in (False, True):
        with pytest.raises(CorruptLibraryError, match=str(path)):
            Library(path, write=write)
    assert path.read_bytes() == data


def test_terms_of_another_version_are_made_anew(path: Path) -> None:
    broken(path, "UPDATE meta SET norm_version = 0; INSERT INTO fts(fts) VALUES ('delete-all')")
    with Library(path, write=True) as library:
        assert library.execute("SELECT count(*) FROM fts WHERE fts MATCH 'word3'") == [(5,)]
    with Library(path) as library:
        assert library.counts() == (8, 40, 40)


def test_damaged_pages_are_a_sentence(path: Path, tmp_path: Path) -> None:
    """Any page overwritten: reading everything works, or ends with an error of ours."""
    data = path.read_bytes()
    noise = np.random.default_rng(3)
    ended = 0
    for page in range(1, len(data) // 4096):
        target = tmp_path / "broken.db"
        at = 4096 * page
        rubbish = noise.bytes(4096) if page % 2 else b"\0" * 4096
        target.write_bytes(data[:at] + rubbish + data[at + 4096 :])
        try:
            with Library(target, write=True) as library:
                library.execute("SELECT * FROM chunk JOIN source ON source.id = source_id")
                library.vectors(range(100))
                library.execute("SELECT * FROM fts WHERE fts MATCH 'word1'")
                document(library, "/a/1.txt", ["new"], unit_vectors(1, 1))
        except (CorruptLibraryError, BackendError) as error:
            ended += str(target) in str(error)
    assert ended > 5


def test_a_vector_of_a_wrong_length_is_damage(path: Path) -> None:
    broken(path, "UPDATE vec SET f16 = x'0011' WHERE chunk_id = 3")
    with Library(path) as library, pytest.raises(CorruptLibraryError, match="wrong length"):
        library.vectors([3])
    broken(path, f"UPDATE vec SET f16 = x'{'ff7e' * 70}' WHERE chunk_id = 3")
    with Library(path) as library, pytest.raises(CorruptLibraryError, match="not finite"):
        library.vectors([3])


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Library(path, write=True) as library:
        library.execute("PRAGMA max_page_count = 60")
        with pytest.raises(BackendError, match="full"):
            document(library, "/x", ["word " * 100_000])
        assert library.counts() == (0, 0, 0)


def test_kept_vectors_are_known_and_go_with_their_document(path: Path) -> None:
    with Library(path, write=True) as library:
        library.keep_vectors({b"digest": b"\0" * 140})
        assert library.known_vectors([b"digest", b"other"]) == {b"digest": b"\0" * 140}
        document(library, "/new", ["x"])
        assert library.known_vectors([b"digest"]) == {}


def test_renaming_keeps_what_is_found(path: Path) -> None:
    with Library(path, write=True) as library:
        (source,) = library.sources("/a/2.txt")
        before = library.generation
        library.touch([("/b/two.txt", 5, 6, source.id)])
        (moved,) = library.sources("/b")
        assert moved == replace(source, path="/b/two.txt", size=5, mtime_ns=6)
        assert library.counts() == (8, 40, 40)
        assert library.generation == before


def test_the_library_is_one_file(path: Path) -> None:
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"l.db", "l.db.lock"}
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    with Library(copy) as library:
        assert library.counts() == (8, 40, 40)
        assert isinstance(library.sources()[0], Source)
    assert copy.stat().st_size == path.stat().st_size
