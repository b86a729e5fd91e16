"""Thoughts of a model, parted from its answer and kept between two lengths, on every backend.

Each byte is a token of the tiny model, and a text is what follows from a byte to the next one.
"""

from __future__ import annotations

import pytest

import edgellm
from edgellm.backends.base import CancelledError, Sampling
from edgellm.errors import BackendError, UsageError
from edgellm.generate.constraint import Regex, compile_constraint
from edgellm.generate.reasoning import find_family
from edgellm.generate.thoughts import ENOUGH
from tinygguf import PERSIAN, TEMPLATE, byte_token

GREEDY = Sampling(temperature=0)
OPENING = TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
CLOSE = "</think>\n\n"
ENDING = ENOUGH["en"] + CLOSE


def never() -> bool:
    return False


def tokens_of(text: str) -> list[int]:
    return [byte_token(value) for value in text.encode()]


@pytest.fixture
def thinker(subject, tmp_path):
    """Give a model of that answer, whose template begins a thought."""
    opened = []

    def thinker(answer, template: str = OPENING, context: int = 512):
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        path = subject.tiny(folder, answer=answer, template=template, context=context)
        threads = None if subject.folders else 1
        opened.append(edgellm.load(path, threads=threads, backend=subject.name))
        return opened[-1]

    yield thinker
    for loaded in opened:
        loaded.close()


def test_tokens_that_are_put_stand_in_place_of_what_was_sampled(model, context):
    context.prefill(tokens_of("a"), GREEDY, never)
    assert context.next_piece() == b"b"
    assert context.sampled == byte_token(ord("b"))
    context.put(tokens_of("xyc"), never)
    assert list(context.held) == tokens_of("axyc")
    assert context.sampled is None
    assert [context.next_piece() for _ in range(2)] == [b"d", b"e"]
    assert list(context.held) == tokens_of("axycd")
    context.put(tokens_of("f"), never)
    context.put(tokens_of("a"), never)
    assert context.next_piece() == b"b"
    assert list(context.held) == tokens_of("axycdfa")


def test_tokens_that_are_put_are_seen_by_penalties(context):
    strong = Sampling(temperature=0, presence_penalty=100)
    context.prefill(tokens_of("a"), strong, never)
    assert context.next_piece() == b"b"
    context.put(tokens_of("dc"), never)  # d follows c, but stands there already
    assert context.next_piece() not in (b"b", b"d", b"c")


def test_tokens_that_are_put_are_taken_by_the_constraint(model, context):
    context.prefill(tokens_of("a"), GREEDY, never)
    context.constrain(compile_constraint(model, Regex("b(cz|xc)d")))
    assert context.next_piece() == b"b"
    context.put(tokens_of("bx"), never)
    assert [context.next_piece() for _ in range(3)] == [b"c", b"d", None]
    context.prefill(tokens_of("a"), GREEDY, never)
    context.constrain(compile_constraint(model, Regex("bcd")))
    with pytest.raises(UsageError, match="cannot go on"):
        context.put(tokens_of("x"), never)


def test_tokens_that_cannot_be_put(context):
    context.prefill(tokens_of("a"), GREEDY, never)
    for tokens in ([], tokens_of("b") * 64):
        with pytest.raises(BackendError, match="cannot be put"):
            context.put(tokens, never)
    with pytest.raises(CancelledError):
        context.put(tokens_of("bc"), lambda: True)
    context.prefill(tokens_of("a"), GREEDY, never)
    assert context.next_piece() == b"b"


def test_a_long_text_is_put(model):
    context = model.open_context(2000)
    context.prefill(tokens_of("a"), GREEDY, never)
    context.put(tokens_of("xy" * 700 + "a"), never)
    assert [context.next_piece() for _ in range(2)] == [b"b", b"c"]
    context.close()


