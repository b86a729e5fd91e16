"""A library in one SQLite file: sources, chunks with their places, vectors and the terms of words.

SQLite keeps a rollback journal and not a write-ahead log: before 3.51.3 a reset of that log can
lose pages where one process writes and another checkpoints, and a log is a second file of the
library. Readers go on while a document is written and wait only while it is committed.

What a document is made of appears in one transaction. A second writer is refused (`FILE.lock`).
The file is not trusted: it must have exactly the tables that are made here, without triggers.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.errors import BackendError, CorruptLibraryError, NotFoundError, UsageError
from edgellm.rag.chunk import Chunk
from edgellm.rag.normalise import NORM_VERSION, search_terms
from edgellm.rag.schema import (
    APPLICATION_ID,
    MAX_DIMENSION,
    SCHEMA_VERSION,
    TABLES,
    connect,
    expected_tables,
    has_bytes,
    lock,
    tables,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["EmbedderFacts", "Library", "Source", "passage_of", "text_digest"]


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """Which embedder a library's vectors are of.

    Attributes:
        name: what a person calls it.
        embed_id: a digest of its file and of the text put before passages.
        model: the reference by which it is found again.
        dimension: the numbers of a vector; 0 for a library that is searched by words alone.
    """

    name: str
    embed_id: str
    model: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a library; `status` is "ok" or "failed", and `error` says why.

    `mtime_ns` is negative where the file was so young that a later change may have the same time.
    """

    id: int
    path: str
    sha256: bytes | None
    size: int
    mtime_ns: int
    loader: str | None
    status: str
    error: str | None

    @property
    def changed_ns(self) -> int:
        """When the file was changed last, in nanoseconds since 1970."""
        return abs(self.mtime_ns)


def passage_of(heading: str, text: str) -> str:
    """Give what is embedded and searched of a chunk: the heading path over the text."""
    return f"{heading}\n{text}" if heading else text


def text_digest(passage: str) -> bytes:
    """Give the key under which the vector of a passage is kept."""
    return hashlib.sha256(passage.encode("utf-8", "surrogatepass")).digest()


