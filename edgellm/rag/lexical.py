"""Full-text search over normalised terms: FTS5's BM25, without the terms that stand everywhere.

The table holds `search_terms(text)` of each chunk under the chunk's id as its rowid. A term that
stands in a large part of a library costs the most to look up and tells the least, so it is left out
of a question as long as the question has rarer ones.

BM25: Robertson and Zaragoza 2009, with FTS5's constants k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.rag.normalise import query_terms

__all__ = [
    "CREATE_TABLE",
    "LexicalHit",
    "count_term",
    "likely_score",
    "search",
    "searched_terms",
]

# Porter's stemmer changes words of English alone; vowel signs (M*) are part of words.
CREATE_TABLE = """CREATE VIRTUAL TABLE fts USING fts5(
    norm_tokens, content = '',
    tokenize = "porter unicode61 remove_diacritics 0 categories 'L* N* M* Co'"
)"""

# Lower shares cost more than they save: see docs/measurements.md, which has several.
MAX_SHARE = 0.2  # of the chunks: terms that stand in more are left out of a question
MIN_CHUNKS = 20_000  # in smaller libraries no term is left out: all of them cost little there
FEW_TERMS = 2  # where all terms are frequent, so many of the rarest stay
MAX_TERMS = 256  # of a question; what comes behind is not searched


@dataclass(frozen=True)
class LexicalHit:
    """A chunk's id and its BM25 score: positive, larger is better."""

    chunk: int
    score: float


def search(
    connection: sqlite3.Connection,
    question: str,
    limit: int,
    *,
    where: str = "",
    parameters: Sequence[object] = (),
) -> list[LexicalHit]:
    """Give the chunks that match a question best, at most `limit`, the best first.

    `where` is an SQL condition on `rowid` (such as "rowid IN (SELECT ...)") with its `parameters`;
    it narrows what is found, not what a term is worth. Without a term that is indexed there is no
    hit. The question may hold anything: no part of it is read as a query language.
    """
    terms = searched_terms(connection, question)
    if not terms:
        return []
    rows = connection.execute(
        "SELECT rowid, -bm25(fts) FROM fts WHERE fts MATCH ?"
        + (f" AND ({where})" if where else "")
        + " ORDER BY bm25(fts), rowid LIMIT ?",
        (" OR ".join(map(_quoted, terms)), *parameters, limit),
    )
    return [LexicalHit(chunk, score) for chunk, score in rows]


def searched_terms(connection: sqlite3.Connection, question: str) -> list[str]:
    """Give the terms of a question that are searched: not those that stand everywhere."""
    terms = query_terms(question)[:MAX_TERMS]
    # The largest rowid bounds the number of chunks, and costs nothing to find.
    (total,) = connection.execute("SELECT max(rowid) FROM fts").fetchone()
    if total is None or total < MIN_CHUNKS:
        return terms
    (total,) = connection.execute("SELECT count(*) FROM fts_docsize").fetchone()
    most = int(MAX_SHARE * total)
    if total < MIN_CHUNKS:
        return terms
    rare = [term for term in terms if count_term(connection, term, most + 1) <= most]
    if rare:
        return rare
    return sorted(terms, key=lambda term: count_term(connection, term, total))[:FEW_TERMS]


def likely_score(connection: sqlite3.Connection, question: str) -> float | None:
    """Give what a chunk with all of a question's terms scores, each as often as BM25 can count.

    The sum of (k1 + 1) * idf. None for a library in which it would take long, and does not matter:
    terms that stand everywhere are not searched there.
    """
    (total,) = connection.execute("SELECT count(*) FROM fts_docsize").fetchone()
    if not total or total >= MIN_CHUNKS:
        return None
    score = 0.0
    for term in query_terms(question)[:MAX_TERMS]:
        count = count_term(connection, term, total)
        score += 2.2 * max(1e-6, math.log((total - count + 0.5) / (count + 0.5)))
    return score


def count_term(connection: sqlite3.Connection, term: str, most: int) -> int:
    """Count the chunks that hold a term, up to `most`."""
    (count,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM fts WHERE fts MATCH ? LIMIT ?)", (_quoted(term), most)
    ).fetchone()
    return int(count)


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