def test_a_thought_that_the_model_does_not_close_is_closed(thinker):
    loaded = thinker("Hi " + PERSIAN)
    generation = loaded.stream("x", sampling=GREEDY)
    deltas = list(generation.deltas())
    text = "Hi " + PERSIAN
    for kind in ("thinking", "answer"):
        assert "".join(d.text for d in deltas if d.kind == kind).strip() == text
    result = generation.result
    assert (result.thinking, result.text, result.finish_reason) == (text, text, "stop")
    assert result.thinking_tokens == len((text + CLOSE).encode())
    assert result.completion_tokens == len((text + CLOSE + text).encode())
    assert list(result.tokens) == tokens_of(text)
    assert "".join(loaded.stream("x", sampling=GREEDY)) == text


def test_a_thought_that_the_model_closes(thinker):
    template = TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
    result = thinker("ab</think>", template).chat("x", sampling=GREEDY)
    assert (result.thinking, result.text) == ("ab", "")
    assert result.thinking_tokens == result.completion_tokens == len("ab</think>")


@pytest.mark.parametrize("budget", [0, 3, 11, 30, 60, 61, 200])
def test_a_budget_is_kept(thinker, budget):
    result = thinker(None).chat("x", sampling=GREEDY, think_budget=budget, max_tokens=budget + 40)
    whole = len(ENDING.encode()) <= budget
    ending = ENDING if whole else CLOSE
    thought = ("abcdefg" * 40)[: max(0, budget - len(ending.encode()))]
    assert result.thinking == (thought + ending.removesuffix(CLOSE)).strip()
    assert result.thinking_tokens == max(budget, len(CLOSE))
    assert result.text == ("abcdefg" * 40)[: budget + 40 - result.thinking_tokens]
    assert result.finish_reason == "length"


@pytest.mark.parametrize("least", [1, 7, 20, 100])
@pytest.mark.parametrize("answer", ["Bit", "a</think>"], ids=["ends", "closes"])
def test_a_minimum_is_reached(thinker, answer, least):
    loaded = thinker(answer)
    result = loaded.chat("x", sampling=GREEDY, think_min=least, max_tokens=least + 50)
    assert least <= result.thinking_tokens <= least + len("\nWait</think>\n\n")
    assert result.thinking.count("Wait") >= (least > len("a</think>"))
    assert "</think" not in result.thinking
    # What gave way is not in the context: it holds the very text of the thought.
    held = bytes(
        token - byte_token(0) for token in loaded.held_tokens if token >= byte_token(0)
    ).decode()
    assert f"<think>\n{result.thinking}</think>" in held


@pytest.mark.parametrize("answer", ["Bit", "a</think>"], ids=["ends", "closes"])
@pytest.mark.parametrize("budget", [12, 70, 71, 72, 73, 74, 75, 100])
def test_a_minimum_as_high_as_the_budget(thinker, answer, budget):
    loaded = thinker(answer)
    result = loaded.chat(
        "x", sampling=GREEDY, think_budget=budget, think_min=budget, max_tokens=budget + 20
    )
    assert result.thinking_tokens == budget


def test_a_character_that_the_budget_cuts_is_dropped(thinker):
    budget = len(ENDING.encode()) + 1  # the first byte of two
    result = thinker("مس").chat("x", sampling=GREEDY, think_budget=budget)
    assert result.thinking == ENOUGH["en"].strip()
    assert result.text == "مس"


def test_a_persian_thought_is_ended_in_persian(thinker):
    # One letter of the alphabet that Arabic has not.
    ending = ENOUGH["fa"] + CLOSE
    budget = len(ending.encode()) + 2
    result = thinker("پ").chat("x", sampling=GREEDY, think_budget=budget, think_min=budget - 1)
    assert result.thinking.startswith("پ\nصبر کن") or result.thinking.endswith(ENOUGH["fa"].strip())
    assert budget - 1 <= result.thinking_tokens <= budget


