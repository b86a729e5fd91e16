"""Libraries of a person's own documents: index folders, and search them by words and meaning.

with edgellm.open_library("notes.db", write=True) as library:
    library.index(["~/papers"])
    for hit in library.search("who wrote this?").hits:
        print(hit.path, hit.page, hit.text)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgellm import settings
from edgellm.errors import NotFoundError

if TYPE_CHECKING:
    from edgellm.api.embed import LoadedEmbedder
    from edgellm.rag.embedder import PassageEmbedder
    from edgellm.rag.indexing import IndexProgress, IndexReport
    from edgellm.rag.retrieve import Filters, Retrieval
    from edgellm.rag.store import Library, Source
    from edgellm.rag.verify import Check

__all__ = ["NO_EMBEDDER", "LibraryFacts", "OpenLibrary", "default_library", "open_library"]

NO_EMBEDDER = "none"


def _never() -> bool:
    return False


def default_library() -> Path:
    """Give the library that is meant where none is named: in the folder of the person's data."""
    return settings.home_dir() / "rag" / "library.db"


@dataclass(frozen=True, slots=True)
class LibraryFacts:
    """What a library holds.

    Attributes:
        vectors: chunks that are found by meaning too.
        bytes: of the file and its index.
    """

    path: Path
    embedder: str | None
    dimension: int
    sources: int
    chunks: int
    vectors: int
    bytes: int


def open_library(
    path: str | os.PathLike[str] | None = None,
    *,
    write: bool = False,
    embedder: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    fetched: Callable[[str, int, int], None] | None = None,
    cancelled: Callable[[], bool] = _never,
) -> OpenLibrary:
    """Open a library, or with `write` make it.

    Args:
        path: its file; None takes `default_library()`.
        write: become its only writer. Others may read meanwhile.
        embedder: a name in the store or a path; None takes the library's own (of a new one,
            all-MiniLM-L6-v2), "none" makes a library that is searched by words alone.
        threads: of the embedder; None takes the number of physical cores.
        fetched: told of the default embedder's download, as `edgellm.api.models.pull` does.
        cancelled: asked while texts are embedded.

    Raises:
        NotFoundError: there is no such library.
        UsageError: another process writes, or a newer version made it.
        CorruptLibraryError: the file is damaged or no library.
    """
    from edgellm.rag.store import Library

    where = default_library() if path is None else Path(path).expanduser()
    reference = None if embedder is None else os.fspath(embedder)
    return OpenLibrary(Library(where, write=write), reference, threads, fetched, cancelled)


