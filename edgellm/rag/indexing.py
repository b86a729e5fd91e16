"""Files and folders into a library: what is unchanged costs nothing, what is gone leaves nothing.

A file is unchanged if its size and time are, or else its sha256; one that appears with the sha256
of one that is gone was renamed. Every document is one transaction, so that what ends the indexing
loses the document at hand, and the next run goes on behind the last one that is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.rag.chunk import Chunk, chunks
from edgellm.rag.embedder import CHUNK_TOKENS, OVERLAP_TOKENS, PassageEmbedder
from edgellm.rag.files import FoundFile, Problem, digest_of, find_files, real_path
from edgellm.rag.loaders import LoaderError, load, loader_for
from edgellm.rag.store import Library, Source, passage_of, text_digest

__all__ = ["IndexProgress", "IndexReport", "Problem", "index_paths"]

BATCH = 64  # passages that are embedded at a time, of several documents where they are short
MANY = 500  # files with another name or time that are written down at a time
KEPT = 256  # passages from which on a document's vectors are kept before it is whole
MAX_CHUNKS = 200_000  # of one document
LETTERS_A_TOKEN = 4  # where no embedder counts: about what a token of English has


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far the indexing is; bytes are those of files that are new or changed."""

    path: str
    files_done: int
    files: int
    bytes_done: int
    bytes: int
    chunks: int
    embedded: int


