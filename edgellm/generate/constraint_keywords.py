"""The keywords of a JSON schema: which are known, and what each may hold."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from edgellm.errors import UsageError
from edgellm.generate.constraint_errors import expression_error

__all__ = [
    "FORMATS",
    "NAMED_SCHEMAS",
    "NEWEST",
    "ONE_SCHEMA",
    "SCHEMA_LISTS",
    "TYPES",
    "check_keyword",
    "escaped",
    "refuse",
    "short",
]

MAX_WIDTH = 1_000  # properties of one object, or alternatives: time grows with their square
MAX_LEAST = 100_000  # letters, items or properties that a text must have: no context holds more
MAX_NUMBER = 2**53  # beyond, whole numbers are exact neither in the engine nor in most readers

FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
)  # fmt: skip
TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")
NEWEST = 2020

# They say nothing about which texts are right; OpenAPI's discriminator only points out what the
# alternatives say themselves.
ANNOTATIONS = frozenset((
    "$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "title", "description",
    "default", "examples", "deprecated", "readOnly", "writeOnly", "contentEncoding",
    "contentMediaType", "contentSchema", "discriminator",
))  # fmt: skip
NUMBERS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
COUNTS = frozenset((
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
))  # fmt: skip
ONE_SCHEMA = frozenset(("items", "additionalItems", "additionalProperties"))
SCHEMA_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
NAMED_SCHEMAS = frozenset(("properties", "patternProperties"))
HINTS = {
    "nullable": 'give "null" among the types: {"type": ["string", "null"]}',
    "const": "give it in an enum",
    "prefixItems": 'give a list as "items" in this draft',
    "additionalItems": 'give "prefixItems" and "items" in draft 2020-12',
}


def escaped(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def check_keyword(keyword: str, value: Any, pointer: str, draft: int) -> None:
    """Check one keyword of a schema; schemas in it are looked at by themselves.

    Args:
        keyword: it.
        value: what it holds.
        pointer: the JSON pointer of the schema.
        draft: 4, 6, 7, 2019 or 2020.

    Raises:
        UsageError: the keyword or its value is not supported.
    """
    place = f"{pointer}/{escaped(keyword)}"
    if keyword in ("$id", "id") and pointer != "#":
        refuse(place, f"{keyword} is supported at the top alone")
    elif keyword in ANNOTATIONS:
        return
    elif keyword in NUMBERS:
        _check_number(keyword, value, place, draft)
    elif keyword in COUNTS:
        if type(value) is not int or value < 0:
            refuse(place, f"{keyword} is a whole number from 0 on, and not {short(value)}")
        if keyword.startswith("min") and value > MAX_LEAST:
            refuse(place, f"{keyword} is {value:,}, and may be at most {MAX_LEAST:,}")
    elif keyword == "items" and isinstance(value, list):
        if draft == NEWEST:
            refuse(
                place,
                "items is a list, which draft 2020-12 has no meaning for",
                "write prefixItems, or name the draft with $schema",
            )
    elif not _is_of_draft(keyword, draft):
        refuse(place, f"the keyword {keyword} is not supported in this draft", HINTS[keyword])
    elif keyword in ONE_SCHEMA:
        return
    elif keyword in SCHEMA_LISTS:
        if not isinstance(value, list) or not value:
            refuse(place, f"{keyword} is a list of schemas, and not {short(value)}")
        _check_width(value, place)
    elif keyword in NAMED_SCHEMAS:
        if not isinstance(value, dict):
            refuse(place, f"{keyword} holds schemas by their names, and not {short(value)}")
        _check_width(value, place)
        for name in value if keyword == "patternProperties" else ():
            _check_pattern(name, f"{place}/{escaped(name)}")
    elif keyword == "uniqueItems" and value is False:
        return
    elif keyword in _OTHERS:
        _OTHERS[keyword](value, place)
    else:
        refuse(place, f"the keyword {short(keyword)} is not supported", HINTS.get(keyword))


def _is_of_draft(keyword: str, draft: int) -> bool:
    """Tell whether a keyword means something in a draft: else the engine would ignore it."""
    if keyword == "const":
        return draft > 4
    if keyword == "prefixItems":
        return draft == NEWEST
    return keyword != "additionalItems" or draft != NEWEST


def _check_width(value: Any, place: str) -> None:
    if len(value) > MAX_WIDTH:
        refuse(place, f"{len(value):,} schemas stand beside each other, at most {MAX_WIDTH:,} may")


def _check_number(keyword: str, value: Any, place: str, draft: int) -> None:
    if isinstance(value, bool) and draft == 4 and keyword.startswith("exclusive"):
        return
    if type(value) not in (int, float):
        refuse(place, f"{keyword} is a number, and not {short(value)}")
    _check_size(value, place)
    if keyword == "multipleOf" and not value > 0:
        refuse(place, f"multipleOf is above 0, and not {short(value)}")


def _check_size(value: float, place: str) -> None:
    if not abs(value) <= MAX_NUMBER:
        refuse(place, f"{short(value)} is beyond {MAX_NUMBER:,}, up to which numbers are exact")


def _check_instances(value: Any, place: str) -> None:
    """Check the numbers among the values of an enum or a const."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting.extend(inner.values())
        elif isinstance(inner, list):
            waiting.extend(inner)
        elif type(inner) in (int, float):
            _check_size(inner, place)


def _check_enum(value: Any, place: str) -> None:
    if not isinstance(value, list):
        refuse(place, f"enum is a list of values, and not {short(value)}")
    _check_instances(value, place)


def _check_types(value: Any, place: str) -> None:
    for name in value if isinstance(value, list) else [value]:
        if name not in TYPES:
            refuse(place, f"{short(name)} is no type; types are {', '.join(TYPES)}")


def _check_required(value: Any, place: str) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        refuse(place, f"required is a list of names, and not {short(value)}")


def _check_pattern(value: Any, place: str) -> None:
    if not isinstance(value, str):
        refuse(place, f"a pattern is a text, and not {short(value)}")
    if (why := expression_error(value)) is not None:
        refuse(place, why)


def _check_format(value: Any, place: str) -> None:
    if value not in FORMATS:
        known = ", ".join(FORMATS)
        refuse(place, f"the format {short(value)} is not supported", f"supported: {known}")


def _check_reference(value: Any, place: str) -> None:
    if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
        refuse(
            place,
            f"$ref leads to {short(value)}, and only references within the schema (#/...) are "
            "supported: nothing is fetched",
        )


_OTHERS = {
    "type": _check_types,
    "required": _check_required,
    "enum": _check_enum,
    "const": _check_instances,
    "pattern": _check_pattern,
    "format": _check_format,
    "$ref": _check_reference,
}


def refuse(place: str, why: str, hint: str | None = None) -> NoReturn:
    """Raise the error that names what is wrong, and where."""
    raise UsageError(f"the JSON schema cannot be used: {why} (at {short(place, 200)})", hint=hint)


def short(value: object, limit: int = 60) -> str:
    """Write a value of a stranger on one short line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= limit else f"{text[:limit]}..."
