"""A library's file: its tables, and what is checked before anything is read of them."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from edgellm.errors import CorruptLibraryError, UsageError
from edgellm.rag.lexical import CREATE_TABLE

__all__ = [
    "APPLICATION_ID",
    "MAX_DIMENSION",
    "SCHEMA_VERSION",
    "TABLES",
    "connect",
    "expected_tables",
    "has_bytes",
    "lock",
    "tables",
]

APPLICATION_ID = 0x65647267  # "edrg"
SCHEMA_VERSION = 1
MAGIC = b"SQLite format 3\0"
BUSY_S = 30.0  # how long a commit waits for readers, and a reader for a commit
MAX_VALUE = 64 << 20  # bytes of the longest text or row that is read
MAX_DIMENSION = 16384

TABLES = f"""
CREATE TABLE meta(
    one INTEGER PRIMARY KEY CHECK (one = 1), library BLOB NOT NULL, norm_version INTEGER NOT NULL,
    embedder TEXT, embed_id TEXT, model TEXT, dimension INTEGER NOT NULL, gate REAL,
    generation INTEGER NOT NULL);
CREATE TABLE source(
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, sha256 BLOB,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, loader TEXT, status TEXT NOT NULL,
    error TEXT);
CREATE INDEX source_sha256 ON source(sha256);
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER NOT NULL REFERENCES source(id) ON DELETE CASCADE, ord INTEGER NOT NULL,
    page INTEGER, char_start INTEGER NOT NULL, char_end INTEGER NOT NULL, heading TEXT NOT NULL,
    text TEXT NOT NULL, text_sha BLOB NOT NULL, dense INTEGER NOT NULL);
CREATE INDEX chunk_source ON chunk(source_id, dense);
CREATE INDEX chunk_text ON chunk(text_sha);
CREATE TABLE vec(
    chunk_id INTEGER PRIMARY KEY REFERENCES chunk(id) ON DELETE CASCADE, f16 BLOB NOT NULL);
CREATE TABLE embed_cache(text_sha BLOB PRIMARY KEY, f16 BLOB NOT NULL) WITHOUT ROWID;
{CREATE_TABLE};
"""


def has_bytes(path: Path) -> bool:
    """Tell whether there is a library; an empty file is one that was never written.

    Raises:
        CorruptLibraryError: it is no SQLite file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except FileNotFoundError:
        return False
    if start and start != MAGIC:
        raise CorruptLibraryError(f"{path} is no library: it is not a SQLite file")
    return bool(start)


def lock(path: Path) -> int:
    """Become the only writer; the lock goes with the process."""
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(5):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            time.sleep(0.1)
    os.close(handle)
    raise UsageError(
        f"another process is writing to {path}", hint="wait until it has finished, or stop it"
    )


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Open the file as one whose schema is not trusted."""
    # A reader may have to roll back what a killed writer left, so that it is not opened read-only.
    mode = "rwc" if write else "rw" if os.access(path, os.W_OK) else "ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    for pragma in (
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "foreign_keys = ON",
        "recursive_triggers = OFF",
        *(() if write else ("query_only = ON",)),
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def tables(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Give the type, name and SQL of all that a file declares."""
    rows = connection.execute(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'"
    )
    return set(rows.fetchall())


def expected_tables() -> set[tuple[str, str, str]]:
    """Give what a library declares, in the words of this SQLite."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(TABLES)
        return tables(connection)
    finally:
        connection.close()
