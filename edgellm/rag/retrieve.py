"""A question to chunks: words and meanings searched, their scores brought together.

The scores of each side are moved to 0..1 by the least and the largest of its list (min-max), and
added by weights. A side that cannot be trusted does not take part: an embedder that does not know
the script of the question, or a library without vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.errors import UsageError
from edgellm.rag import lexical
from edgellm.rag.store import Library

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.rag.embedder import PassageEmbedder
    from edgellm.rag.index import Index

__all__ = ["Filters", "Hit", "Retrieval", "retrieve"]

DEPTH = 100  # chunks that each side gives
WEIGHT = 0.5  # of the meanings, where both sides can be trusted
PER_SOURCE = 3
# The best BM25 of a question is 0.14 to 0.7 of what all of its words would give (SciFact, PQuAD).
# Below, only words such as "in" matched, whose list min-max would make as good as any other.
MATCHED = 0.15


@dataclass(frozen=True, slots=True)
class Filters:
    """Which sources are searched: all that every filter lets pass.

    Attributes:
        paths: globs (`*` any characters, `?` one, `[...]` a set), one of which the path matches;
            one without a slash matches the file's name.
        types: names of loaders or suffixes ("pdf", ".md").
        since: files that changed at this time or later, in seconds since 1970.
        until: files that changed before this time.
    """

    paths: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None

    def __bool__(self) -> bool:
        return bool(self.paths or self.types) or (self.since, self.until) != (None, None)


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found; its text is characters `start` to `end` of the page.

    `lexical` is BM25 (larger is better, None where no word matched), `dense` the cosine (None where
    the chunk or the question has no vector), `score` what the two give together, 0 to 1.
    """

    rank: int
    score: float
    lexical: float | None
    dense: float | None
    chunk: int
    path: str
    page: int | None
    start: int
    end: int
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What was found; `dense_weight` is the share of the meanings, and `reason` says why."""

    hits: list[Hit]
    dense_weight: float
    reason: str


def retrieve(
    library: Library,
    question: str,
    embedder: Callable[[], PassageEmbedder] | None = None,
    *,
    count: int = 8,
    per_source: int | None = PER_SOURCE,
    filters: Filters | None = None,
    index: Callable[[Library], Index] | None = None,
    weight: float | None = None,
    depth: int = DEPTH,
) -> Retrieval:
    """Find the chunks that answer a question best.

    Args:
        library: an open library.
        question: in any words.
        embedder: gives the library's embedder, and is called only if there are vectors; None
            searches by words alone.
        count: chunks, at most.
        per_source: chunks of one file, at most; None for no limit.
        filters: which files are searched.
        index: gives the index of the library's state; by default it is read, or made.
        weight: of the meanings, 0 to 1; by default what can be trusted.
        depth: chunks that each side gives.

    Raises:
        UsageError: the question is empty, or a value out of its range.
    """
    if not question.strip():
        raise UsageError("the question is empty")
    if count < 1 or (per_source is not None and per_source < 1):
        raise UsageError("the number of chunks, and that of one file, is at least 1")
    if weight is not None and not 0 <= weight <= 1:
        raise UsageError(f"the weight of the meanings is 0 to 1, not {weight}")
    depth = max(depth, 4 * count)
    vector, share, reason = _vector(library, question, embedder, weight)
    with library.reading():
        allowed = _allowed(library, filters) if filters else None
        words = {} if share == 1 else _words(library, question, depth, allowed, per_source)
        meanings: dict[int, float] = {}
        if vector is not None:
            from edgellm.rag.index import open_index

            found = (index or open_index)(library).search(
                library, vector, depth, allowed=_mask(library, allowed), per_source=per_source
            )
            meanings = dict(found)
            missing = library.vectors(words.keys() - meanings.keys())
            extra = {chunk: float(value @ vector) for chunk, value in missing.items()}
            scored = _fused(words, meanings, extra, share, _matched(library, question, words))
            meanings.update(extra)
        else:
            scored = _fused(words, {}, {}, 0.0)
        hits = _hits(library, scored, words, meanings, count, per_source)
    return Retrieval(hits, share, reason)


def _vector(
    library: Library,
    question: str,
    embedder: Callable[[], PassageEmbedder] | None,
    weight: float | None,
) -> tuple[npt.NDArray[np.float32] | None, float, str]:
    """Give the question's vector, the weight of the meanings, and why it is that."""
    facts = library.embedder
    if embedder is None or weight == 0:
        return None, 0.0, "words alone were asked for"
    if facts is None or not facts.dimension:
        return None, 0.0, "the library is searched by words alone"
    if not library.execute("SELECT 1 FROM vec LIMIT 1"):
        return None, 0.0, f"{facts.name} knows the script of no text in the library"
    model = embedder()
    if model.facts.embed_id != facts.embed_id:
        raise UsageError(
            f"{library.path} is a library of the embedder {facts.name}, and {model.facts.name} is "
            "another: their vectors cannot be compared"
        )
    if weight is None and not model.knows(question):
        return None, 0.0, f"{facts.name} does not know the script of the question"
    share = WEIGHT if weight is None else weight
    return model.embed_query(question), share, "words and meanings" if share < 1 else "meanings"


