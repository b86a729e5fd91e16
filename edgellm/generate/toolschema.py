"""From a typed Python function to what a model is told of it, and from a model's arguments back.

This module knows the standard library alone: the process in which a person's tools run
(`toolchild.py`) loads it by its path. Schemas are the part of JSON Schema (2020-12) that the types
below need; https://json-schema.org/draft/2020-12/json-schema-validation gives the words' meaning.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["SchemaError", "converted", "describe", "problem"]

MAX_DEPTH = 8
MAX_DESCRIPTION = 2000  # characters
MAX_EXAMPLES = 20
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,63}")  # what OpenAI's service takes, less "-"
USABLE = (
    "str, int, float, bool, pathlib.Path, list[...], tuple[..., ...], dict[str, ...], Literal, an "
    "Enum, a TypedDict, unions of these, and Annotated[..., 'what it means', re.compile('form')]"
)
SIMPLE: dict[Any, str] = {
    str: "string", Path: "string", int: "integer", float: "number", bool: "boolean",
    type(None): "null", None: "null",
}  # fmt: skip
KINDS = {
    "string": "a text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "null": "null", "array": "a list", "object": "an object",
}  # fmt: skip
UNIONS = (typing.Union, types.UnionType)


class SchemaError(ValueError):
    """A function that cannot be offered to a model; the sentence names it and its parameter."""


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """Give a function as OpenAI's shape has it: `name`, `description` and `parameters`, a schema.

    The description is the docstring without its section of arguments (Google's or Sphinx's form),
    which stand with their parameters. `examples` are those of its section "Examples:", each of the
    lines Question, Thought (may be missing), Arguments (JSON), Result and Answer.

    Raises:
        SchemaError: a parameter has no usable type, or takes any number of arguments, or the
            arguments of an example are not such.
    """
    name = getattr(function, "__name__", "")
    if not NAME.fullmatch(name):
        raise SchemaError(f"{name or function!r} is no name for a tool: a function of its own is")
    text, sections = _sections(inspect.getdoc(function) or "")
    text, notes = _notes(text, sections)
    properties: dict[str, Any] = {}
    required = []
    hints = _hints(function, name)
    for parameter in inspect.signature(function).parameters.values():
        where = f"{name}: the parameter {parameter.name!r}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SchemaError(f"{where} cannot be given by its name")
        if parameter.name not in hints:
            raise SchemaError(f"{where} has no type; usable are {USABLE}")
        schema = _schema(hints[parameter.name], where, 0)
        if parameter.name in notes:
            schema.setdefault("description", notes[parameter.name])
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif isinstance(parameter.default, str | int | float | bool):
            schema["default"] = parameter.default
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required, **_CLOSED}
    examples = [_example(block, parameters, name) for block in _blocks(sections)]
    return {
        "name": name, "description": text, "parameters": parameters, "examples": examples
    }  # fmt: skip


_CLOSED = {"additionalProperties": False}


def problem(schema: Mapping[str, Any], value: Any, where: str = "") -> str | None:
    """Say what is wrong with a value under a schema of `describe`; None if nothing is."""
    wrong = f"the argument {where}" if where else "the call's arguments"
    if "anyOf" in schema:
        found = [problem(choice, value, where) for choice in schema["anyOf"]]
        return None if None in found else "; or ".join(text for text in found if text)
    if "enum" in schema:
        same = any(value == choice and type(value) is type(choice) for choice in schema["enum"])
        choices = ", ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
        return None if same else f"{wrong} must be one of {choices}, and is {_shown(value)}"
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        return f"{wrong} must be {KINDS[kind]}, and is {_shown(value)}"
    if kind == "string" and "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{wrong} must be of the form {schema['pattern'][4:-2]}, and is {_shown(value)}"
    if kind == "array":
        for index, item in enumerate(value):
            if text := problem(schema.get("items", {}), item, f"{where}[{index}]"):
                return text
    return _object_problem(schema, value, where) if kind == "object" else None


def _object_problem(schema: Mapping[str, Any], value: Any, where: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"the argument {_below(where, name)} is missing"
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        inner = properties.get(name, others)
        if inner is False:
            known = ", ".join(properties) or "none"
            return f"there is no argument {_below(where, name)[:100]}; there is: {known}"
        if isinstance(inner, Mapping) and (text := problem(inner, item, _below(where, name))):
            return text
    return None


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return kind == "number" or value == value // 1  # 2.0 is a whole number
    if kind == "null":
        return value is None
    return isinstance(value, {"string": str, "boolean": bool, "array": list, "object": dict}[kind])


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def converted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make the Python values of arguments that `problem` has found nothing wrong with."""
    hints = _hints(function, getattr(function, "__name__", ""))
    return {name: _value(hints[name], item) for name, item in arguments.items()}


