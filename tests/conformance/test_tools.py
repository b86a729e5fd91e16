"""Tools on every backend: any model calls rightly under the schema, and any tool is survived."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import tinygguf
from edgellm.api.agent import TextDelta, Thought, ToolResult
from edgellm.api.chat import LoadedModel, load
from edgellm.backends.base import Sampling
from edgellm.errors import UsageError
from edgellm.generate.template import ToolCall
from edgellm.generate.toolfile import ToolFile
from edgellm.generate.tools import Outcome, Tool

# What the template says of tools and results is what tells the model's family.
HERMES = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "tools_data"
TOOLS = """
import os, time
from typing import Literal

def zero(way: Literal["up", "down"], sure: bool) -> str: return f"{way} {sure} <|im_end|>"
"""
ALONE = {
    "raises": ("def raises() -> str: raise ValueError('<|im_start|>no')", "ValueError: <|im_st"),
    "hangs": ("def hangs() -> str: time.sleep(1000)", "was stopped"),
    "floods": ("def floods() -> str: return 'x' * 10_000_000", "[cut: 40 of 10,000,000"),
    "dies": ("def dies() -> str: os._exit(1)", "without a result"),
    "binary": ("def binary() -> bytes: return b'x'", "JSON cannot hold"),
}


@pytest.fixture(scope="module")
def model(subject, tmp_path_factory):
    # Behind a new line it likes "A" best, so that it acts as long as it may.
    folder = tmp_path_factory.mktemp("tools")
    path = subject.tiny(folder, answer="A", template=HERMES, context=4096)
    with load(path, backend=subject.name, threads=subject.options.threads) as model:
        yield model


def offered(tmp_path, text: str, **limits) -> ToolFile:
    path = tmp_path / "tools.py"
    path.write_text(f"import os, time\n{text}\n", encoding="utf-8")
    return ToolFile(path, **limits)


@pytest.mark.parametrize("style", ["react", "template"])
def test_the_calls_of_any_model_keep_to_the_schema(model, tmp_path, style):
    box = offered(tmp_path, TOOLS)
    run = model.run_tools("سلام", box, style=style, choice="required", max_steps=1, max_tokens=8)
    events = list(run)
    call = next(event for event in events if isinstance(event, ToolCall))
    assert call.name == "zero"
    assert call.arguments["way"] in ("up", "down")
    assert isinstance(call.arguments["sure"], bool)
    result = run.result
    assert [r.ok for r in result.results] == [True]
    assert result.results[0].text.endswith("<|im_end|>")  # a text, and no end
    assert (result.style, result.steps, result.steps_used_up) == (style, 2, True)
    assert result.text == "".join(e.text for e in events if isinstance(e, TextDelta))
    assert any(isinstance(event, Thought) for event in events) is (style == "react")
    assert result.reused_tokens > 100  # the opening is evaluated once


@pytest.mark.parametrize("style", ["react", "template"])
@pytest.mark.parametrize("name", ALONE)
def test_any_tool_is_survived(model, tmp_path, style, name):
    text, said = ALONE[name]
    box = offered(tmp_path, text, timeout=1.0, max_output=40)
    run = model.run_tools("q", box, style=style, choice="required", max_steps=1, max_tokens=8)
    result = run.read()
    assert result.finish_reason in ("stop", "length")
    assert [call.call.name for call in result.results] == [name]
    assert said in result.results[0].text
    assert result.results[0].ok is (name == "floods")


def test_a_long_result_leaves_room_in_the_context(model, tmp_path):
    box = offered(tmp_path, "def much() -> str: return 'م' * 900_000", max_output=1_000_000)
    run = model.run_tools("q", box, style="react", choice="required", max_steps=1, max_tokens=8)
    result = run.read().results[0]
    assert result.cut
    assert len(model.tokenize(result.text)) < model.context_limit // 3


class Wrong:
    """Tools whose schema does not say what they take."""

    def __init__(self) -> None:
        self.tools = {"add": Tool("add", "", {"type": "object", "properties": {}})}

    def run(self, call, cancelled) -> Outcome:
        return Outcome("ran")


def test_a_refused_call_is_said_and_the_run_goes_on(model):
    asked = []

    def approve(call):
        asked.append(call.name)
        return False

    run = model.run_tools(
        "q", Wrong(), style="react", choice="required", max_steps=2, max_tokens=4, approve=approve
    )
    results = run.read().results
    assert asked == ["add"] * len(results)
    assert {result.text for result in results} == {"add was not run: the person refused this call"}
    assert not any(result.ran for result in results)


def test_cancelling_ends_a_tool_too(model, tmp_path):
    box = offered(tmp_path, ALONE["hangs"][0])
    cancel = threading.Event()
    run = model.run_tools("q", box, style="react", choice="required", cancel=cancel)
    for event in run:
        if isinstance(event, ToolCall):
            threading.Timer(0.3, cancel.set).start()
        assert not isinstance(event, ToolResult)
    assert run.result.finish_reason == "cancelled"
    assert model.chat("q", max_tokens=4).text  # the model can go on


def test_functions_of_the_program_are_called_in_it(model):
    seen = []

    def note() -> str:
        """Note."""
        seen.append(threading.get_ident())
        return "noted"

    result = model.run_tools("q", [note], choice="required", max_steps=1, max_tokens=4).read()
    assert seen == [threading.get_ident()]
    assert result.style == "template"
    assert [message.role for message in result.messages] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert result.messages[1].tool_calls[0].id == result.messages[2].tool_call_id


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"style": "other"}, "no style of calls"),
        ({"choice": "other"}, "no choice of tools"),
        ({"choice": "required", "constrain": False}, "not constrained"),
        ({"tools": []}, "0 tools"),
        ({"prompt": []}, "no message"),
    ],
)
def test_wrong_use_is_refused(model: LoadedModel, how, said):
    def note() -> str:
        return ""

    given = {"prompt": "q", "tools": [note]} | how
    with pytest.raises(UsageError, match=said):
        model.run_tools(given.pop("prompt"), given.pop("tools"), **given)


def test_a_template_without_tools_has_react(subject, tmp_path):
    path = subject.tiny(tmp_path, answer="A", context=4096)

    def note() -> str:
        return "x"

    with load(path, backend=subject.name, threads=subject.options.threads) as model:
        with pytest.raises(UsageError, match="takes no tools"):
            model.run_tools("q", [note], style="template")
        run = model.run_tools("q", [note], choice="required", max_steps=1, max_tokens=4)
        assert run.read().style == "react"


@pytest.mark.parametrize("constrain", [True, False])
@pytest.mark.parametrize("more", [True, False])
def test_a_sign_that_is_a_control_token_is_found(subject, tmp_path, monkeypatch, constrain, more):
    """Such a token has no text: here the model writes it and then, perhaps, an `x`."""
    sign = "[TOOL_CALLS]"
    special = list(tinygguf.SPECIAL)
    special[tinygguf.EOS] = sign
    chains = {"CALL": [tinygguf.EOS] + [tinygguf.byte_token(ord("x"))] * more}
    plain = tinygguf.chain_of
    monkeypatch.setattr(tinygguf, "SPECIAL", tuple(special))
    monkeypatch.setattr(tinygguf, "chain_of", lambda text: chains.get(text) or plain(text))
    path = subject.tiny(tmp_path, answer="CALL", template=HERMES.replace("<tool_call>", sign),
                        context=4096)  # fmt: skip

    def note() -> str:
        return "noted"

    with load(path, backend=subject.name, threads=subject.options.threads) as model:
        (token,) = model.tokenize(sign, special=True, ends=False)
        if model.model.control_text(token) is None:
            pytest.skip("this vocabulary has it as a plain token")
        run = model.run_tools("q", [note], constrain=constrain, max_steps=1, max_tokens=8)
        events = list(run)
    results = run.result.results
    assert not any(isinstance(e, TextDelta) for e in events[: events.index(results[0])])
    if constrain:
        assert results[0].text == "noted"
    else:
        assert "cannot be read" in results[0].text or "no call" in results[0].text


@pytest.mark.model
@pytest.mark.parametrize("style", ["react", "template"])
def test_the_default_model_calls_by_itself(smollm2, style):
    """Nothing forces it: the sign of a call is its own."""
    template = (DATA / "hermes.jinja").read_text(encoding="utf-8")
    with load(smollm2, chat_template=template, context=4096, threads=1) as model:
        run = model.run_tools(
            "What is 37 times 41?",
            ToolFile(DATA / "tools.py"),
            style=style,
            sampling=Sampling(temperature=0),
            max_tokens=40,
        )
        result = run.read()
    assert [(each.call.name, each.text) for each in result.results] == [("calculate", "1517")]
    assert "1517" in result.text
    assert "tool_call" not in result.text
