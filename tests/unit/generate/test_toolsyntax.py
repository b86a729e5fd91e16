"""Calls are read as each family writes them, and from a stranger's text comes no surprise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.generate.template import ToolCall
from edgellm.generate.tools import FunctionTools
from edgellm.generate.toolsyntax import FAMILIES, call_schema, find_family, parse_calls


def find(word: str, most: int = 3) -> str:
    """Find a word."""
    return word


def stop() -> None:
    """Stop."""


TOOLS = FunctionTools([find, stop]).tools
ONE = ToolCall("find", {"word": "سلام", "most": 2})
TWO = ToolCall("stop", {})
ARGUMENTS = '{"word": "سلام", "most": 2}'
JSON = '{"name": "find", "arguments": ' + ARGUMENTS + "}"
STOP = '{"name": "stop", "arguments": {}}'

# What each family's templates hold, and how its models write two calls behind the first sign.
WRITTEN = [
    ("hermes", "{% if tools %}<tool_call>{% endif %}",
     f"\n{JSON}\n</tool_call>\n<tool_call>\n{STOP}\n</tool_call>"),
    ("hermes", "{% set xml_tools = 1 %}<tool_call>", f"{JSON}</tool_call><tool_call>{STOP}"),
    ("qwen3-coder", "tools <tool_call> <function=example> <parameter=p>",
     "\n<function=find>\n<parameter=word>\nسلام\n</parameter>\n<parameter=most>\n2\n</parameter>\n"
     "</function>\n</tool_call>\n<tool_call>\n<function=stop>\n</function>\n</tool_call>"),
    ("mistral", "tools [TOOL_CALLS]", f"[{JSON}, {STOP}]"),
    ("mistral-named", "tools [TOOL_CALLS] [ARGS]",
     f"find[CALL_ID]abcdefghi[ARGS]{ARGUMENTS}[TOOL_CALLS]stop[ARGS]{{}}"),
    ("mistral-named", "tools [TOOL_CALLS] [ARGS]", f"find{ARGUMENTS}stop{{}}"),
    ("phi-4", "tools <|tool_call|><|/tool_call|>", f"[{JSON}, {STOP}]<|/tool_call|>"),
    ("granite", "tools <|tool_call|>", f"[{JSON}, {STOP}]"),
    ("deepseek", "tools <｜tool▁calls▁begin｜>",
     f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>"
     "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ("command-r", "tools <|START_ACTION|>",
     '[{"tool_call_id": "0", "tool_name": "find", "parameters": ' + ARGUMENTS
     + '}, {"tool_call_id": "1", "tool_name": "stop", "parameters": {}}]<|END_ACTION|>'),
    ("lfm2", "tools <|tool_list_start|>", '[find(word="سلام", most=2), stop()]<|tool_call_end|>'),
    ("lfm2", "tools <|tool_list_start|>", f"[{JSON}, {STOP}]<|tool_call_end|>"),
    ("llama-3", "tools <|python_tag|>",
     '{"name": "find", "parameters": ' + ARGUMENTS + '}; {"name": "stop", "parameters": {}}'),
    ("json", "tools", '{"function": {"name": "find", "arguments": ' + ARGUMENTS + "}}\n" + STOP),
]  # fmt: skip


@pytest.mark.parametrize(("name", "template", "body"), WRITTEN)
def test_calls_are_read_as_the_family_writes_them(name, template, body):
    family = find_family(template)
    assert family is not None
    assert family.name == name
    assert parse_calls(family, body, TOOLS) == ((ONE, TWO), "")


def test_a_template_without_tools_has_no_family():
    assert find_family(None) is None
    assert find_family("{{ messages }} toolset <tool_call>") is None
    assert {family.name for family in FAMILIES} == {name for name, _, _ in WRITTEN}


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("hermes", '{"name": "find", "arguments": {"word": "a"', "cannot be read"),
        ("hermes", '{"name": 1, "arguments": {}}', "it names no tool"),
        ("hermes", '{"name": "find"}', "it has no 'arguments'"),
        ("hermes", '{"name": "find", "arguments": [1]}', "no JSON object"),
        ("hermes", '{"name": "find", "arguments": {"most": NaN}}', "NaN is no JSON"),
        ("hermes", "[" * 100_000, "cannot be read"),
        ("hermes", "</tool_call>", "there is no call"),
        ("lfm2", "[find(*a)]", "no call with named arguments"),
        ("lfm2", "[find(word={1, 2})]", "cannot be read"),
        ("lfm2", "[__import__('os').system('true')]", "no call with named arguments"),
        ("lfm2", "[find(word=open('/etc/passwd'))]", "cannot be read"),
        ("qwen3-coder", "<function>", "no <function=...>"),
        ("deepseek", "find {", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(name, body, said):
    family = next(family for family in FAMILIES if family.name == name)
    parsed = parse_calls(family, body, TOOLS)
    assert not parsed.calls
    assert said in parsed.problem


def test_good_calls_survive_a_bad_one():
    family = find_family("tools <tool_call>")
    parsed = parse_calls(family, f"{STOP}</tool_call><tool_call>{{</tool_call>", TOOLS)
    assert parsed.calls == (TWO,)
    assert "cannot be read" in parsed.problem


PIECES = [
    "{", "}", "[", "]", '"name"', '"arguments"', ":", ",", '"find"', "1", "null", "\\u00", "\n",
    "<tool_call>", "</tool_call>", "<function=find>", "<parameter=word>", "</parameter>", "(", ")",
    "find", "word=", "'x'", "[TOOL_CALLS]", "[ARGS]", "<｜tool▁sep｜>", "م", ";", "lambda", "\x00",
]  # fmt: skip


@given(st.sampled_from(FAMILIES), st.lists(st.sampled_from(PIECES), max_size=14))
def test_any_text_gives_calls_or_a_problem(family, pieces):
    parsed = parse_calls(family, "".join(pieces), TOOLS)
    assert bool(parsed.calls) or bool(parsed.problem)
    for call in parsed.calls:
        assert isinstance(call.name, str)
        assert isinstance(call.arguments, dict)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.form in ("object", "list")])
def test_the_schema_of_a_call_takes_calls_alone(family):
    from jsonschema import Draft202012Validator

    schema = call_schema(family, TOOLS)
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)

    def written(name, arguments):
        call = {family.name_key: name, family.arguments_key: arguments}
        return [call] if family.form == "list" else call

    assert judge.is_valid(written("find", {"word": "a"}))
    assert judge.is_valid(written("stop", {}))
    assert not judge.is_valid(written("find", {}))
    assert not judge.is_valid(written("stop", {"word": "a"}))
    assert not judge.is_valid(written("other", {}))