def test_an_answer_has_its_form_and_a_thought_has_none(thinker):
    loaded = thinker("Hi " + PERSIAN)
    result = loaded.chat("x", sampling=GREEDY, constraint=Regex("[0-9]{4}"))
    assert result.thinking == "Hi " + PERSIAN
    assert len(result.text) == 4
    assert result.text.isdigit()
    assert result.complete
    closing = thinker("ab</think>").chat("x", sampling=GREEDY, constraint=Regex("[0-9]{4}"))
    assert closing.thinking == "ab"
    assert len(closing.text) == 4
    assert closing.complete


def test_without_thinking_there_is_none(thinker):
    loaded = thinker("Hi " + PERSIAN)
    result = loaded.chat("x", sampling=GREEDY, think="off")
    assert (result.text, result.thinking, result.thinking_tokens) == ("Hi " + PERSIAN, "", 0)
    formed = loaded.chat("x", sampling=GREEDY, think="off", constraint=Regex("[0-9]"))
    assert formed.complete


def test_stop_strings_are_of_the_answer(thinker):
    result = thinker("Hi " + PERSIAN).chat("x", sampling=GREEDY, stop=[" "])
    assert (result.thinking, result.text, result.finish_reason) == ("Hi " + PERSIAN, "Hi", "stop")


def test_a_limit_within_a_thought_leaves_no_answer(thinker):
    result = thinker(None).chat("x", sampling=GREEDY, max_tokens=5)
    assert (result.thinking, result.text, result.finish_reason) == ("abcde", "", "length")
    assert result.thinking_tokens == result.completion_tokens == 5


def test_a_model_that_does_not_think_says_so(subject, tmp_path):
    with edgellm.load(subject.tiny(tmp_path), backend=subject.name) as loaded:
        for fields in ({"think": "on"}, {"think_budget": 5}, {"think_min": 5}):
            with pytest.raises(UsageError, match="no thinking"):
                loaded.stream("x", **fields)
            with pytest.raises(UsageError, match="no thinking"):
                loaded.complete("x", **fields)
        assert loaded.chat("x", think="off", sampling=GREEDY).text == "Hi " + PERSIAN


def test_turns_reuse_what_was_answered(thinker):
    loaded = thinker("Hi " + PERSIAN)
    conversation = loaded.conversation()
    conversation.options = edgellm.GenerateOptions.of(sampling=GREEDY)
    conversation.ask("x").read()
    assert conversation.messages[-1].content == "Hi " + PERSIAN
    assert conversation.messages[-1].thinking == "Hi " + PERSIAN
    second = conversation.ask("y").read()
    # The template leaves thoughts out: the same prompt as of a conversation that had none.
    plain = thinker("Hi " + PERSIAN).conversation()
    plain.options = conversation.options
    plain.restore(conversation.messages[:2], None, 0)
    assert plain.ask("y").read().prompt_tokens == second.prompt_tokens
    assert second.text == "Hi " + PERSIAN
    again = conversation.regenerate().read()
    assert (again.text, len(conversation.messages)) == (second.text, 4)


def test_a_stopped_thought_leaves_the_conversation_as_it_was(thinker):
    conversation = thinker(None).conversation()
    generation = conversation.ask("x")
    for delta in generation.deltas():
        assert delta.kind == "thinking"
        generation.cancel.set()
    assert generation.result.finish_reason == "cancelled"
    assert generation.result.text == ""
    assert conversation.messages == []


def test_a_full_window_within_a_thought(thinker):
    conversation = thinker(None, context=128).conversation(on_overflow="shift")
    conversation.options = edgellm.GenerateOptions.of(sampling=GREEDY, max_tokens=20)
    conversation.ask("one").read()
    conversation.options = edgellm.GenerateOptions.of(
        sampling=GREEDY, think_budget=75, max_tokens=80
    )
    result = conversation.ask("two").read()
    assert result.context_changes
    assert result.thinking_tokens == 75
    assert result.text == "abcde"


def test_the_family_is_found_by_the_template(model):
    assert find_family(TEMPLATE, model) is None
    assert find_family(None, model) is None
    assert find_family(OPENING, model).name == "think"
