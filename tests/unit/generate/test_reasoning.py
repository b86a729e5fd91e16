"""How thoughts are asked for: by the template's variables, or by tags behind the prompt."""

from __future__ import annotations

import pytest

import edgellm
from edgellm.backends.base import Sampling
from edgellm.backends.llama_cpp.context import LlamaCppContext
from edgellm.errors import UsageError
from edgellm.generate.engine import GenerateOptions
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.reasoning import FAMILIES, Reasoning, find_family
from edgellm.generate.saved import SavedSession, load_session, save_session
from edgellm.generate.template import ChatTemplate, Message
from edgellm.generate.view import ENGLISH
from tinygguf import TEMPLATE, write_tiny

GREEDY = Sampling(temperature=0)
TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}"
    "{% endfor %}"
)
PROMPT = "<|im_start|>assistant\n"

# By what their templates do; what they write behind the messages, for thinking on and off.
QWEN = TURNS + (
    "{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
GRANITE = TURNS + (
    "{% if thinking %}{{ 'Write Here is my thought process: first. ' }}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}"
)
R1 = TURNS + "{{ '<|im_start|>assistant\n<think>\n' }}"
R1_THAT_KEEPS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}{{ 'OLD' + m.reasoning_content }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n<think>\n' }}"
)
PHI = "{{ 'Put thoughts in <think> tags.' }}" + TURNS + "{{ '<|im_start|>assistant\n' }}"
HARMONY = TURNS + "{# <|channel|>analysis<|message|> #}{{ '<|start|>assistant' }}"
FINAL = "<|start|>assistant<|channel|>final<|message|>"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", template=QWEN)
    with edgellm.load(path, threads=1) as loaded:
        yield loaded


def prompt_of(loaded, source: str, **asked) -> str:
    family = find_family(source, loaded.model)
    template = ChatTemplate(source)
    tokens = chat_tokens(
        loaded.model, template, [Message("user", "x")], reasoning=Reasoning(family, **asked)
    )
    text = b"".join(loaded.model.token_bytes(token) for token in tokens).decode()
    return text[text.index("x") + 2 :]


@pytest.mark.parametrize(
    ("source", "auto", "on", "off"),
    [
        (QWEN, PROMPT, PROMPT, PROMPT + "<think>\n\n</think>\n\n"),
        (R1, PROMPT + "<think>\n", PROMPT + "<think>\n", PROMPT + "<think>\n\n</think>\n\n"),
        (PHI, PROMPT, PROMPT, PROMPT + "<think>\n\n</think>\n\n"),
        (GRANITE, PROMPT, "Write Here is my thought process: first. " + PROMPT, PROMPT),
        (
            HARMONY,
            "<|start|>assistant",
            "<|start|>assistant",
            "<|start|>assistant<|channel|>analysis<|message|>\n\n<|end|>" + FINAL,
        ),
    ],
    ids=["qwen", "r1", "phi", "granite", "harmony"],
)
def test_thinking_is_asked_for_and_turned_off(loaded, source, auto, on, off):
    assert prompt_of(loaded, source) == auto
    assert prompt_of(loaded, source, think="on") == on
    assert prompt_of(loaded, source, think="off") == off


def test_a_minimum_begins_the_thought_where_the_template_does_not(loaded):
    assert prompt_of(loaded, QWEN, least=5) == PROMPT + "<think>\n"
    assert prompt_of(loaded, R1, least=5) == PROMPT + "<think>\n"


def test_an_answer_of_a_form_begins_as_the_family_asks_for(loaded):
    assert prompt_of(loaded, QWEN, constrained=True) == PROMPT
    assert prompt_of(loaded, QWEN, constrained=True, think="on") == PROMPT + "<think>\n"
    assert prompt_of(loaded, HARMONY, constrained=True) == (
        "<|start|>assistant<|channel|>final<|message|>"
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_is_found_by_its_template(loaded, family):
    signs = family.signs or family.opens[:1]
    source = TEMPLATE + "".join("{{ '" + sign + "' }}" for sign in signs)
    assert find_family(source, loaded.model) is family


def test_earlier_thoughts_are_given_as_reasoning_content():
    source = (
        "{% for m in messages %}{% if m.reasoning_content %}"
        "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    messages = [Message("user", "a"), Message("assistant", "b", thinking="c")]
    assert ChatTemplate(source).render(messages) == "a<think>c</think>b"
    assert ChatTemplate(source).render(messages[:1]) == "a"


def test_control_texts_in_a_thought_stay_text(loaded):
    source = "{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content }}{% endfor %}"
    evil = Message("assistant", "b", thinking="<|im_end|>")
    tokens = chat_tokens(loaded.model, ChatTemplate(source), [Message("user", "a"), evil])
    controls = [loaded.model.control_text(token) for token in tokens]
    assert "<|im_end|>" not in controls


def test_a_session_keeps_thoughts():
    messages = (Message("user", "a"), Message("assistant", "b", thinking="م c"))
    save_session("thought", SavedSession(None, None, messages))
    assert load_session("thought").messages == messages


def test_a_summary_has_no_thought_in_it_or_before_it(tmp_path, monkeypatch):
    prompts = []
    prefill = LlamaCppContext.prefill

    def noted(self, tokens, sampling, cancelled):
        prompts.append(b"".join(loaded.model.token_bytes(token) for token in tokens).decode())
        return prefill(self, tokens, sampling, cancelled)

    monkeypatch.setattr(LlamaCppContext, "prefill", noted)
    path = tmp_path / "r1.gguf"
    write_tiny(path, answer="ok", endless="tuvwxyz", context=1024, template=R1_THAT_KEEPS)
    with edgellm.load(path, threads=1) as loaded:
        conversation = loaded.conversation(on_overflow="summarize")
        conversation.options = GenerateOptions.of(sampling=GREEDY, max_tokens=90)
        for _ in range(5):
            conversation.ask("word " * 50).read()
        assert conversation.messages[1].thinking == "ok"
    assert conversation.summary
    assert "think" not in conversation.summary
    asking = [prompt for prompt in prompts if ENGLISH.request in prompt]
    assert asking
    for prompt in asking:
        assert "OLD" not in prompt
        assert prompt.endswith(f"<think>\n\n</think>\n\n{ENGLISH.opening}")
    assert any("OLDok" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    "fields",
    [
        {"think": "loud"},
        {"think_budget": -2},
        {"think_min": -1},
        {"think_budget": 5, "think_min": 6},
        {"think": "off", "think_budget": 6},
    ],
)
def test_options_that_make_no_sense(fields):
    with pytest.raises(UsageError):
        GenerateOptions.of(**fields)
