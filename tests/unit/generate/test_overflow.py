"""Conversations longer than their window, on a tiny model whose greedy text is known."""

from __future__ import annotations

import itertools
import threading

import pytest

from edgellm.api.chat import load
from edgellm.backends.base import Sampling
from edgellm.errors import ContextOverflowError, TemplateError, UsageError
from edgellm.generate.engine import GenerateOptions
from edgellm.generate.overflow import first_words
from edgellm.generate.template import Message
from edgellm.generate.view import ENGLISH, is_persian
from tinygguf import write_tiny

GREEDY = Sampling(temperature=0)
OPENING = ENGLISH.opening
# Turns only, and in turns, as Gemma's.
STRICT = (
    "{% for m in messages %}"
    "{% if m.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
    "{{ raise_exception('only turns') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


@pytest.fixture
def open_model(tmp_path):
    models = []

    def open_model(size, **tiny):
        path = write_tiny(tmp_path / f"tiny{len(models)}.gguf", context=2048, **tiny)
        models.append(load(path, context=size, threads=1))
        return models[-1]

    yield open_model
    for model in models:
        model.close()


def talk(model, policy, max_tokens=10, **options):
    return model.conversation(
        options=GenerateOptions(GREEDY, max_tokens), on_overflow=policy, **options
    )


def around(letters, first, count):
    """Give so many letters of a round, from the one that follows `first`."""
    turn = itertools.cycle(letters)
    while next(turn) != first:
        pass
    return "".join(itertools.islice(turn, count))


def rendered(*messages):
    text = "".join(f"<{role}\n{content}>\n" for role, content in messages) + "<assistant\n"
    return 1 + len(text.encode())


def test_error_leaves_nothing_out(open_model):
    conversation = talk(open_model(128), "error")
    conversation.ask("a" * 50).read()
    said = [(m.role, m.content) for m in conversation.messages]
    count = rendered(*said, ("user", "b" * 50))
    with pytest.raises(ContextOverflowError, match=f"{count} tokens and the context holds 128"):
        conversation.ask("b" * 50)
    assert (len(conversation.messages), conversation.changes) == (2, [])


def test_shift_drops_the_oldest_turns_and_keeps_the_rest(open_model):
    told = []
    conversation = talk(open_model(200), "shift", on_change=told.append)
    questions = ["one " * 12, "two " * 12, "three " * 7]
    for question in questions:
        conversation.ask(question).read()
    turns = [(message.role, message.content) for message in conversation.messages]
    (change,) = conversation.changes
    assert told == [change] == list(conversation.last.context_changes)
    assert (change.policy, change.where, change.what, change.window) == (
        "shift", "before", "turns", 200,
    )  # fmt: skip
    assert [(turn.number, turn.words) for turn in change.turns] == [(1, first_words(questions[0]))]
    assert change.used_tokens == rendered(*turns[:5])
    assert change.left_tokens == conversation.last.prompt_tokens == rendered(*turns[2:5])
    assert change.dropped_tokens == rendered(*turns[:5]) - rendered(*turns[2:5])
    assert (conversation.forgotten, len(conversation.messages)) == (1, 6)


def test_summaries_stand_for_turns_and_are_folded_in_again(open_model):
    letters = "tuvwxyz"
    conversation = talk(open_model(800, answer="ok", endless=letters), "summarize")
    for number in range(14):
        conversation.ask(f"{number} " * 30).read()
    first, second = conversation.changes[:2]
    assert first.summary == f"{OPENING} {around(letters, 't', 100)}"  # an eighth of the window
    assert (first.policy, first.turns[0].number) == ("summarize", 1)
    assert second.turns[0].number == first.turns[-1].number + 1
    assert conversation.forgotten == conversation.changes[-1].turns[-1].number
    # What the second one dropped holds the first one's summary.
    kept = conversation.messages[2 * first.turns[-1].number : 2 * second.turns[-1].number]
    of_turns = sum(len(f"<{m.role}\n{m.content}>\n".encode()) for m in kept)
    assert second.dropped_tokens == of_turns + first.summary_tokens
    assert len(conversation.messages) == 28


@pytest.mark.parametrize("template", [STRICT, None])
def test_a_template_that_insists_on_turns_takes_the_summary(open_model, template):
    tiny = {"template": template} if template else {}
    model = open_model(800, answer="ok", endless="tuvwxyz", **tiny)
    conversation = talk(model, "summarize")
    for number in range(8):
        assert conversation.ask(f"{number} " * 50).read().finish_reason == "stop"
    assert conversation.summary
    assert all(change.failure is None for change in conversation.changes)


def test_a_summary_that_is_empty_is_told_and_turns_are_dropped(open_model):
    # The words that begin a summary end in t, and after t this model ends its text.
    conversation = talk(open_model(800, answer="ok but"), "summarize")
    for number in range(8):
        conversation.ask(f"{number} " * 50).read()
    change = conversation.changes[0]
    assert (change.policy, change.summary, change.summary_tokens) == ("shift", None, 0)
    assert change.failure == "the model gave no summary"
    assert change.left_tokens == change.used_tokens - change.dropped_tokens


def test_a_window_without_room_for_a_summary_drops(open_model):
    conversation = talk(open_model(160), "summarize")
    conversation.ask("a" * 60).read()
    conversation.ask("b" * 60).read()
    assert conversation.changes[0].failure == "no summary fits the window"


def test_an_answer_goes_on_when_older_turns_make_room(open_model):
    letters = "abcdefg"
    conversation = talk(open_model(128, answer=None), "shift", 30)
    conversation.ask("x").read()
    conversation.options = GenerateOptions(GREEDY, -1)
    result = conversation.ask("y").read()
    (change,) = result.context_changes
    # The window is full but for the token that was sampled last.
    assert (change.where, change.used_tokens, change.turns[0].number) == ("within", 127, 1)
    assert result.text == "a" + around(letters, "a", result.completion_tokens - 1)
    assert result.finish_reason == "context"
    assert result.completion_tokens == 128 - rendered(("user", "y"))


def test_an_answer_whose_older_turns_are_summarised_goes_on_as_well(open_model):
    letters = "tuvwxyz"
    model = open_model(800, answer=None, endless=letters)
    conversation = talk(model, "summarize", 250)
    conversation.ask("x").read()
    conversation.ask("y").read()
    conversation.options = GenerateOptions(GREEDY, 400)
    result = conversation.ask("z").read()
    assert {(c.policy, c.what) for c in result.context_changes} == {("summarize", "turns")}
    change = result.context_changes[-1]
    assert (change.where, change.used_tokens) == ("within", 799)
    assert change.used_tokens - change.dropped_tokens + change.summary_tokens == change.left_tokens
    assert result.text == "t" + around(letters, "t", 399)
    assert (result.finish_reason, result.completion_tokens) == ("length", 400)
    assert conversation.messages[-1].content == result.text


def test_an_answer_that_ends_with_the_window_ends(open_model):
    size = rendered(("user", "x")) + len("Hi")
    result = talk(open_model(size, answer="Hi"), "shift", -1).ask("x").read()
    assert (result.text, result.finish_reason) == ("Hi", "context")
    result = talk(open_model(size + 1, answer="Hi"), "error", -1).ask("x").read()
    assert (result.text, result.finish_reason) == ("Hi", "stop")


def test_a_question_that_is_too_long_loses_its_beginning(open_model):
    conversation = talk(open_model(200), "shift", 12, system="be kind")
    question = "دراز\u200cتر " * 30
    conversation.ask(question).read()
    (change,) = conversation.changes
    prompt = rendered(("system", "be kind"), ("user", question))
    assert (change.what, change.turns, change.used_tokens) == ("text", (), prompt)
    assert 170 < change.left_tokens <= 200 - 12
    lost = question.encode()[: change.dropped_tokens].decode()  # whole characters
    assert question[len(lost) - 1] == " "  # and whole words
    assert conversation.messages[0].content == question
    assert conversation.ask("so?").read().finish_reason == "stop"
    assert conversation.changes[-1].turns[0].number == 1


def test_a_document_is_summarised_in_pieces_and_its_question_stays(open_model):
    letters = "tuvwxyz"
    model = open_model(600, answer=None, endless=letters)
    told = []
    result = model.stream(
        "what is it?", document="word " * 400, on_overflow="summarize", on_change=told.append,
        max_tokens=5, sampling=GREEDY,
    ).read()  # fmt: skip
    (change,) = told
    assert (change.what, change.policy) == ("text", "summarize")
    # Notes of pieces, each an eighth of the window, were too many at first: notes of notes.
    assert set(change.summary.split("\n")) == {"t" + around(letters, "t", 74)}
    question = rendered(("user", "what is it?\n\n" + change.summary))
    assert result.prompt_tokens == change.left_tokens == question
    assert change.dropped_tokens == len("word " * 400)
    assert change.summary_tokens == len(change.summary)


def test_lines_around_a_long_text_stay_when_it_is_summarised(open_model):
    conversation = talk(open_model(600, answer=None, endless="tuvwxyz"), "summarize")
    first, last = "who is it?\n", "\nin a word"
    conversation.ask(first + "word " * 200 + "\n" + "word " * 200 + last + "\n").read()
    (change,) = conversation.changes
    seen = rendered(("user", first + change.summary + last))
    assert conversation.last.prompt_tokens == change.left_tokens == seen
    assert change.summary_tokens == len(change.summary)


@pytest.mark.parametrize("policy", ["error", "shift", "summarize"])
def test_a_system_prompt_that_fills_the_window_is_refused(open_model, policy):
    conversation = talk(open_model(100), policy, system="s" * 120)
    with pytest.raises(ContextOverflowError):
        conversation.ask("x").read()
    assert (conversation.messages, conversation.changes) == ([], [])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 24, 26])