class Library:
    """An open library; close it, or use it in a `with` statement.

    Args:
        path: the file.
        write: become its writer; the file is made if it is not there.

    Raises:
        NotFoundError: there is no such file, and `write` is False.
        UsageError: another process writes to it, or a newer version made it.
        CorruptLibraryError: it is no library, or damaged.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self.index: object | None = None  # kept by edgellm.rag.index
        self._lock: int | None = None
        new = not has_bytes(path)
        if new and not write:
            raise NotFoundError(
                f"there is no library {path}", hint="make one: edgellm rag add FOLDER"
            )
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path)
        try:
            self._connection = connect(path, write=write)
            with self.sentences():
                new = write and not self._value("SELECT count(*) FROM sqlite_schema")
                if new:
                    self._create()
                self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write; closing twice does nothing."""
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- what the library is ---

    @property
    def key(self) -> bytes:
        """The 16 random bytes that tell this library from others."""
        return bytes(self._value("SELECT library FROM meta"))

    @property
    def generation(self) -> int:
        """A random number that is another after each transaction which changes chunks.

        It is no counter, so that copies of a library which go their own ways do not share it.
        """
        return int(self._value("SELECT generation FROM meta"))

    @property
    def embedder(self) -> EmbedderFacts | None:
        """The embedder that its vectors are of; None before the first document."""
        row = self._row("SELECT embedder, embed_id, model, dimension FROM meta")
        return None if row[1] is None else EmbedderFacts(*row)

    def use_embedder(self, facts: EmbedderFacts) -> None:
        """Say which embedder vectors will be of; afterwards only that one is accepted.

        Raises:
            UsageError: the library's vectors are of another one.
        """
        known = self.embedder
        if known is not None and known.embed_id != facts.embed_id:
            raise UsageError(
                f"{self.path} is a library of the embedder {known.name} (dimension "
                f"{known.dimension}), and {facts.name} (dimension {facts.dimension}) is another: "
                "their vectors cannot be compared",
                hint="use the library's, or make another library: --db FILE",
            )
        if known is None:
            with self.transaction(chunks=False):
                self.execute(
                    "UPDATE meta SET embedder = ?, embed_id = ?, model = ?, dimension = ?",
                    (facts.name, facts.embed_id, facts.model, facts.dimension),
                )

    def sources(self, below: str | None = None) -> list[Source]:
        """List the sources by path; `below` a folder, or that file alone."""
        columns = "SELECT id, path, sha256, size, mtime_ns, loader, status, error FROM source"
        if below is None:
            rows = self.execute(f"{columns} ORDER BY path")
        else:
            start = below.rstrip("/") + "/"
            rows = self.execute(
                f"{columns} WHERE path = ? OR (path >= ? AND path < ?) ORDER BY path",
                (below, start, start[:-1] + "0"),  # "0" follows "/"
            )
        return [Source(*row) for row in rows]

    def counts(self) -> tuple[int, int, int]:
        """Give the numbers of sources, chunks and vectors."""
        tables = ("source", "chunk", "vec")
        sources, chunks, vectors = (
            int(self._value(f"SELECT count(*) FROM {table}")) for table in tables
        )
        return sources, chunks, vectors

    # --- reading ---

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement and give its rows.

        Raises:
            CorruptLibraryError: the file is damaged.
            BackendError: it is locked for too long, or the disk is full.
        """
        with self.sentences():
            return self._connection.execute(sql, values).fetchall()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Run one statement and give its rows one by one; errors as in `execute`."""
        with self.sentences():
            yield from self._connection.execute(sql, values)

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for statements that only read; see `sentences`."""
        return self._connection

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See one state of the library in all statements of the block."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._connection.rollback()

    def vectors(self, ids: Iterable[int]) -> dict[int, npt.NDArray[np.float32]]:
        """Give the vectors of chunks; those that have none are left out."""
        import json

        rows = self.execute(
            "SELECT chunk_id, f16 FROM vec WHERE chunk_id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(ids)),),
        )
        decoded = self.decode([row[1] for row in rows]) if rows else ()
        return dict(zip((row[0] for row in rows), decoded, strict=True))

    def decode(self, blobs: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Turn stored vectors into float32 (vectors, dimension).

        Raises:
            CorruptLibraryError: one has another length, or holds NaN.
        """
        import numpy as np

        facts = self.embedder
        dimension = facts.dimension if facts else 0
        joined = b"".join(blobs)
        if any(len(blob) != 2 * dimension for blob in blobs):
            raise self.damaged("a vector has the wrong length")
        found = np.frombuffer(joined, np.float16).reshape(-1, dimension).astype(np.float32)
        if not np.isfinite(found).all():
            raise self.damaged("a vector holds numbers that are not finite")
        return found

    def known_vectors(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Give the stored vectors (float16) of passages that were embedded before."""
        found: dict[bytes, bytes] = {}
        for digest in dict.fromkeys(digests):
            rows = self.execute(
                "SELECT f16 FROM chunk JOIN vec ON vec.chunk_id = chunk.id WHERE text_sha = ?1 "
                "UNION ALL SELECT f16 FROM embed_cache WHERE text_sha = ?1 LIMIT 1",
                (digest,),
            )
            if rows:
                found[digest] = rows[0][0]
        return found

    # --- writing ---

    @contextmanager
    def transaction(self, *, chunks: bool = True) -> Iterator[None]:
        """Let everything in the block appear at once, or nothing; `chunks` says they change."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            if chunks:
                self.execute("UPDATE meta SET generation = random() & ?", ((1 << 63) - 1,))
            self.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise

    def keep_vectors(self, vectors: dict[bytes, bytes]) -> None:
        """Keep vectors of a document that is not whole yet, so that a kill does not lose them."""
        self.execute("BEGIN IMMEDIATE")
        with self.sentences():
            self._connection.executemany(
                "INSERT OR REPLACE INTO embed_cache VALUES (?, ?)", vectors.items()
            )
        self.execute("COMMIT")

    def put_document(
        self,
        source: Source,
        chunks: Sequence[Chunk],
        vectors: Sequence[bytes | None],
    ) -> None:
        """Put a document in the place of what its path held, in one transaction.

        Args:
            source: its facts; the id does not matter.
            chunks: its pieces, in order.
            vectors: of each chunk the float16 bytes, or None where it is found by words alone.
        """
        with self.transaction(), self.sentences():
            self._remove("path = ?", (source.path,))
            cursor = self._connection.execute(
                "INSERT INTO source(path, sha256, size, mtime_ns, loader, status, error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    source.path,
                    source.sha256,
                    source.size,
                    source.mtime_ns,
                    source.loader,
                    source.status,
                    source.error,
                ),
            )
            number = cursor.lastrowid
            for chunk, vector in zip(chunks, vectors, strict=True):
                row = self._connection.execute(
                    "INSERT INTO chunk(source_id, ord, page, char_start, char_end, heading, text, "
                    "text_sha, dense) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        number,
                        chunk.ord,
                        chunk.page,
                        chunk.char_start,
                        chunk.char_end,
                        chunk.heading,
                        chunk.text,
                        text_digest(passage_of(chunk.heading, chunk.text)),
                        vector is not None,
                    ),
                ).lastrowid
                if vector is not None:
                    self._connection.execute("INSERT INTO vec VALUES (?, ?)", (row, vector))
                self._connection.execute(
                    "INSERT INTO fts(rowid, norm_tokens) VALUES (?, ?)",
                    (row, search_terms(passage_of(chunk.heading, chunk.text))),
                )
            self._connection.execute("DELETE FROM embed_cache")

    def touch(self, rows: Sequence[tuple[str, int, int, int]]) -> None:
        """Write down that the same contents have other paths or times.

        Args:
            rows: of each source its path, size, time (ns) and id.
        """
        with self.transaction(chunks=False), self.sentences():
            self._connection.executemany(
                "UPDATE source SET path = ?, size = ?, mtime_ns = ? WHERE id = ?", rows
            )

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove sources with all that is theirs, in one transaction."""
        with self.transaction(), self.sentences():
            for number in numbers:
                self._remove("id = ?", (number,))

    def _remove(self, where: str, values: Sequence[Any]) -> None:
        # The full-text table keeps no texts, so that it is told the terms that it forgets.
        rows = self._connection.execute(
            "SELECT id, heading, text FROM chunk WHERE source_id IN "
            f"(SELECT id FROM source WHERE {where})",
            values,
        )
        for number, heading, text in rows.fetchall():
            passage = passage_of(heading, text)
            self._connection.execute(
                "INSERT INTO fts(fts, rowid, norm_tokens) VALUES ('delete', ?, ?)",
                (number, search_terms(passage)),
            )
        self._connection.execute(f"DELETE FROM source WHERE {where}", values)

    def rebuild_terms(self) -> None:
        """Make the full-text table anew from the chunks, in one transaction."""
        with self.transaction(chunks=False), self.sentences():
            self._connection.execute("INSERT INTO fts(fts) VALUES ('delete-all')")
            for number, heading, text in self._connection.execute(
                "SELECT id, heading, text FROM chunk"
            ):
                passage = passage_of(heading, text)
                self._connection.execute(
                    "INSERT INTO fts(rowid, norm_tokens) VALUES (?, ?)",
                    (number, search_terms(passage)),
                )
            self._connection.execute("UPDATE meta SET norm_version = ?", (NORM_VERSION,))

    # --- the file ---

    def _create(self) -> None:
        self._connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; {TABLES} "
            f"INSERT INTO meta VALUES (1, x'{secrets.token_hex(16)}', {NORM_VERSION}, NULL, NULL, "
            "NULL, 0, NULL, 0); COMMIT;"
        )

    def _check(self) -> None:
        if self._value("PRAGMA application_id") != APPLICATION_ID:
            raise CorruptLibraryError(
                f"{self.path} is a SQLite file, but no library of edgellm",
                hint="give another file: --db FILE",
            )
        version = self._value("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"{self.path} is a library of version {version}, and this edgellm reads version "
                f"{SCHEMA_VERSION}",
                hint="use the edgellm that made it, or index the folder into another --db FILE",
            )
        if tables(self._connection) != expected_tables():
            raise self.damaged("its tables are not those that edgellm makes")
        row = self._connection.execute(
            "SELECT library, norm_version, embedder, embed_id, model, dimension, generation "
            "FROM meta"
        ).fetchall()
        kinds: tuple[Any, ...] = (
            bytes,
            int,
            (str, type(None)),
            (str, type(None)),
            (str, type(None)),
            int,
            int,
        )
        if len(row) != 1 or not all(
            isinstance(value, kind) for value, kind in zip(row[0], kinds, strict=True)
        ):
            raise self.damaged("what it says of itself cannot be read")
        if len(row[0][0]) != 16 or not 0 <= row[0][5] <= MAX_DIMENSION:
            raise self.damaged("what it says of itself cannot be right")
        if row[0][1] != NORM_VERSION:
            if self._lock is None:
                raise UsageError(
                    f"{self.path} was indexed by other rules for letters than this edgellm's",
                    hint="index its terms anew: edgellm rag add, with the same --db",
                )
            self.rebuild_terms()

    def _row(self, sql: str) -> Any:
        return self.execute(sql)[0]

    def _value(self, sql: str) -> Any:
        return self._row(sql)[0]

    def damaged(self, why: str) -> CorruptLibraryError:
        """Make the error that says what is wrong with the file."""
        return CorruptLibraryError(
            f"{self.path} is damaged or not a library: {why}",
            hint=f"edgellm rag verify --db {self.path} says more; a library can be made anew "
            "from its files",
        )

    @contextmanager
    def sentences(self) -> Iterator[None]:
        """Turn what SQLite raises into a sentence with the file's name."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self.damaged(str(error)) from error
            raise BackendError(f"{self.path}: SQLite cannot do it: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error
