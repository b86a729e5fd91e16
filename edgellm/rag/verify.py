"""Whether a library is what it says: SQLite's pages, its tables to each other, and its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import CorruptLibraryError, EdgellmError
from edgellm.rag.normalise import search_terms
from edgellm.rag.store import Library, passage_of, text_digest

__all__ = ["Check", "verify_library"]

SAMPLE = 2000  # chunks whose terms are compared, spread over the library


@dataclass(frozen=True, slots=True)
class Check:
    """One check; `problem` is None where it holds, and `repair` what to do about it."""

    name: str
    problem: str | None = None
    repair: str | None = None


def verify_library(library: Library, *, files: bool = True) -> list[Check]:
    """Check a library; nothing is changed.

    Args:
        library: an open library.
        files: load each unchanged file again, and compare the texts of its chunks with their
            places.
    """
    anew = f"make it anew: remove {library.path} and index its folders"
    checks: list[tuple[str, Callable[[], str | None], str]] = [
        ("SQLite pages", lambda: _pages(library), anew),
        ("chunks and sources", lambda: _chunks(library), anew),
        ("texts and their digests", lambda: _texts(library), anew),
        ("vectors", lambda: _vectors(library), anew),
        ("terms", lambda: _terms(library), "edgellm rag verify --repair"),
        ("index", lambda: _index(library), "edgellm rag verify --repair"),
    ]
    found = []
    with library.reading():
        for name, check, repair in checks:
            try:
                problem = check()
            except CorruptLibraryError as error:
                problem = str(error)
            found.append(Check(name, problem, repair if problem else None))
        if files and all(each.problem is None for each in found):
            found.extend(_files(library))
    return found


def _pages(library: Library) -> str | None:
    rows = [row[0] for row in library.execute("PRAGMA integrity_check(5)")]
    if rows != ["ok"]:
        return "; ".join(map(str, rows))
    lost = library.execute("PRAGMA foreign_key_check")
    return f"{len(lost)} rows belong to nothing" if lost else None


def _chunks(library: Library) -> str | None:
    for sql, problem in (
        (
            "SELECT count(*) FROM chunk WHERE ord < 0 OR char_start < 0 OR "
            "char_end - char_start <> length(text) OR text = ''",
            "chunks whose span is not their text's",
        ),
        (
            "SELECT count(*) FROM (SELECT 1 FROM chunk GROUP BY source_id "
            "HAVING min(ord) <> 0 OR max(ord) <> count(*) - 1)",
            "sources whose chunks are not all there",
        ),
        (
            "SELECT count(*) FROM source WHERE status = 'failed' AND id IN "
            "(SELECT source_id FROM chunk)",
            "failed sources that have chunks",
        ),
    ):
        ((count,),) = library.execute(sql)
        if count:
            return f"{count} {problem}"
    return None


def _texts(library: Library) -> str | None:
    wrong = sum(
        digest != text_digest(passage_of(heading, text))
        for heading, text, digest in library.rows("SELECT heading, text, text_sha FROM chunk")
    )
    return f"{wrong} chunks whose text is not the one that was written" if wrong else None


def _vectors(library: Library) -> str | None:
    ((lacking,),) = library.execute(
        "SELECT count(*) FROM chunk WHERE dense <> (id IN (SELECT chunk_id FROM vec))"
    )
    if lacking:
        return f"{lacking} chunks that lack their vector, or have one too many"
    facts = library.embedder
    length = 2 * (facts.dimension if facts else 0)
    ((wrong,),) = library.execute("SELECT count(*) FROM vec WHERE length(f16) <> ?", (length,))
    return f"{wrong} vectors of a wrong length" if wrong else None


def _terms(library: Library) -> str | None:
    for sql, problem in (
        ("SELECT count(*) FROM chunk WHERE id NOT IN (SELECT id FROM fts_docsize)", "without"),
        ("SELECT count(*) FROM fts_docsize WHERE id NOT IN (SELECT id FROM chunk)", "too many"),
    ):
        ((count,),) = library.execute(sql)
        if count:
            return f"{count} chunks {problem} terms"
    ((count,),) = library.execute("SELECT count(*) FROM chunk")
    step = max(1, count // SAMPLE)
    for number, heading, text in library.rows(
        "SELECT id, heading, text FROM chunk WHERE id % ? = 0", (step,)
    ):
        # a term of a chunk must lead to it
        terms = search_terms(passage_of(heading, text)).split()
        if not terms:
            continue
        term = max(terms, key=len).replace('"', '""')
        if not library.execute(
            "SELECT 1 FROM fts WHERE fts MATCH ? AND rowid = ?", (f'"{term}"', number)
        ):
            return f"the chunk {number} is not found by its word {term}"
    return None


def _index(library: Library) -> str | None:
    from edgellm.rag.index import compare, index_path, read_index

    facts = library.embedder
    if facts is None or not facts.dimension or not index_path(library.path).exists():
        return None  # it is made when it is needed
    kept = read_index(library)
    if kept is None:
        return f"{index_path(library.path)} is damaged, or another library's"
    if kept.generation != library.generation:
        return None  # an older one: it is brought up to date by the next search
    return compare(library, kept)


def _files(library: Library) -> Iterator[Check]:
    """Compare the chunks of each file that is as it was with what is read of it now."""
    from edgellm.rag.loaders import load

    for source in library.sources():
        if source.status != "ok":
            continue
        path = Path(source.path)
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").digest() != source.sha256:
                    yield Check(source.path, "the file has changed", "edgellm rag add again")
                    continue
            pages = {page.number: page.text for page in load(path).pages}
        except OSError as error:
            yield Check(source.path, f"the file: {error.strerror}", "edgellm rag add its folder")
            continue
        except EdgellmError as error:
            yield Check(source.path, f"the file {error}", "edgellm rag add its folder")
            continue
        wrong = sum(
            pages.get(page, "")[start:end] != text
            for page, start, end, text in library.execute(
                "SELECT page, char_start, char_end, text FROM chunk WHERE source_id = ?",
                (source.id,),
            )
        )
        if wrong:
            yield Check(
                source.path, f"{wrong} chunks are not at their place", "edgellm rag rm, then add"
            )
