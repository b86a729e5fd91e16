"""Texts under a constraint, the same on every backend."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from edgellm.api.chat import load
from edgellm.backends.base import Sampling
from edgellm.errors import UsageError
from edgellm.generate.constraint import Grammar, JsonSchema, Regex, compile_constraint
from edgellm.generate.engine import GenerateOptions
from tinygguf import END, PERSIAN, byte_token

GREEDY = Sampling(temperature=0)


def never() -> bool:
    return False


@pytest.fixture
def write(model, context):
    """Write behind a text under a constraint, and give the pieces, None for the end."""

    def write(spec, prompt: str = "a", sampling: Sampling = GREEDY, limit: int = 60):
        context.prefill(model.tokenize(prompt, special=False), sampling, never)
        context.constrain(compile_constraint(model, spec))
        found = []
        while len(found) < limit and (not found or found[-1] is not None):
            found.append(context.next_piece())
        return found

    return write


def test_the_likeliest_text_that_is_allowed_is_written(write):
    # Behind each of the letters a-g the next one is likeliest; of others all are alike.
    assert write(Regex("[b-z]{3}")) == [b"b", b"c", b"d", None]
    assert write(Regex("b(x|c)[0-9]")) == [b"b", b"c", b"0", None]


def test_the_end_is_allowed_only_where_the_text_is_whole(model, write):
    # After a newline the model writes its answer and ends there.
    answer = "Hi " + PERSIAN
    assert b"".join(write(Regex(".*"), "\n")[:-1]).decode() == answer
    longer = write(Regex(f".{{{len(answer) + 2}}}"), "\n")
    assert longer[-1] is None
    assert b"".join(longer[:-1]).decode().startswith(answer)
    constraint = compile_constraint(model, Regex("ab?"))
    assert not constraint.allows(END)
    constraint.take(byte_token(ord("a")))
    assert constraint.allows(END)
    assert not constraint.complete
    constraint.take(byte_token(ord("b")))
    assert constraint.complete


def test_letters_that_are_cut_into_bytes(write):
    assert b"".join(write(JsonSchema({"enum": ["تهران"]}))[:-1]).decode() == '"تهران"'
    assert b"".join(write(Grammar('root ::= "شیراز"'))[:-1]).decode() == "شیراز"


def test_control_tokens_are_no_text(model):
    mask = compile_constraint(model, Regex("(?s:.*)")).mask()
    allowed = set(np.flatnonzero(mask).tolist())
    assert {token for token in allowed if model.control_text(token) is not None} == {END, 2}
    assert mask.shape == (model.vocabulary_size,)


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_draw_has_the_distribution_under_the_mask(write, top_k):
    # b is likeliest behind a; the tiny model's logits of all others are alike.
    hot = Sampling(temperature=1e2, top_k=top_k, top_p=1, min_p=0)
    firsts = [
        write(Regex("[bxyz]."), sampling=dataclasses.replace(hot, seed=seed), limit=1)[0]
        for seed in range(300)
    ]
    kept = {b"b", b"x", b"y", b"z"} if top_k == 0 else set(firsts)
    assert len(kept) == (top_k or 4)
    for letter in kept:
        expected = 300 / len(kept)
        assert abs(firsts.count(letter) - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.5, typical_p=0.5),
        Sampling(temperature=1.5, mirostat=1),
        Sampling(temperature=1.5, mirostat=2),
        Sampling(temperature=1.5, xtc_probability=0.9, dry_multiplier=2, repeat_penalty=1.5),
        Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, top_n_sigma=1),
    ],
    ids=lambda sampling: next(
        name
        for name in ("typical_p", "mirostat", "xtc_probability", "top_n_sigma")
        if getattr(sampling, name) != getattr(Sampling(), name)
    ),
)
def test_every_sampler_stays_within_the_mask(write, sampling):
    for seed in range(8):
        found = write(Regex("[xyz]{20}é"), sampling=dataclasses.replace(sampling, seed=seed))
        text = b"".join(found[:-1]).decode()
        assert found[-1] is None
        assert re.fullmatch("[xyz]{20}é", text)


class Everything:
    """A constraint that excludes nothing."""

    complete = False

    def __init__(self, size: int) -> None:
        self.taken: list[int] = []
        self._size = size

    def mask(self):
        return np.ones(self._size, bool)

    def take(self, token: int) -> None:
        self.taken.append(token)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=2),
        Sampling(temperature=50, top_k=0, top_p=1, min_p=0),
        Sampling(temperature=3, repeat_penalty=1.3, dry_multiplier=1, typical_p=0.9),
        Sampling(temperature=3, mirostat=2),
    ],
)
def test_where_all_is_allowed_the_text_is_that_without_a_constraint(model, context, sampling):
    prompt = model.tokenize("hello a", special=False)
    for seed in range(5):
        seeded = dataclasses.replace(sampling, seed=seed)
        context.prefill(prompt, seeded, never)
        free = [context.next_piece() for _ in range(20)]
        context.prefill(prompt, seeded, never)
        everything = Everything(model.vocabulary_size)
        context.constrain(everything)
        assert [context.next_piece() for _ in range(20)] == free
        assert everything.taken == list(context.held[len(prompt) :])


def test_the_token_sampled_last_is_taken_when_the_next_one_is_asked_for(model, context):
    constraint = compile_constraint(model, Regex("bcd"))
    prompt = model.tokenize("a", special=False)
    context.prefill(prompt, GREEDY, never)
    context.constrain(constraint)
    assert context.next_piece() == b"b"
    assert constraint.allows(byte_token(ord("b")))
    # Another prompt in its place: what is sampled behind it is the constraint's next token.
    context.prefill(prompt, GREEDY, never)
    context.constrain(constraint)
    assert [context.next_piece() for _ in range(4)] == [b"b", b"c", b"d", None]


def test_a_constraint_begins_and_ends_in_the_middle_of_a_text(model, context):
    context.prefill(model.tokenize("a", special=False), GREEDY, never)
    assert context.next_piece() == b"b"
    context.constrain(compile_constraint(model, Regex("c[xy].")))
    assert [context.next_piece() for _ in range(2)] == [b"c", b"x"]
    context.constrain(None)
    context.prefill(model.tokenize("a", special=False), GREEDY, never)
    assert [context.next_piece() for _ in range(4)] == [b"b", b"c", b"d", b"e"]


def test_a_copy_goes_its_own_way(model):
    constraint = compile_constraint(model, Regex("a[bc]"))
    constraint.take(byte_token(ord("a")))
    copy = constraint.copy()
    copy.take(byte_token(ord("b")))
    assert copy.complete
    assert constraint.allows(byte_token(ord("c")))
    with pytest.raises(UsageError, match="cannot go on"):
        constraint.take(byte_token(ord("x")))


@pytest.fixture
def loaded(subject, path):
    with load(path, backend=subject.name, context=64) as loaded:
        yield loaded


def test_every_way_to_ask_keeps_the_form(loaded):
    spec, greedy = JsonSchema({"enum": ["تهران", "شیراز"]}), GenerateOptions(GREEDY)
    answers = {'"تهران"', '"شیراز"'}
    assert "".join(loaded.stream("x", options=greedy, constraint=spec)) in answers
    assert loaded.chat("x", options=greedy, constraint=spec).complete is True
    assert loaded.complete("a", options=greedy, constraint=spec).read().text in answers
    assert loaded.complete("a", options=greedy, max_tokens=3).read().complete is None
    cut = loaded.complete("a", options=greedy, constraint=spec, max_tokens=4).read()
    assert (cut.finish_reason, cut.complete) == ("length", False)
    assert cut.text[0] == '"'


def test_the_turns_of_a_conversation_begin_the_form_anew(loaded):
    talk = loaded.conversation(options=GenerateOptions(GREEDY, constraint=Regex("[xy]z")))
    first = talk.ask("a").read()
    assert (first.text, first.finish_reason, first.complete) == ("xz", "stop", True)
    second = talk.ask("b").read()
    assert (second.text, second.complete) == ("xz", True)
    # The answer's tokens are those of the next prompt, and are not evaluated again.
    assert second.reused_tokens >= first.prompt_tokens + first.completion_tokens - 1


def test_a_form_goes_on_where_the_window_is_moved(loaded):
    spec = Regex("([b-z]{9}é){12}")
    result = loaded.complete(
        "a", sampling=GREEDY, constraint=spec, on_overflow="shift", max_tokens=200
    ).read()
    assert result.context_changes
    assert result.finish_reason == "stop"
    assert re.fullmatch(spec.text, result.text)


@pytest.mark.parametrize("seed", range(4))
def test_what_has_to_follow_is_evaluated_together_and_nothing_changes(loaded, seed):
    names = {"first name": {"enum": ["تهران", "شیراز"]}, "the second": {"enum": [1, 22, 333]}}
    spec = JsonSchema(
        {
            "type": "object",
            "properties": names,
            "required": list(names),
            "additionalProperties": False,
        }
    )
    # So hot that the tiny model takes the choices that there are by chance.
    options = GenerateOptions(Sampling(temperature=50, min_p=0, seed=seed), constraint=spec)
    plain, drafted = (
        loaded.complete("a", options=options, speculate=how).read() for how in ("off", "ngram")
    )
    assert (plain.text, plain.complete) == (drafted.text, True)
    assert plain.accepted_tokens == plain.drafted_tokens == 0
    assert drafted.tokens == plain.tokens
    forced = len(b'{"first name": ", "the second": }') - 2
    assert forced <= drafted.accepted_tokens <= drafted.drafted_tokens
