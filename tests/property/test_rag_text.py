"""Search keys, cleaning and chunks: what holds for any text."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.rag.chunk import chunks
from edgellm.rag.clean import clean
from edgellm.rag.document import Document, Heading, Page
from edgellm.rag.lexical import CREATE_TABLE, search
from edgellm.rag.normalise import ZWNJ, normalise, query_terms, search_terms

settings.register_profile("rag", deadline=None)
settings.load_profile("rag")

PERSIAN = "آابپتثجچحخدذرزژسشصضطظعغفقکگلمنوهی"
VARIANTS = ["ي ك ى ة أ إ ٱ ؤ ئ", "ی ک ی ه ا ا ا و ی"]
AWKWARD = st.text(
    st.one_of(
        st.sampled_from(PERSIAN + "يكىةۀأإٱؤئ ‌‍ـًٌَّْٰٓٔ‏‮⁦۱٢3ﻻﷲ.\n\r\t"),
        st.characters(exclude_categories=[]),
    ),
    max_size=60,
)
WORDS = st.lists(st.text(st.sampled_from(PERSIAN), min_size=1, max_size=6), min_size=1, max_size=8)


@given(AWKWARD)
def test_a_key_of_a_key_is_the_key(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(AWKWARD)
def test_terms_of_terms_are_the_terms(text: str) -> None:
    assert search_terms(search_terms(text)) == search_terms(text)


@given(WORDS, st.randoms(use_true_random=False))
def test_keyboards_do_not_change_the_key(words: list[str], random) -> None:
    text = " ".join(words)
    pairs = dict(zip(VARIANTS[1].split(), VARIANTS[0].split(), strict=True))
    typed = "".join(
        (pairs.get(letter, letter) if random.random() < 0.5 else letter)
        + random.choice(["", "", "ـ", "َ", "ّ", "‏"])
        for letter in text
    )
    assert normalise(typed) == normalise(text)


@given(WORDS)
def test_a_half_space_is_found_by_parts_and_joined(words: list[str]) -> None:
    terms = set(query_terms(ZWNJ.join(words)))
    assert set(query_terms(" ".join(words))) <= terms
    assert set(query_terms("".join(words))) <= terms


@given(AWKWARD)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not set(cleaned) & set("\r\0\u200b\u200e\u200f\u202e\u2066\u2069\ufeff\U000e0041")
    cleaned.encode()


@given(AWKWARD, st.integers(1, 30), st.integers(0, 10), st.randoms(use_true_random=False))
def test_a_chunk_is_its_span(text: str, size: int, overlap: int, random) -> None:
    text = text * random.choice([1, 3, 40])
    starts = sorted(random.sample(range(len(text) + 1), min(3, len(text))))
    headings = tuple(Heading(start, random.randint(1, 3), f"h{start}") for start in starts)
    document = Document("t", "text", (Page(1, text, headings), Page(2, text)))
    found = list(chunks(document, len, size=size, overlap=min(overlap, size - 1)))
    covered: dict[int, set[int]] = {1: set(), 2: set()}
    for number, chunk in enumerate(found):
        assert chunk.ord == number
        assert chunk.page is not None
        assert chunk.text == text[chunk.char_start : chunk.char_end]
        assert chunk.text.strip() == chunk.text != ""
        assert len(chunk.text) <= size
        above = [h for h in headings if chunk.page == 1 and h.start <= chunk.char_start]
        assert chunk.heading.endswith(above[-1].title if above else "")
        covered[chunk.page] |= set(range(chunk.char_start, chunk.char_end))
    for page in covered.values():  # nothing but white space is lost
        assert not any(letter.strip() for at, letter in enumerate(text) if at not in page)


@pytest.fixture(scope="module")
def library() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(CREATE_TABLE)
    connection.execute("INSERT INTO fts(rowid, norm_tokens) VALUES (1, 'salam donya')")
    return connection


@given(question=st.one_of(AWKWARD, st.text('"()*:^-+ ANDORTNE', max_size=20)))
def test_no_question_is_read_as_a_query_language(library, question: str) -> None:
    search(library, question, 5)