@pytest.mark.parametrize("policy", ["error", "shift", "summarize"])
def test_windows_of_a_few_tokens_end(open_model, size, policy):
    conversation = talk(open_model(size, answer=None), policy, -1)
    try:
        for _ in range(3):
            assert conversation.ask("x").read().finish_reason == "context"
    except ContextOverflowError:
        assert size < 24 or policy == "error"


class After(threading.Event):
    """Is set when it has been asked so often."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def is_set(self):
        self.times -= 1
        return self.times < 0


@pytest.mark.parametrize("times", [0, 3, 40])
def test_ctrl_c_while_a_summary_is_made_leaves_the_conversation(open_model, times):
    conversation = talk(open_model(800, answer="ok", endless="tuvwxyz"), "summarize")
    for number in range(5):
        conversation.ask(f"{number} " * 50).read()
    before = (list(conversation.messages), conversation.summary, conversation.forgotten)
    assert conversation.changes == []
    result = conversation.ask("6 " * 100, cancel=After(times)).read()
    assert (result.text, result.finish_reason, result.context_changes) == ("", "cancelled", ())
    assert before == (conversation.messages, conversation.summary, conversation.forgotten)
    assert conversation.ask("6 " * 100).read().context_changes != ()


def test_a_template_that_writes_more_for_fewer_turns(open_model):
    template = (
        "{{ 'z' * (200 if messages|length < 6 else 0) }}"
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ '\n' }}"
    )
    model = open_model(180, template=template, answer="")
    messages = [Message("user", "q" * 20), Message("assistant", "a" * 20)] * 4
    messages.append(Message("user", "q" * 20))
    with pytest.raises(ContextOverflowError):
        model.stream(messages, on_overflow="shift").read()
    model = open_model(300, template=template, answer="")
    result = model.stream(messages, on_overflow="shift", max_tokens=10).read()
    assert result.prompt_tokens <= 290


def test_empty_answers_and_questions_are_turns(open_model):
    conversation = talk(open_model(100), "shift", 0)
    for _ in range(6):
        conversation.ask("").read()
    assert conversation.forgotten > 0
    assert conversation.last.prompt_tokens < 100


def test_messages_that_begin_with_an_answer_or_repeat_a_role(open_model):
    model = open_model(120)
    messages = [
        Message("assistant", "x" * 30),
        Message("user", "y" * 30),
        Message("user", "z" * 30),
    ]
    result = model.stream(messages, on_overflow="shift", max_tokens=20).read()
    assert [turn.number for turn in result.context_changes[0].turns] == [1]
    with pytest.raises(UsageError, match="no message"):
        model.stream([])


def test_a_text_without_turns_moves_on(open_model):
    model = open_model(32)
    result = model.complete("a", on_overflow="shift", max_tokens=200, sampling=GREEDY).read()
    assert result.text == around("abcdefg", "a", 200)
    assert result.finish_reason == "length"
    assert {(c.where, c.used_tokens, c.left_tokens) for c in result.context_changes} == {
        ("within", 31, 16)
    }
    result = model.complete(
        "x" * 50 + "a", on_overflow="shift", sampling=GREEDY, max_tokens=4
    ).read()
    assert (result.text, result.prompt_tokens) == ("bcde", 28)
    assert result.context_changes[0].dropped_tokens == 52 - 28
    with pytest.raises(UsageError, match="cannot be summarised"):
        model.complete("a", on_overflow="summarize")
    with pytest.raises(UsageError, match="no policy is called 'squeeze'"):
        model.complete("a", on_overflow="squeeze")


def test_a_model_without_turns_is_not_asked_for_summaries(open_model):
    model = open_model(64, template=None)
    conversation = model.conversation()
    assert conversation.on_overflow == "error"
    with pytest.raises(UsageError):
        conversation.on_overflow = "summarize"
    with pytest.raises(UsageError):
        model.conversation(on_overflow="summarize")
    conversation = talk(model, "shift", 100)
    assert conversation.ask("a").read().completion_tokens == 100
    assert conversation.changes


def test_the_last_answer_again_after_turns_were_dropped(open_model):
    conversation = talk(open_model(200), "shift")
    for question in ("one " * 12, "two " * 12, "three " * 7):
        conversation.ask(question).read()
    conversation.regenerate().read()
    assert (len(conversation.messages), conversation.forgotten) == (6, 1)
    conversation.restore(conversation.messages[:2], None, 1)
    assert conversation.regenerate().read().text == conversation.messages[-1].content != ""


@pytest.mark.parametrize("template", [None, STRICT])
def test_the_use_of_the_window_adds_up(open_model, template):
    tiny = {"template": template} if template else {}
    model = open_model(800, answer="ok", endless="tuvwxyz", **tiny)
    conversation = talk(model, "summarize", system=None if template else "kind")
    assert conversation.usage().turns == ()
    for number in range(8):
        conversation.ask(f"{number} " * 50).read()
        use = conversation.usage()
        question = len("<user\nnext>\n")
        assert use.used + question == conversation.ask("next", cancel=After(0)).read().prompt_tokens
    assert [turn.number for turn in use.turns] == list(range(use.forgotten + 1, 9))
    assert use.turns[-1].tokens == len("<user\n>\n<assistant\nok>\n") + 100
    assert use.system == (1 if template else len("s<system\nkind>\n")) + len("<assistant\n")


def test_a_template_that_fails_is_told(open_model):
    model = open_model(800, template="{{ raise_exception('no') }}")
    with pytest.raises(TemplateError):
        talk(model, "shift").ask("x")


@pytest.mark.parametrize(
    ("text", "persian"),
    [
        ("سلام! گربه‌ها چه می‌خورند؟", True),
        ("مرحبا! ماذا تأكل القطط؟ أريد أن أعرف", False),
        ("بلیاں کیا کھاتی ہیں؟ مجھے بتائیں", False),
        ("What do cats eat? سلام", False),
        ("", False),
        ("123 ...", False),
    ],
)
def test_languages(text, persian):
    assert is_persian(text) is persian
