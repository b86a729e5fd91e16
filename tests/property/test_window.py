"""Conversations of any shape in windows of any size, with real llama.cpp behind them."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.api.chat import LoadedModel, load
from edgellm.errors import ContextOverflowError
from edgellm.generate.overflow import answer_reserve, first_words
from edgellm.generate.template import Message
from edgellm.generate.view import View, renderer
from edgellm.generate.window import ChatPrompt
from tinygguf import write_tiny

TEXT = st.text(alphabet="ab سلام\u200cی\n", max_size=60)
TURNS = st.lists(st.tuples(TEXT, TEXT), max_size=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny(path, endless="tuvwxyz", context=2048)
    with load(path, threads=1) as loaded:
        yield loaded


class Size:
    """A context of any size over one that is large enough: only prompts are looked at here."""

    def __init__(self, context, size):
        self._context, self.size = context, size

    def __getattr__(self, name):
        return getattr(self._context, name)


def prompt_of(model: LoadedModel, messages, size, policy, max_tokens=-1, keep=0) -> ChatPrompt:
    context = Size(model._contexts.open(2048), size)
    view = View.of(messages, keep=keep)
    return ChatPrompt(
        model._model, context, renderer(model._model, model.template), view,
        policy=policy, max_tokens=max_tokens,
    )  # fmt: skip


def rendered(messages) -> int:
    """Count a prompt of the tiny model's template by hand: a token for each byte and each sign."""
    text = "".join(f"<{m.role}\n{m.content}>\n" for m in messages) + "<assistant\n"
    return 1 + len(text.encode())


@settings(deadline=None, max_examples=60)
@given(
    turns=TURNS, question=TEXT.filter(bool), system=TEXT, size=st.integers(1, 700),
    max_tokens=st.integers(-1, 100), policy=st.sampled_from(["shift", "summarize"]),
)  # fmt: skip
def test_a_prompt_fits_and_its_report_adds_up(
    model, turns, question, system, size, max_tokens, policy
):
    lead = [Message("system", system)] if system else []
    said = [
        Message(role, text)
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    messages = [*lead, *said, Message("user", question)]
    prompt = prompt_of(model, messages, size, policy, max_tokens)
    reserve = answer_reserve(size, max_tokens)
    fixed = rendered([*lead, Message("user", question[-1:])])
    try:
        tokens = prompt.begin(threading.Event())
    except ContextOverflowError:
        assert prompt.changes == []
        assert fixed >= size
        return
    # Beside a long system prompt, the newest text and the answer share what is left.
    assert len(tokens) <= max(size - reserve, fixed + (size - fixed) // 2) < size
    used = rendered(messages)
    for change in prompt.changes:
        assert change.used_tokens == used
        assert (
            change.used_tokens - change.dropped_tokens + change.summary_tokens == change.left_tokens
        )
        assert (
            (change.summary is None) == (change.summary_tokens == 0) == (change.policy == "shift")
        )
        assert change.dropped_tokens > 0
        used = change.left_tokens
    assert len(tokens) == used
    # What is kept is an end of the conversation, and what is missing was reported.
    seen = prompt.view.messages
    assert seen[: len(lead)] == lead
    kept = [message for turn in prompt.view.turns for message in turn]
    gone = [turn for change in prompt.changes for turn in change.turns]
    assert [turn.number for turn in gone] == list(range(1, len(gone) + 1))
    assert [turn.words for turn in gone] == [first_words(text) for text, _ in turns[: len(gone)]]
    assert kept[:-1] == said[2 * len(gone) :]
    newest = kept[-1].content
    if newest != question:
        assert prompt.changes[-1].turns == ()
        if prompt.changes[-1].policy == "shift":
            assert question.endswith(newest)
            lost = len(question.encode()) - len(newest.encode())
            assert prompt.changes[-1].dropped_tokens == lost
    assert used == rendered(seen)
    if not prompt.changes:
        assert seen == messages


@settings(deadline=None, max_examples=30)
@given(
    document=st.text("ab ی\n", min_size=1, max_size=900),
    policy=st.sampled_from(["shift", "summarize"]),
)
def test_a_document_is_shortened_and_its_question_never(model, document, policy):
    asked = "what is it?\n\n"
    prompt = prompt_of(model, [Message("user", asked + document)], 400, policy, keep=len(asked))
    assert len(prompt.begin(threading.Event())) + 100 <= 400
    text = prompt.view.newest
    assert text.startswith(asked)
    assert prompt.changes or text == asked + document
    if prompt.changes and prompt.changes[0].policy == "shift":
        assert document.endswith(text[len(asked) :])