class OpenLibrary:
    """An open library; close it, or use it in a `with` statement. One thread at a time uses it.

    Attributes:
        path: its file.
    """

    def __init__(
        self,
        library: Library,
        embedder: str | None,
        threads: int | None,
        fetched: Callable[[str, int, int], None] | None,
        cancelled: Callable[[], bool],
    ) -> None:
        self._library = library
        self._reference = embedder
        self._threads = threads
        self._fetched = fetched
        self._cancelled = cancelled
        self._model: LoadedEmbedder | None = None
        self._embedder: PassageEmbedder | None = None
        self._counted: tuple[int, int] | None = None  # a generation, and its chunks
        self.path: Path = library.path

    def __enter__(self) -> OpenLibrary:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free the embedder; closing twice does nothing."""
        if self._model is not None:
            self._model.close()
            self._model = None
        self._library.close()

    @property
    def facts(self) -> LibraryFacts:
        """What the library holds."""
        from edgellm.rag.index import index_path

        sources, chunks, vectors = self._library.counts()
        known = self._library.embedder
        size = sum(
            file.stat().st_size for file in (self.path, index_path(self.path)) if file.exists()
        )
        return LibraryFacts(
            self.path,
            None if known is None else known.name,
            0 if known is None else known.dimension,
            sources,
            chunks,
            vectors,
            size,
        )

    @property
    def state(self) -> str:
        """Names what the library holds now: another name after every change."""
        known = self._library.embedder
        embedder = "" if known is None else known.embed_id
        return f"{self._library.key.hex()}-{self._library.generation}-{embedder}"

    def rarity(self, term: str) -> float:
        """Give the weight of a term of `rag.normalise` in the library: BM25's idf."""
        from edgellm.rag.gate import rarity_of
        from edgellm.rag.lexical import count_term

        generation = self._library.generation
        if self._counted is None or self._counted[0] != generation:
            self._counted = generation, self._library.counts()[1]
        chunks = self._counted[1]
        return rarity_of(chunks, count_term(self._library.connection, term, chunks))

    @property
    def embedder(self) -> str | None:
        """The reference of its embedding model; None for a library that has none (yet)."""
        known = self._library.embedder
        return None if known is None or known.embed_id == NO_EMBEDDER else known.model

    def sources(self) -> list[Source]:
        """List its files by path, those that could not be read among them."""
        return self._library.sources()

    def index(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        progress: Callable[[IndexProgress], None] | None = None,
    ) -> IndexReport:
        """Bring the library up to what files and folders are now; see `rag.indexing`.

        Raises:
            NotFoundError: there is no such file or folder, or no such embedder.
            UsageError: the library's vectors are of another embedder.
            FetchError: the default embedder could not be fetched.
        """
        from edgellm.rag.indexing import index_paths
        from edgellm.rag.store import EmbedderFacts

        if self._is_wordless():
            embedder = None
            facts = EmbedderFacts(NO_EMBEDDER, NO_EMBEDDER, NO_EMBEDDER, 0)
        else:
            embedder = self._load()
            facts = embedder.facts
        self._library.use_embedder(facts)
        places = [Path(path) for path in paths]
        return index_paths(self._library, places, embedder, progress=progress)

    def watch(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        progress: Callable[[IndexProgress], None] | None = None,
        stop: Callable[[], bool] = _never,
    ) -> Iterator[IndexReport]:
        """Index, and again whenever something changes there; a report each time.

        Raises:
            NotFoundError: the package watchfiles is missing; or as `index`.
        """
        from edgellm.rag.watch import changes

        places = [Path(path).expanduser() for path in paths]
        watched = changes(places, stop)  # a missing package is an error before the first is indexed
        yield self.index(places, progress=progress)
        for _ in watched:
            yield self.index([place for place in places if place.exists()], progress=progress)

    def search(
        self,
        question: str,
        *,
        count: int = 8,
        per_source: int | None = 3,
        filters: Filters | None = None,
        weight: float | None = None,
    ) -> Retrieval:
        """Find the chunks that answer a question best; see `rag.retrieve.retrieve`."""
        from edgellm.rag.retrieve import retrieve

        return retrieve(
            self._library,
            question,
            None if self._reference == NO_EMBEDDER else self._load,
            count=count,
            per_source=per_source,
            filters=filters,
            weight=weight,
        )

    def remove(self, paths: Sequence[str | os.PathLike[str]]) -> list[str]:
        """Remove files, or all below folders, from the library; gives their paths.

        The files themselves stay.

        Raises:
            NotFoundError: the library has nothing of that path.
        """
        numbers: dict[int, str] = {}
        for path in paths:
            place = Path(path).expanduser()
            found = self._library.sources(str(place.resolve())) or self._library.sources(
                str(place.absolute())
            )
            if not found:
                raise NotFoundError(
                    f"{self.path} has nothing of {place}", hint="see what it has: edgellm rag list"
                )
            numbers.update((source.id, source.path) for source in found)
        self._library.remove(list(numbers))
        return list(numbers.values())

    def verify(self, *, files: bool = True) -> list[Check]:
        """Check the library; nothing is changed."""
        from edgellm.rag.verify import verify_library

        return verify_library(self._library, files=files)

    def repair(self) -> None:
        """Make what is derived anew: the terms of words, and the index of vectors."""
        from edgellm.rag.index import index_path, open_index

        self._library.rebuild_terms()
        index_path(self.path).unlink(missing_ok=True)
        known = self._library.embedder
        if known is not None and known.dimension:
            with self._library.reading():
                open_index(self._library)

    def _is_wordless(self) -> bool:
        known = self._library.embedder
        if self._reference is not None:
            return self._reference == NO_EMBEDDER
        return known is not None and known.embed_id == NO_EMBEDDER

    def _load(self) -> PassageEmbedder:
        """Load the embedder that was asked for, or the library's, or the default one."""
        if self._embedder is not None:
            return self._embedder
        from edgellm.api.embed import load_embedder
        from edgellm.models.catalogue import DEFAULT_EMBEDDER
        from edgellm.models.resolve import resolve
        from edgellm.rag.embedder import PassageEmbedder
        from edgellm.rag.embedders import RECOMMENDED, hub_reference

        known = self._library.embedder
        reference = self._reference or (known.model if known else DEFAULT_EMBEDDER)
        name = hub_reference(reference)
        try:
            path = resolve(name)
        except NotFoundError as error:
            if name != DEFAULT_EMBEDDER:
                hint = error.hint
                if reference.casefold() in RECOMMENDED:
                    hint = f"edgellm pull {reference}"
                raise NotFoundError(
                    f"the embedder {reference} is not here: {error}", hint=hint
                ) from error
            from edgellm.api.models import pull

            path = pull(name, progress=self._fetched).path
        # a path is written down whole, so that it is found from another folder too
        if name == reference and Path(name).exists() and Path(name).is_file():
            reference = str(Path(name).resolve())
        if path.is_dir():
            path = self._converted(path, reference)
        self._model = load_embedder(path, threads=self._threads, cancelled=self._cancelled)
        self._embedder = PassageEmbedder(self._model, reference, self._cancelled)
        return self._embedder

    def _converted(self, folder: Path, reference: str) -> Path:
        """Make a GGUF file of a folder of Hugging Face, once, and keep it in the store."""
        from edgellm.api.convert import convert
        from edgellm.models import store

        target = store.models_dir() / f"{reference.rstrip('/').rpartition('/')[2]}{store.SUFFIX}"
        if not target.exists():
            told = self._fetched
            target.parent.mkdir(parents=True, exist_ok=True)
            convert(
                folder,
                target,
                dtype="f16",
                progress=lambda done, total: told and told(f"converting {reference}", done, total),
            )
        return target
