"""Texts become chunks: balanced, complete, repeatable, and with the start token in its place."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.backends.base import LoadOptions, get_backend
from edgellm.errors import TemplateError, UsageError
from edgellm.evaluate.texts import Text
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.template import ChatTemplate, Message
from edgellm.quantization import calibration
from edgellm.quantization.calibration import calibration_texts, model_chunks, token_chunks
from tinygguf import BOS, END, START, TEMPLATE, write_tiny


def tokenize(text: str) -> list[int]:
    return [ord(character) for character in text]


def chat(messages) -> list[int]:
    return [BOS, *(t for m in messages for t in (-1, *tokenize(m.content), -2))]


@st.composite
def corpora(draw):
    """Texts of which every character occurs once, so that a token names its place."""
    sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=5))
    first, texts = 0x4E00, []
    for index, size in enumerate(sizes):
        content = "".join(chr(first + i) for i in range(size))
        texts.append(Text(f"t{index}", "und", content=content))
        first += size
    return texts


@settings(deadline=None)
@given(corpora(), st.integers(2, 9), st.sampled_from([None, 1]), st.integers(0, 3))
def test_chunks_are_whole_distinct_and_in_turn(texts, length, start, seed):
    body = length - (start is not None)
    whole = {text.name: len(text.content) // body for text in texts}
    if not any(whole.values()):
        with pytest.raises(UsageError, match=f"no chunk of {length} tokens"):
            token_chunks(texts, tokenize, None, length=length, start=start, seed=seed)
        return
    found = token_chunks(texts, tokenize, None, length=length, start=start, seed=seed)
    assert all(len(chunk) == length for chunk in found.chunks)
    assert Counter(found.sources) == Counter({k: v for k, v in whole.items() if v})
    contents = {text.name: text.content for text in texts}
    told = []
    for chunk, source in zip(found.chunks, found.sources, strict=True):
        if start is not None:
            assert chunk[0] == start
            chunk = chunk[1:]
        assert "".join(map(chr, chunk)) in contents[source]
        told += chunk
    assert len(set(told)) == len(told)
    given_ = Counter()
    for source in found.sources:
        given_[source] += 1
        going = [given_[name] for name in whole if given_[name] < whole[name]]
        assert not going or max(given_.values()) - min(going) <= 1


@settings(deadline=None)
@given(corpora(), st.integers(1, 200), st.integers(0, 3))
def test_fewer_tokens_are_a_prefix(texts, tokens, seed):
    if not any(len(text.content) >= 4 for text in texts):
        return
    everything = token_chunks(texts, tokenize, None, length=4, seed=seed)
    some = token_chunks(texts, tokenize, None, length=4, tokens=tokens, seed=seed)
    assert some.chunks == everything.chunks[: max(1, tokens // 4)]
    assert some.tokens == 4 * len(some.chunks)
    assert some == token_chunks(texts, tokenize, None, length=4, tokens=tokens, seed=seed)


def test_the_seed_changes_the_order():
    texts = [Text(str(i), "und", content=chr(0x4E00 + i) * 8) for i in range(6)]
    one, other = (token_chunks(texts, tokenize, None, length=4, seed=seed) for seed in (0, 1))
    assert one.chunks != other.chunks
    assert sorted(one.chunks) == sorted(other.chunks)
    assert one.sha256 != other.sha256


def test_the_hash_is_of_the_tokens():
    found = token_chunks([Text("a", "und", content="abcd")], tokenize, None, length=3, start=7)
    data = b"".join(n.to_bytes(4, "little") for n in (3, 7, 97, 98, 3, 7, 99, 100))
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_a_long_text_is_read_in_spans_as_far_as_needed(monkeypatch):
    monkeypatch.setattr(calibration, "SPAN", 10)
    content = "abcdef\nghi\n" + "k" * 25
    asked = []

    def counted(text):
        asked.append(text)
        return tokenize(text)

    found = token_chunks([Text("a", "und", content=content)], counted, None, length=4)
    assert sorted(asked) == sorted(["abcdef\n", "ghi\n", "k" * 10, "k" * 10, "k" * 5])
    assert len(found.chunks) == len(content) // 4
    asked.clear()
    token_chunks([Text("a", "und", content=content * 9)], counted, None, length=4, tokens=4)
    assert len(asked) <= 1 + 1


def test_conversations_run_on_without_their_start_tokens():
    turns = (Message("user", "ab"), Message("assistant", "c"))
    text = Text("talk", "und", conversations=(turns, turns))
    found = token_chunks([text], tokenize, chat, length=8, start=BOS)
    one = [-1, 97, 98, -2, -1, 99, -2]
    assert found.chunks == ((BOS, *one), (BOS, *one))
    assert token_chunks([text], tokenize, chat, length=16).chunks == ((BOS, *one) * 2,)
    plain = token_chunks([text], tokenize, None, length=14).chunks
    assert plain == (tuple(map(ord, "ab\n\nc\n\nab\n\nc\n\n")),)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length": 1, "start": 1}, "a chunk has 1 tokens, and must have 2 to"),
        ({"length": 0}, "a chunk has 0 tokens, and must have 1 to"),
        ({"length": 2**21}, "a chunk has 2097152 tokens"),
        ({"tokens": 0}, "0 calibration tokens are wanted"),
    ],
)
def test_values_out_of_range(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        token_chunks([Text("a", "und", content="abc")], tokenize, None, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    model = get_backend("llama_cpp").load(path, LoadOptions(threads=1), lambda: False)
    yield model
    model.close()


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


def test_control_texts_in_a_text_are_text(model):
    texts = [Text("a", "und", content="<|im_start|><|im_end|>" * 9)]
    found = model_chunks(texts, model, None, length=16)
    assert not {START, END} & {token for chunk in found.chunks for token in chunk}
    talk = (Message("user", "<|im_end|>" * 9), Message("assistant", "no"))
    spoken = Text("t", "und", conversations=(talk,) * 8)
    found = model_chunks([spoken], model, ChatTemplate(TEMPLATE), length=32)
    tokens = [token for chunk in found.chunks for token in chunk]
    one = chat_tokens(model, ChatTemplate(TEMPLATE), talk, generation_prompt=False)[1:]
    assert one.count(START) == one.count(END) == 2
    assert [token for token in tokens if token != BOS] == (one * 8)[: len(found.chunks) * 31]


def test_a_template_without_system_gets_it_in_the_first_question(model):
    template = ChatTemplate(NO_SYSTEM + TEMPLATE)
    talk = (Message("system", "be"), Message("user", "hi"), Message("assistant", "no"))
    joined = (Message("user", "be\n\nhi"), talk[2])
    one, other = (
        model_chunks([Text("t", "und", conversations=(c,))], model, template, length=20)
        for c in (talk, joined)
    )
    assert one == other
    with pytest.raises(TemplateError, match="no system"):
        model_chunks([Text("t", "und", conversations=(talk[:1],))], model, template)


def test_the_shipped_texts_become_chunks_of_a_real_tokenizer(model):
    found = model_chunks(calibration_texts(), model, ChatTemplate(TEMPLATE), length=256)
    assert {chunk[0] for chunk in found.chunks} == {BOS}
    assert set(found.sources) == {text.name for text in calibration_texts()}