@dataclass(slots=True)
class IndexReport:
    """What the indexing did.

    Attributes:
        failed: files that could not be read, and why.
        skipped: files in a folder whose format is not read, and links out of the folder.
        chunks: chunks of the documents that were added or updated.
        embedded: passages that the embedder computed; the others were known, or have no vector.
        by_words: chunks in a script that the embedder does not know.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    renamed: int = 0
    removed: int = 0
    failed: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    chunks: int = 0
    embedded: int = 0
    by_words: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Pending:
    source: Source
    pieces: list[Chunk]
    known: list[bool]  # whether the embedder knows the script
    new: bool


def index_paths(
    library: Library,
    paths: Sequence[Path],
    embedder: PassageEmbedder | None,
    *,
    progress: Callable[[IndexProgress], None] | None = None,
) -> IndexReport:
    """Bring what a library holds of files and folders up to what they are now.

    Args:
        library: opened to write.
        paths: files, or folders with all below them. What the library has below a folder and is
            not there any more is removed.
        embedder: None searches by words alone.
        progress: called at each file and batch.

    Raises:
        NotFoundError: there is no such file or folder.
        UsageError: the library's vectors are of another embedder.
    """
    started = time.monotonic()
    roots = [real_path(path) for path in paths]
    run = _Run(library, embedder, progress)
    seen: dict[str, FoundFile] = {}
    known: dict[str, Source] = {}
    named = {str(root) for root in roots}
    for root in roots:
        for file in find_files(root, run.report.skipped):
            if file.path in named or loader_for(Path(file.path)) is not None:
                seen[file.path] = file
            else:
                suffix = Path(file.path).suffix or "no suffix"
                reason = f"has a format that is not read ({suffix})"
                run.report.skipped.append(Problem(file.path, reason))
        known.update((source.path, source) for source in library.sources(str(root)))
    run.go(seen, known)
    run.report.seconds = time.monotonic() - started
    return run.report


class _Run:
    def __init__(
        self,
        library: Library,
        embedder: PassageEmbedder | None,
        progress: Callable[[IndexProgress], None] | None,
    ) -> None:
        self.report = IndexReport()
        self._library = library
        self._embedder = embedder
        self._progress = progress
        self._pending: list[_Pending] = []
        self._touched: list[tuple[str, int, int, int]] = []
        self._gone: dict[bytes, Source] = {}
        self._files = self._files_done = self._bytes = self._bytes_done = 0

    def go(self, seen: dict[str, FoundFile], known: dict[str, Source]) -> None:
        """Index the files; `known` is what the library has of the same places."""
        changed = []
        for path, file in sorted(seen.items()):
            source = known.get(path)
            same = source is not None and source.status == "ok"
            if same and source and (source.size, source.mtime_ns) == (file.size, file.mtime_ns):
                self.report.unchanged += 1
            else:
                changed.append(file)
        left = {path: source for path, source in known.items() if path not in seen}
        self._gone = {each.sha256: each for each in left.values() if each.sha256 is not None}
        self._files, self._bytes = len(changed), sum(file.size for file in changed)
        for file in changed:
            self._tell(file.path)
            self._take(file, known.get(file.path), left)
            self._files_done += 1
            self._bytes_done += file.size
        self._flush()
        if left:
            self._library.remove([source.id for source in left.values()])
            self.report.removed += len(left)

    def _take(self, file: FoundFile, before: Source | None, left: dict[str, Source]) -> None:
        """Index one file, or write down that its content is known.

        `left` are sources whose files are gone; one that was renamed is taken out of it.
        """
        try:
            facts, digest = digest_of(file)
            if before is not None and before.status == "ok" and before.sha256 == digest:
                self._touch(before.id, facts)
                self.report.unchanged += 1
                return
            if before is None and digest in self._gone:
                moved = self._gone.pop(digest)
                del left[moved.path]
                self._touch(moved.id, facts)
                self.report.renamed += 1
                return
            document = load(Path(file.path))
            pieces = self._pieces(
                chunks(document, self._count, size=CHUNK_TOKENS, overlap=OVERLAP_TOKENS)
            )
            if digest_of(file)[1] != digest:
                raise LoaderError("changed while it was read: index it again")
        except (LoaderError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._fail(file, before, reason)
            return
        source = Source(
            0, file.path, digest, facts.size, facts.mtime_ns, document.loader, "ok", None
        )
        embedder = self._embedder
        knows = [embedder is not None and embedder.knows(piece.text) for piece in pieces]
        self._pending.append(_Pending(source, pieces, knows, before is None))
        if sum(len(each.pieces) for each in self._pending) >= BATCH:
            self._flush()

    def _touch(self, number: int, facts: FoundFile) -> None:
        self._touched.append((facts.path, facts.size, facts.mtime_ns, number))
        if len(self._touched) >= MANY:
            self._flush()

    def _pieces(self, found: Iterator[Chunk]) -> list[Chunk]:
        pieces = []
        for piece in found:
            pieces.append(piece)
            if len(pieces) > MAX_CHUNKS:
                raise LoaderError(f"has more than {MAX_CHUNKS} chunks")
        return pieces

    def _count(self, text: str) -> int:
        by_length = -(-len(text) // LETTERS_A_TOKEN)
        if self._embedder is None:
            return by_length
        tokens = self._embedder.count_tokens(text)
        spelt = tokens > 2 * by_length and not self._embedder.knows(text)
        return by_length if spelt else tokens

    def _fail(self, file: FoundFile, before: Source | None, reason: str) -> None:
        """Keep the reason in the place of what the file held."""
        self.report.failed.append(Problem(file.path, reason))
        failed = Source(0, file.path, None, file.size, file.mtime_ns, None, "failed", reason)
        if before is None or (before.status, before.error) != (failed.status, failed.error):
            self._library.put_document(failed, [], [])

    def _flush(self) -> None:
        """Embed what is pending, and put each document into the library."""
        if self._touched:
            self._library.touch(self._touched)
            self._touched = []
        pending, self._pending = self._pending, []
        passages = {
            text_digest(passage): passage
            for each in pending
            for piece, known in zip(each.pieces, each.known, strict=True)
            if known
            for passage in [passage_of(piece.heading, piece.text)]
        }
        vectors = self._vectors(passages)
        for each in pending:
            found = [
                vectors[text_digest(passage_of(piece.heading, piece.text))] if known else None
                for piece, known in zip(each.pieces, each.known, strict=True)
            ]
            self._library.put_document(each.source, each.pieces, found)
            self.report.chunks += len(each.pieces)
            self.report.by_words += each.known.count(False) if self._embedder else 0
            if each.new:
                self.report.added += 1
            else:
                self.report.updated += 1

    def _vectors(self, passages: dict[bytes, str]) -> dict[bytes, bytes]:
        if not passages or self._embedder is None:
            return {}
        vectors = self._library.known_vectors(list(passages))
        # Texts of like lengths go into a batch.
        missing = sorted(
            (digest for digest in passages if digest not in vectors),
            key=lambda digest: len(passages[digest]),
        )
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            made = self._embedder.embed_passages([passages[digest] for digest in some])
            new = dict(zip(some, made, strict=True))
            vectors.update(new)
            self.report.embedded += len(new)
            if len(missing) > KEPT:
                self._library.keep_vectors(new)
            self._tell(None)
        return vectors

    def _tell(self, path: str | None) -> None:
        if self._progress is not None:
            pending = sum(len(each.pieces) for each in self._pending)
            self._progress(
                IndexProgress(
                    path or "",
                    self._files_done,
                    self._files,
                    self._bytes_done,
                    self._bytes,
                    self.report.chunks + pending,
                    self.report.embedded,
                )
            )
