"""Drafts on every backend: whatever is guessed, the text is that of plain decoding."""

from __future__ import annotations

import random

import pytest

import tiny
from edgellm.api.chat import load
from edgellm.backends.base import Sampling
from edgellm.errors import UsageError
from edgellm.generate.constraint import Regex, compile_constraint
from edgellm.generate.drafts import Drafts
from tinygguf import PERSIAN, TEMPLATE, byte_token, write_tiny

GREEDY = Sampling(temperature=0)
HOT = Sampling(temperature=100, top_k=0, top_p=1, min_p=0, seed=3)
PENALIZED = Sampling(temperature=2, repeat_penalty=1.3, seed=4)


def never() -> bool:
    return False


class Guesser:
    """Guesses out of a text that is known, some tokens of it wrong."""

    def __init__(self, text: list[int], count: int, wrong: float = 0) -> None:
        self.text, self.count, self.wrong = text, count, wrong
        self.drafted = self.accepted = 0
        self.started: list[int] = []
        self._random = random.Random(1)

    def begin(self, tokens):
        self.started = list(tokens)

    def propose(self, held, sampled, limit):
        at = len(held) + 1 - len(self.started)
        assert sampled == self.text[at - 1]
        found = self.text[at : at + min(limit, self.count)]
        found = [7 if self._random.random() < self.wrong else token for token in found]
        self.drafted += len(found)
        return found

    def accept(self):
        self.accepted += 1


@pytest.fixture
def drafting(model):
    context = model.open_context(64, "f16", 8)
    yield context
    context.close()


def written(context, prompt, sampling, count, drafter=None) -> list[int]:
    context.prefill(prompt, sampling, never)
    if drafter is not None:
        context.speculate(drafter)
    found = []
    for _ in range(count):
        context.next_piece()
        # What is held is the text so far, whatever lies ahead in the cache.
        assert list(context.held) == [*prompt, *found]
        found.append(context.sampled)
    return found


@pytest.mark.parametrize("sampling", [GREEDY, HOT, PENALIZED])
@pytest.mark.parametrize("wrong", [0, 0.4, 1])
def test_the_text_is_that_of_plain_decoding(model, context, drafting, sampling, wrong):
    prompt = model.tokenize("a", special=False)
    plain = written(context, prompt, sampling, 40)
    guesser = Guesser(plain, 5, wrong)
    assert written(drafting, prompt, sampling, 40, guesser) == plain
    assert guesser.drafted > 0
    if wrong == 0:
        assert guesser.accepted >= 32  # of each six tokens one is evaluated
    if wrong == 1:
        assert guesser.accepted <= plain.count(7)


def test_a_draft_ends_where_the_context_does(model, context, drafting):
    prompt = model.tokenize("a" * 50, special=False)
    plain = written(context, prompt, GREEDY, 14)
    assert written(drafting, prompt, GREEDY, 14, Guesser([*plain, *[5] * 20], 8)) == plain
    assert len(drafting.held) == 63


def test_another_prompt_follows_in_the_middle_of_a_draft(model, context, drafting):
    first = model.tokenize("hello, a", special=False)
    plain = written(context, first, GREEDY, 20)
    guesser = Guesser(plain, 8)
    written(drafting, first, GREEDY, 4, guesser)
    assert guesser.accepted < guesser.drafted  # some lies ahead
    second = [*first, *plain[:3], byte_token(0x63)]
    assert drafting.prefill(second, GREEDY, never) == len(second) - 1
    again = [drafting.next_piece() for _ in range(8)]
    context.prefill(second, GREEDY, never)
    assert again == [context.next_piece() for _ in range(8)]


def test_a_state_is_saved_without_what_lies_ahead(model, drafting, tmp_path):
    prompt = model.tokenize("hello, a", special=False)
    plain = written(drafting, prompt, GREEDY, 20)
    written(drafting, prompt, GREEDY, 4, Guesser(plain, 8))
    drafting.save_state(tmp_path / "state")
    held = list(drafting.held)
    assert held == [*prompt, *plain[:3]]
    found = []
    for _ in range(6):  # and it goes on behind that
        found.append(drafting.sampled)
        drafting.next_piece()
    assert found == plain[3:9]
    other = model.open_context(64, "f16", 8)
    other.load_state(tmp_path / "state", held)
    assert other.prefill([*held, plain[3]], GREEDY, never) == len(held)
    other.next_piece()
    assert other.sampled == plain[4]
    other.close()