def _words(
    library: Library,
    question: str,
    depth: int,
    allowed: list[int] | None,
    per_source: int | None,
) -> dict[int, float]:
    """Give the chunks that the question's words find, and their BM25, at most `per_source` each."""
    import json

    found: dict[int, float] = {}
    taken: dict[int, int] = {}
    full: list[int] = []
    while len(found) < depth:
        where, values = [], []
        if allowed is not None:
            where.append(
                "rowid IN (SELECT id FROM chunk WHERE source_id IN "
                "(SELECT value FROM json_each(?)))"
            )
            values.append(json.dumps(allowed))
        if full:
            where.append(
                "rowid NOT IN (SELECT id FROM chunk WHERE source_id IN "
                "(SELECT value FROM json_each(?)))"
            )
            values.append(json.dumps(full))
        with library.sentences():
            hits = lexical.search(
                library.connection,
                question,
                2 * depth,
                where=" AND ".join(where),
                parameters=values,
            )
        sources = _sources(library, [hit.chunk for hit in hits])
        before = len(full)
        for hit in hits:
            source = sources.get(hit.chunk, 0)
            if hit.chunk in found or len(found) == depth:
                continue
            if per_source is not None and taken.get(source, 0) >= per_source:
                continue
            taken[source] = taken.get(source, 0) + 1
            found[hit.chunk] = hit.score
            if taken[source] == per_source:
                full.append(source)
        # Files that have given all they may make room for others, until there are enough.
        if len(hits) < 2 * depth or len(full) == before:
            break
    return found


def _matched(library: Library, question: str, words: dict[int, float]) -> float:
    """Tell how far the words of a question were found at all, 0 to 1."""
    if not words:
        return 1.0
    with library.sentences():
        likely = lexical.likely_score(library.connection, question)
    return 1.0 if not likely else min(1.0, max(words.values()) / (MATCHED * likely))


def _fused(
    words: dict[int, float],
    meanings: dict[int, float],
    extra: dict[int, float],
    share: float,
    matched: float = 1.0,
) -> list[tuple[int, float]]:
    """Give all chunks by their scores together, best first.

    `extra` are the cosines of chunks that words found and meanings did not; `matched` lessens what
    the words say.
    """
    left = {chunk: matched * score for chunk, score in _scaled(words).items()}
    right = _scaled(meanings, extra)
    scores = {
        chunk: (1 - share) * left.get(chunk, 0.0) + share * right.get(chunk, 0.0)
        for chunk in left.keys() | right.keys()
    }
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _scaled(scores: dict[int, float], extra: dict[int, float] | None = None) -> dict[int, float]:
    """Move scores to 0..1 by the least and the largest of them."""
    whole = {**scores, **(extra or {})}
    if not whole:
        return {}
    low, high = min((scores or whole).values()), max(whole.values())
    if high <= low:
        return dict.fromkeys(whole, 1.0)
    return {chunk: max(0.0, (value - low) / (high - low)) for chunk, value in whole.items()}


def _hits(
    library: Library,
    scored: list[tuple[int, float]],
    words: dict[int, float],
    meanings: dict[int, float],
    count: int,
    per_source: int | None,
) -> list[Hit]:
    sources = _sources(library, [chunk for chunk, _ in scored])
    taken: dict[int, int] = {}
    hits: list[Hit] = []
    for chunk, score in scored:
        source = sources.get(chunk)
        if source is None:
            raise library.damaged(f"the chunk {chunk} of its terms or vectors is not there")
        taken[source] = taken.get(source, 0) + 1
        if per_source is not None and taken[source] > per_source:
            continue
        ((path, page, start, end, heading, text),) = library.execute(
            "SELECT path, page, char_start, char_end, heading, text FROM chunk "
            "JOIN source ON source.id = source_id WHERE chunk.id = ?",
            (chunk,),
        )
        hits.append(
            Hit(
                len(hits) + 1,
                score,
                words.get(chunk),
                meanings.get(chunk),
                chunk,
                path,
                page,
                start,
                end,
                heading,
                text,
            )
        )
        if len(hits) == count:
            break
    return hits


def _sources(library: Library, chunks: Iterable[int]) -> dict[int, int]:
    """Give the sources of chunks."""
    import json

    return dict(
        library.execute(
            "SELECT id, source_id FROM chunk WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(chunks)),),
        )
    )


def _allowed(library: Library, filters: Filters) -> list[int]:
    """Give the ids of the sources that pass."""
    patterns = [_pattern(path) for path in filters.paths]
    types = {each.casefold().lstrip(".") for each in filters.types}
    passed = []
    for source in library.sources():
        name = source.path.rpartition("/")[2]
        if patterns and not any(
            pattern.fullmatch(source.path if whole else name) for pattern, whole in patterns
        ):
            continue
        kinds = {(source.loader or "").casefold(), name.rpartition(".")[2].casefold()}
        if types and not types & kinds:
            continue
        changed = source.changed_ns / 1e9
        if filters.since is not None and changed < filters.since:
            continue
        if filters.until is not None and changed >= filters.until:
            continue
        passed.append(source.id)
    return passed


def _pattern(glob: str) -> tuple[re.Pattern[str], bool]:
    import fnmatch

    whole = "/" in glob
    if whole and not glob.startswith(("/", "*")):
        glob = f"*/{glob}"
    return re.compile(fnmatch.translate(glob)), whole


def _mask(library: Library, allowed: list[int] | None) -> npt.NDArray[np.bool_] | None:
    """Give a source's answer under its id."""
    if allowed is None:
        return None
    import numpy as np

    ((last,),) = library.execute("SELECT coalesce(max(source_id), 0) FROM chunk")
    mask = np.zeros(max(last, *allowed, 0) + 1, bool)
    mask[allowed] = True
    return mask
