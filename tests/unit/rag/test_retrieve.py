"""Fusion, the cap of a file, and what is refused; words and vectors are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import UsageError
from edgellm.rag.embedders import RECOMMENDED, hub_reference, prompts_of
from edgellm.rag.retrieve import retrieve
from edgellm.rag.store import Library
from library import FACTS, document, unit_vectors


class Given:
    """An embedder whose question's vector is given."""

    facts = FACTS

    def __init__(self, vector: np.ndarray) -> None:
        self.vector = vector.astype(np.float32)

    def knows(self, _text: str) -> bool:
        return True

    def embed_query(self, _text: str) -> np.ndarray:
        return self.vector


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path / "l.db", write=True) as library:
        library.use_embedder(FACTS)
        vectors = unit_vectors(30, 1)
        for number in range(10):
            texts = [f"common word{3 * number + each}" for each in range(3)]
            document(library, f"/{number}.txt", texts, vectors[3 * number : 3 * number + 3])
        yield library


def test_scores_are_the_weighted_sum_of_both_sides(library: Library) -> None:
    query = unit_vectors(30, 1)[17]
    found = retrieve(library, "word4", lambda: Given(query), count=30, per_source=None)
    products = unit_vectors(30, 1).astype(np.float32) @ query.astype(np.float32)
    scaled = (products - products.min()) / (products.max() - products.min())
    want = 0.5 * scaled
    want[4] += 0.5
    assert [hit.chunk - 1 for hit in found.hits] == np.argsort(-want, kind="stable").tolist()
    for hit in found.hits:
        assert hit.score == pytest.approx(want[hit.chunk - 1], abs=1e-5)
        assert hit.dense == pytest.approx(products[hit.chunk - 1], abs=1e-5)
        assert (hit.lexical is not None) == (hit.chunk == 5)
    assert [hit.rank for hit in found.hits] == list(range(1, 31))


def test_a_side_alone(library: Library) -> None:
    query = unit_vectors(30, 1)[17]
    words = retrieve(library, "word4", lambda: Given(query), weight=0)
    assert [hit.text for hit in words.hits] == ["common word4"]
    meanings = retrieve(library, "word4", lambda: Given(query), weight=1, count=1)
    assert [hit.text for hit in meanings.hits] == ["common word17"]
    assert retrieve(library, "word4", None).hits == words.hits
    assert retrieve(library, "nothing", None).hits == []


def test_a_file_gives_no_more_than_its_cap(library: Library) -> None:
    query = unit_vectors(30, 1)[17]
    for embedder in (None, lambda: Given(query)):
        for cap in (1, 2):
            found = retrieve(library, "common", embedder, count=30, per_source=cap).hits
            paths = [hit.path for hit in found]
            assert len(paths) == 10 * cap
            assert all(paths.count(path) == cap for path in paths)


def test_one_file_that_matches_everywhere_leaves_room_for_words(library: Library) -> None:
    document(library, "/large.txt", ["common common common"] * 500)
    found = retrieve(library, "common", None, count=20, per_source=2).hits
    assert len(found) == 20
    assert sum(hit.path == "/large.txt" for hit in found) == 2


def test_the_place_of_a_hit(library: Library) -> None:
    (hit,) = retrieve(library, "word4", None).hits
    assert (hit.path, hit.page, hit.heading) == ("/1.txt", None, "")
    assert hit.end - hit.start == len(hit.text)


@pytest.mark.parametrize(
    ("question", "options"),
    [(" ", {}), ("x", {"count": 0}), ("x", {"per_source": 0}), ("x", {"weight": 2})],
)
def test_values_out_of_range(library: Library, question: str, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        retrieve(library, question, None, **options)


@pytest.mark.parametrize(
    "question", ['"', "AND OR NOT", "a* NEAR(b)", "-x:y", "\0", "؟", "x" * 9999]
)
def test_a_question_is_never_a_language(library: Library, question: str) -> None:
    assert isinstance(retrieve(library, question, None).hits, list)


def test_another_embedder_is_refused(library: Library) -> None:
    from dataclasses import replace

    other = Given(unit_vectors(1, 1)[0])
    other.facts = replace(FACTS, name="another", embed_id="1")
    with pytest.raises(UsageError, match="made-up, and another"):
        retrieve(library, "x", lambda: other)


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("multilingual-e5-small-Q8_0.gguf", "query: ", "passage: "),
        (
            "ggml-org/embeddinggemma-300M-GGUF",
            "task: search result | query: ",
            "title: none | text: ",
        ),
        ("bge-m3", "", ""),
        ("bge_small_en_v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("all-minilm-l6-v2", "", ""),
    ],
)
def test_prompts_are_those_of_the_models_pages(name: str, query: str, passage: str) -> None:
    prompts = prompts_of(name)
    assert (prompts.query, prompts.passage) == (query, passage)


def test_recommended_names_lead_to_the_hub() -> None:
    assert hub_reference("BGE-M3") == RECOMMENDED["bge-m3"]
    assert hub_reference("mine.gguf") == "mine.gguf"