def test_a_constraint_holds_along_a_draft(model, context, drafting):
    """Each token of a draft is sampled under the mask: one that is not allowed is not kept."""
    prompt = model.tokenize("a", special=False)
    spec = Regex("[b-y]{3}z[a-g]{12}")
    texts = []
    for each, drafter in ((context, None), (drafting, Guesser([], 4, 0.3)), (drafting, Drafts())):
        each.prefill(prompt, GREEDY, never)
        each.constrain(compile_constraint(model, spec))
        if isinstance(drafter, Guesser):
            drafter.text = model.tokenize(texts[0].decode(), special=False)
        if drafter is not None:
            each.speculate(drafter)
        found = b""
        while (piece := each.next_piece()) is not None:
            found += piece
        texts.append(found)
        if drafter is not None:
            assert 0 < drafter.accepted < drafter.drafted
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 16


def test_a_state_that_cannot_be_cut_has_no_drafts(subject, tmp_path):
    path = subject.convert(tiny.MODELS["lfm2"](tmp_path / "lfm2"), tmp_path / "x")
    model = subject.load(path)
    context = model.open_context(64, "f16", 8)
    assert context.draft_limit == 0
    guesser = Guesser([], 8)
    assert len(written(context, [3, 4, 5], GREEDY, 6, guesser)) == 6
    assert guesser.drafted == 0
    model.close()
    with load(path, backend=subject.name, context=64) as loaded:
        assert loaded.complete("the", max_tokens=3).read().drafted_tokens == 0
        with pytest.raises(UsageError, match="cannot be cut back"):
            loaded.complete("the", max_tokens=3, speculate="ngram")


def test_an_answer_that_repeats_is_the_same_with_and_without(subject, tmp_path):
    path = subject.tiny(tmp_path, template=TEMPLATE)
    with load(path, backend=subject.name, context=64) as loaded:
        results = [
            loaded.complete("x", max_tokens=50, sampling=GREEDY, speculate=how).read()
            for how in ("off", "ngram")
        ]
        stopped = [
            loaded.complete("a", sampling=GREEDY, stop=["fgabcd"], speculate=how).read()
            for how in ("off", "ngram")
        ]
        shifted = [
            loaded.complete(
                "a", sampling=GREEDY, max_tokens=150, on_overflow="shift", speculate=how
            ).read()
            for how in ("off", "ngram")
        ]
    for plain, drafted in (results, stopped, shifted):
        assert plain.text == drafted.text
        assert plain.finish_reason == drafted.finish_reason
        assert plain.drafted_tokens == 0
    assert shifted[1].accepted_tokens > 75
    assert shifted[1].completion_tokens == 150


def test_a_draft_model_of_the_same_weights_is_always_right(subject, tmp_path):
    path = subject.tiny(tmp_path)
    with load(path, backend=subject.name, context=64) as loaded:
        plain = loaded.complete("x\n", sampling=GREEDY, speculate="off").read()
    with load(path, backend=subject.name, context=64, draft=path) as loaded:
        found = loaded.complete("x\n", sampling=GREEDY).read()
        assert found.text == plain.text == "Hi " + PERSIAN
        # One that costs as much as the model never pays, so that it is asked less and less.
        assert found.drafted_tokens == found.accepted_tokens >= 4
        assert loaded.complete("x\n", sampling=GREEDY, speculate="off").read().drafted_tokens == 0


def test_a_draft_model_of_another_vocabulary_is_refused(subject, tmp_path):
    path = subject.tiny(tmp_path)
    (tmp_path / "other").mkdir()
    other = write_tiny(tmp_path / "other" / "tiny.gguf")
    raw = other.read_bytes()
    assert raw.count(b"<|im_start|>") >= 1
    at = raw.index(b"<|im_start|>")
    other.write_bytes(raw[:at] + b"<|im_begin|>" + raw[at + 12 :])
    with pytest.raises(UsageError, match=r"cannot draft for .*: token \d+ is '<\|im_begin\|>'"):
        load(path, backend=subject.name, context=64, draft=other)
