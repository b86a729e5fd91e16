"""Several texts on one model."""

from __future__ import annotations

import pytest

import edgellm
from edgellm.backends.base import Sampling
from edgellm.errors import UsageError
from tinygguf import write_tiny

GREEDY = Sampling(temperature=0)


@pytest.fixture
def loaded(tmp_path):
    with edgellm.load(write_tiny(tmp_path / "tiny.gguf"), threads=1) as loaded:
        yield loaded


def test_a_text_whose_context_another_one_took_says_so(loaded):
    first = iter(loaded.complete("a", max_tokens=9, sampling=GREEDY))
    assert next(first) == "b"
    assert loaded.complete("c", max_tokens=2, sampling=GREEDY).read().text == "de"
    with pytest.raises(UsageError, match="another text was begun"):
        next(first)


def test_a_text_whose_context_made_way_for_a_larger_one_says_so(loaded):
    first = iter(loaded.complete("a", max_tokens=9, sampling=GREEDY))
    assert next(first) == "b"
    assert loaded.complete("x" * 300, max_tokens=1, sampling=GREEDY).read().completion_tokens == 1
    with pytest.raises(UsageError, match="closed"):
        next(first)


def test_a_closed_model_says_so(loaded):
    first = iter(loaded.complete("a", max_tokens=9, sampling=GREEDY))
    conversation = loaded.conversation()
    assert conversation.ask("x").read().finish_reason == "stop"
    loaded.close()
    for use in (lambda: next(first), lambda: loaded.stream("x"), lambda: conversation.ask("y")):
        with pytest.raises(UsageError, match="closed"):
            use()