def _value(hint: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _value(inner[0], value)
    if origin in UNIONS:
        for choice in inner:
            if problem(_schema(choice, "", 0), value) is None:
                return _value(choice, value)
    if origin is list:
        return [_value(inner[0], item) for item in value]
    if origin is tuple:
        return tuple(_value(inner[0], item) for item in value)
    if origin is dict:
        return {key: _value(inner[1], item) for key, item in value.items()}
    if typing.is_typeddict(hint):
        fields = typing.get_type_hints(hint)
        return {key: _value(fields[key], item) for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, enum.Enum | Path | int | float):
        return hint(value)
    return value


def _schema(hint: Any, where: str, depth: int) -> dict[str, Any]:
    """Give the schema of a type; `where` begins the sentence of an error."""
    if depth > MAX_DEPTH:
        raise SchemaError(f"{where} has a type that is nested more than {MAX_DEPTH} deep")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        schema = _schema(inner[0], where, depth + 1)
        for note in inner[1:]:
            if isinstance(note, str):
                schema["description"] = note[:MAX_DESCRIPTION]
            elif isinstance(note, re.Pattern) and schema.get("type") == "string":
                schema["pattern"] = f"^(?:{note.pattern})$"
        return schema
    if hint in SIMPLE:
        return {"type": SIMPLE[hint]}
    if origin in UNIONS:
        return {"anyOf": [_schema(choice, where, depth + 1) for choice in inner]}
    if origin is list or (origin is tuple and inner[1:] == (...,)):
        return {"type": "array", "items": _schema(inner[0], where, depth + 1)}
    if origin is dict and inner[0] is str:
        return {"type": "object", "additionalProperties": _schema(inner[1], where, depth + 1)}
    if origin is typing.Literal:
        return _choices(list(inner), where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choices([member.value for member in hint], where)
    if typing.is_typeddict(hint):
        fields = typing.get_type_hints(hint, include_extras=True)
        properties = {key: _schema(field, where, depth + 1) for key, field in fields.items()}
        required = [key for key in fields if _is_required(hint, key, fields[key])]
        return {"type": "object", "properties": properties, "required": required} | _CLOSED
    name = hint if isinstance(hint, str) else getattr(hint, "__name__", None) or repr(hint)
    raise SchemaError(f"{where} has the type {name}, which is not usable; usable are {USABLE}")


def _is_required(hint: Any, key: str, field: Any) -> bool:
    """Tell it from the field itself: annotations that are texts hide it from the class."""
    origin = typing.get_origin(field)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return key in hint.__required_keys__


def _choices(values: list[Any], where: str) -> dict[str, Any]:
    if not values or not all(value is None or type(value) in (str, int, bool) for value in values):
        raise SchemaError(f"{where} has choices that are not texts or whole numbers")
    kinds = {type(value) for value in values}
    return {"enum": values} | ({"type": SIMPLE[kinds.pop()]} if len(kinds) == 1 else {})


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise SchemaError(f"{name}: its types cannot be read ({error})") from error


_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Examples?|Returns?|Raises|Yields|Notes?):[ \t]*$", re.MULTILINE
)
_SPHINX = re.compile(r"^:param (?:\w+ )?(\w+):(.*(?:\n[ \t]+.*)*)\n?", re.MULTILINE)
_GOOGLE = re.compile(r"^(\w+)(?: \([^)]*\))?:(.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_PART = re.compile(r"^(Question|Thought|Arguments|Result|Answer): ?", re.MULTILINE)


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """Take a docstring apart: what comes first, and the sections by the first letter of each."""
    first, *rest = _SECTION.split(text)
    names, bodies = rest[::2], rest[1::2]
    found = {"E" if name.startswith("E") else name[0]: body
             for name, body in zip(names, bodies, strict=True)}  # fmt: skip
    return first, {key: inspect.cleandoc(body) for key, body in found.items()}


def _notes(text: str, sections: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Give what the function does, and what its parameters mean."""
    notes: dict[str, str] = dict(_SPHINX.findall(text))
    notes |= dict(_GOOGLE.findall(sections.get("A", sections.get("P", ""))))
    notes = {name: " ".join(note.split())[:MAX_DESCRIPTION] for name, note in notes.items()}
    return _SPHINX.sub("", text).strip()[:MAX_DESCRIPTION], notes


def _blocks(sections: Mapping[str, str]) -> list[dict[str, str]]:
    """Give the parts of each example by their names; other kinds of examples are none."""
    blocks: list[dict[str, str]] = []
    _, *rest = _PART.split(sections.get("E", ""))
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        if name == "Question":
            blocks.append({})
        if blocks:
            blocks[-1][name.lower()] = value.strip()
    return blocks[:MAX_EXAMPLES]


def _example(block: Mapping[str, str], parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    where = f"{name}: the example {block['question']!r}"
    missing = [part for part in ("arguments", "result", "answer") if not block.get(part)]
    if missing:
        raise SchemaError(f"{where} has no line {missing[0].capitalize()!r}")
    try:
        arguments = json.loads(block["arguments"])
    except ValueError as error:
        raise SchemaError(f"{where} has arguments that are no JSON ({error})") from error
    if wrong := problem(parameters, arguments):
        raise SchemaError(f"{where}: {wrong}")
    return {"thought": "", **block, "arguments": arguments}
