"""How models write their calls: a table of families, found by what a chat template says.

A model was trained to write calls in one form, and its template shows the signs of it. The forms
are those of the models' own cards and templates: Hermes (NousResearch), Qwen, Mistral, Llama 3,
Granite, Phi-4, DeepSeek, Command R, LFM2. A template that takes `tools` and shows no sign that the
table knows has a model that writes a JSON object alone.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from edgellm.generate.template import ToolCall
from edgellm.generate.tools import Tool

__all__ = ["FAMILIES", "Family", "ParsedCalls", "call_schema", "find_family", "parse_calls"]

Form = Literal["object", "list", "named", "xml", "python"]
MAX_CALLS = 8  # of one answer


@dataclass(frozen=True, slots=True)
class Family:
    """How one family writes calls.

    Attributes:
        name: what it is called here.
        signs: the texts that its templates have, all of them.
        begin: what stands before a call; empty where the answer is the call.
        end: what stands behind it; empty where the answer ends there.
        form: "object" and "list": JSON; "named": the name, and JSON behind it; "xml": elements of
            `function=` and `parameter=`; "python": calls of Python.
        gap: what stands between `begin` and the call.
        name_key: the key of the tool's name in the JSON.
        arguments_key: the key of its arguments.
        result_signs: what the template writes around results, which must be no result's own.
    """

    name: str
    signs: tuple[str, ...]
    begin: str
    end: str
    form: Form = "object"
    gap: str = ""
    name_key: str = "name"
    arguments_key: str = "arguments"
    result_signs: tuple[str, ...] = ()


HERMES_SIGNS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# The first row whose signs are all there.
FAMILIES = (
    Family("qwen3-coder", ("<tool_call>", "<function=", "<parameter="), "<tool_call>",
           "</tool_call>", "xml", result_signs=HERMES_SIGNS),
    Family("hermes", ("<tool_call>",), "<tool_call>", "</tool_call>", gap="\n",
           result_signs=HERMES_SIGNS),
    Family("mistral-named", ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]", "", "named",
           result_signs=("[TOOL_RESULTS]", "[/TOOL_RESULTS]")),
    Family("mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS]", "", "list",
           result_signs=("[TOOL_RESULTS]", "[/TOOL_RESULTS]")),
    Family("phi-4", ("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>", "<|/tool_call|>", "list"),
    Family("granite", ("<|tool_call|>",), "<|tool_call|>", "", "list"),
    Family("deepseek", ("<｜tool▁calls▁begin｜>",), "<｜tool▁calls▁begin｜>",
           "<｜tool▁calls▁end｜>", "named"),
    Family("command-r", ("<|START_ACTION|>",), "<|START_ACTION|>", "<|END_ACTION|>", "list",
           name_key="tool_name", arguments_key="parameters"),
    # Its templates write the list of tools between signs, and not all of them write calls.
    Family("lfm2", ("<|tool_list_start|>",), "<|tool_call_start|>", "<|tool_call_end|>", "python"),
    Family("llama-3", ("<|python_tag|>",), "", "", arguments_key="parameters"),
    Family("llama-3", ('"parameters": dictionary of argument name',), "", "",
           arguments_key="parameters"),
    Family("json", (), "", ""),
)  # fmt: skip


def find_family(source: str | None) -> Family | None:
    """Give the family of a chat template; None where it takes no tools."""
    if source is None or not re.search(r"\b(?:xml_)?tools\b", source):
        return None
    return next(row for row in FAMILIES if all(sign in source for sign in row.signs))


def call_schema(family: Family, tools: Mapping[str, Tool]) -> dict[str, Any]:
    """Give the JSON schema of what stands between `begin` and `end`, of the forms that are JSON."""
    calls = [
        {
            "type": "object",
            "properties": {
                family.name_key: {"const": tool.name},
                family.arguments_key: dict(tool.parameters),
            },
            "required": [family.name_key, family.arguments_key],
            "additionalProperties": False,
        }
        for tool in tools.values()
    ]
    call: dict[str, Any] = {"anyOf": calls} if len(calls) > 1 else calls[0]
    if family.form == "list":
        return {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS}
    return call


class ParsedCalls(NamedTuple):
    """What was read of a model's calls.

    Attributes:
        calls: the calls.
        problem: why a part of it is none; empty if all is read.
    """

    calls: tuple[ToolCall, ...]
    problem: str = ""


def parse_calls(family: Family, body: str, tools: Mapping[str, Tool]) -> ParsedCalls:
    """Read what a model wrote behind `begin`, to the end of its answer.

    The text is a stranger's: whatever it is, calls or a problem come back.
    """
    calls: list[ToolCall] = []
    problem = ""
    parts = body.split(family.begin) if family.begin else [body]
    for part in parts:
        part = part.split(family.end)[0] if family.end else part
        if not part.strip():
            continue
        try:
            calls += READERS[family.form](family, part.strip(), tools)
        except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
            problem = f"the call {part.strip()[:200]!r} cannot be read: {_why(error)}"
    return ParsedCalls(tuple(calls[:MAX_CALLS]), problem or ("" if calls else "there is no call"))


def _why(error: BaseException) -> str:
    return f"{error}".splitlines()[0][:200] if f"{error}" else type(error).__name__


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)


def _objects(family: Family, text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:  # noqa: ARG001
    """Read JSON objects, or lists of them, one behind the other; `;` may stand between."""
    calls = []
    while text:
        value, end = DECODER.raw_decode(text)
        text = text[end:].lstrip(" \t\r\n;,")
        calls += [_call(family, item) for item in (value if isinstance(value, list) else [value])]
    return calls


def _call(family: Family, item: Any) -> ToolCall:
    if not isinstance(item, dict):
        raise ValueError("it is no JSON object")
    inner = item.get("function")
    if isinstance(inner, dict):  # OpenAI's own shape
        item = inner
    name = item.get(family.name_key, item.get("name"))
    for key in (family.arguments_key, "arguments", "parameters"):
        if key in item:
            return _made(name, item[key])
    raise ValueError(f"it has no {family.arguments_key!r}")


def _made(name: Any, arguments: Any) -> ToolCall:
    if not isinstance(name, str) or not name:
        raise ValueError("it names no tool")
    if isinstance(arguments, str):
        arguments = DECODER.decode(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("its arguments are no JSON object")
    return ToolCall(name, arguments)


_SEPARATORS = re.compile(
    r"\[CALL_ID\][A-Za-z0-9]*|\[ARGS\]|<｜tool▁(?:call▁begin|call▁end|sep)｜>|```(?:json)?"
)
_NAME_BEFORE = re.compile(r"(?:^|(?<=[\s}]))(?:function\s+)?([\w.-]+)\s*(?={)")


def _named(family: Family, text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:  # noqa: ARG001
    """Read names with a JSON object behind each."""
    text = _SEPARATORS.sub(" ", text).strip()
    calls = []
    while text:
        found = _NAME_BEFORE.match(text)
        if found is None:
            raise ValueError("no name with a JSON object stands there")
        value, end = DECODER.raw_decode(text, found.end())
        calls.append(_made(found[1], value))
        text = text[end:].strip()
    return calls


_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _xml(family: Family, text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:  # noqa: ARG001
    """Read Qwen3-Coder's elements; a value is a text where the schema says so, and JSON else."""
    calls = []
    for name, body in _FUNCTION.findall(text):
        tool = tools.get(name)
        properties = tool.parameters.get("properties", {}) if tool else {}
        arguments: dict[str, Any] = {}
        for key, value in _PARAMETER.findall(body):
            is_text = properties.get(key, {}).get("type") == "string"
            try:
                arguments[key] = value if is_text else DECODER.decode(value)
            except ValueError:
                arguments[key] = value
        calls.append(ToolCall(name, arguments))
    if not calls:
        raise ValueError("no <function=...> stands there")
    return calls


def _python(family: Family, text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:
    """Read a list of Python's calls with literals as arguments, or of JSON objects."""
    if text.lstrip("[ \t\r\n").startswith("{"):
        return _objects(family, text, tools)
    tree = ast.parse(text, mode="eval").body
    calls = []
    for node in tree.elts if isinstance(tree, ast.List) else [tree]:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise ValueError("it is no call with named arguments")
        arguments = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError("it is no call with named arguments")
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        # What JSON cannot hold (a set, bytes, an ellipsis) is no argument.
        calls.append(ToolCall(node.func.id, json.loads(json.dumps(arguments, allow_nan=False))))
    return calls


READERS = {
    "object": _objects,
    "list": _objects,
    "named": _named,
    "xml": _xml,
    "python": _python,
}


def as_calls(calls: Sequence[ToolCall], first: int) -> list[ToolCall]:
    """Give calls their ids: nine letters and digits each, as Mistral's templates insist."""
    return [
        ToolCall(call.name, call.arguments, f"call{number:05d}")
        for number, call in enumerate(calls, first)
    ]
