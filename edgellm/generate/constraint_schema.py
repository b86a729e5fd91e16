"""JSON schemas of strangers: read with bounds, and searched for what cannot be obeyed.

What the engine would pass over in silence is an error here, which names the keyword and its place
as a JSON pointer (RFC 6901). The keywords are those of JSON Schema 2020-12, and of the drafts
before it where `$schema` names one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote

from edgellm.errors import UsageError
from edgellm.generate.constraint_errors import expression_error

__all__ = ["FORMATS", "TYPES", "Schemas", "read_schemas", "target"]

MAX_DEPTH = 60  # of lists and objects in each other
MAX_SCHEMAS = 10_000
MAX_WIDTH = 1_000  # properties of one object, or alternatives: time grows with their square
MAX_LEAST = 100_000  # letters, items or properties that a text must have: no context holds more
MAX_NUMBER = 2**53  # beyond, whole numbers are exact neither in the engine nor in most readers

FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
)  # fmt: skip
TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")
DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
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


@dataclass(slots=True)
class Schemas:
    """All schemas of a document that can be reached from its root, by their JSON pointers.

    Attributes:
        document: the whole.
        draft: 4, 6, 7, 2019 or 2020.
        at: a pointer such as "#/properties/a" -> the schema there.
    """

    document: Any
    draft: int
    at: dict[str, Any] = field(default_factory=dict)

    def inside(self, pointer: str) -> Iterator[str]:
        """Give the pointers of the schemas right inside one, and of the one it refers to."""
        schema = self.at[pointer]
        if not isinstance(schema, dict):
            return
        for keyword, value in schema.items():
            place = f"{pointer}/{keyword}"
            if keyword == "$ref":
                yield target(value)
            elif keyword in SCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
                yield from (f"{place}/{number}" for number in range(len(value)))
            elif keyword in ONE_SCHEMA:
                yield place
            elif keyword in NAMED_SCHEMAS:
                yield from (f"{place}/{escaped(name)}" for name in value)


def read_schemas(text: str) -> Schemas:
    """Read a schema and check every keyword of what it uses.

    Raises:
        UsageError: it is no schema, too large, or holds what is not supported.
    """
    document = _read(text)
    schemas = Schemas(document, _draft(document))
    waiting = ["#"]
    while waiting:
        pointer = waiting.pop()
        if pointer in schemas.at:
            continue
        if len(schemas.at) == MAX_SCHEMAS:
            raise UsageError(f"the JSON schema consists of more than {MAX_SCHEMAS:,} schemas")
        schemas.at[pointer] = schema = _lookup(document, pointer)
        if isinstance(schema, dict):
            for keyword, value in schema.items():
                _check(keyword, value, pointer, schemas.draft)
        elif not isinstance(schema, bool):
            _refuse(pointer, f"a schema is an object or a bool, and not {_short(schema)}")
        waiting.extend(schemas.inside(pointer))
    return schemas


def escaped(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def target(reference: str) -> str:
    """Give the pointer of a reference within the document."""
    return unquote(reference)


def _read(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {_short(twice)} stands twice in one object")
        return found

    depth = 0
    try:
        document = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"the JSON schema is not JSON: {why}") from None
    if not _is_unicode(document):
        raise UsageError("the JSON schema holds half a character (a lone surrogate)")
    level = [document]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise UsageError(f"the JSON schema is nested more than {MAX_DEPTH} levels deep")
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return document


def _is_unicode(document: Any) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _draft(document: Any) -> int:
    if not isinstance(document, dict) or "$schema" not in document:
        return NEWEST
    name = document["$schema"]
    if not isinstance(name, str) or name.rstrip("#") not in DRAFTS:
        _refuse("#/$schema", f"{_short(name)} is not known; known are {', '.join(DRAFTS)}")
    return DRAFTS[name.rstrip("#")]


def _lookup(document: Any, pointer: str) -> Any:
    value = document
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name in map(str, range(len(value))):
            value = value[int(name)]
        else:
            raise UsageError(f"the JSON schema refers to {_short(pointer)}, which is not there")
    return value


def _check(keyword: str, value: Any, pointer: str, draft: int) -> None:
    """Check one keyword of a schema, what it holds being looked at later."""
    place = f"{pointer}/{escaped(keyword)}"
    if keyword in ("$id", "id") and pointer != "#":
        _refuse(place, f"{keyword} is supported at the top alone")
    elif keyword in ANNOTATIONS:
        return
    elif keyword in NUMBERS:
        _check_number(keyword, value, place, draft)
    elif keyword in COUNTS:
        if type(value) is not int or value < 0:
            _refuse(place, f"{keyword} is a whole number from 0 on, and not {_short(value)}")
        if keyword.startswith("min") and value > MAX_LEAST:
            _refuse(place, f"{keyword} is {value:,}, and may be at most {MAX_LEAST:,}")
    elif keyword == "items" and isinstance(value, list):
        if draft == NEWEST:
            _refuse(
                place,
                "items is a list, which draft 2020-12 has no meaning for",
                "write prefixItems, or name the draft with $schema",
            )
    elif (keyword == "prefixItems" and draft != NEWEST) or (
        keyword == "additionalItems" and draft == NEWEST
    ):
        _refuse(place, f"the keyword {keyword} is not supported in this draft", HINTS[keyword])
    elif keyword in ONE_SCHEMA:
        return
    elif keyword in SCHEMA_LISTS:
        if not isinstance(value, list) or not value:
            _refuse(place, f"{keyword} is a list of schemas, and not {_short(value)}")
        _check_width(value, place)
    elif keyword in NAMED_SCHEMAS:
        if not isinstance(value, dict):
            _refuse(place, f"{keyword} holds schemas by their names, and not {_short(value)}")
        _check_width(value, place)
        for name in value if keyword == "patternProperties" else ():
            _check_pattern(name, f"{place}/{escaped(name)}")
    elif keyword == "uniqueItems" and value is False:
        return
    elif keyword in _OTHERS:
        _OTHERS[keyword](value, place)
    else:
        _refuse(place, f"the keyword {_short(keyword)} is not supported", HINTS.get(keyword))


def _check_width(value: Any, place: str) -> None:
    if len(value) > MAX_WIDTH:
        _refuse(place, f"{len(value):,} schemas stand beside each other, at most {MAX_WIDTH:,} may")


def _check_number(keyword: str, value: Any, place: str, draft: int) -> None:
    if isinstance(value, bool) and draft == 4 and keyword.startswith("exclusive"):
        return
    if type(value) not in (int, float):
        _refuse(place, f"{keyword} is a number, and not {_short(value)}")
    _check_size(value, place)
    if keyword == "multipleOf" and not value > 0:
        _refuse(place, f"multipleOf is above 0, and not {_short(value)}")


def _check_size(value: float, place: str) -> None:
    if not abs(value) <= MAX_NUMBER:
        _refuse(place, f"{_short(value)} is beyond {MAX_NUMBER:,}, up to which numbers are exact")


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
        _refuse(place, f"enum is a list of values, and not {_short(value)}")
    _check_instances(value, place)


def _check_types(value: Any, place: str) -> None:
    for name in value if isinstance(value, list) else [value]:
        if name not in TYPES:
            _refuse(place, f"{_short(name)} is no type; types are {', '.join(TYPES)}")


def _check_required(value: Any, place: str) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        _refuse(place, f"required is a list of names, and not {_short(value)}")


def _check_pattern(value: Any, place: str) -> None:
    if not isinstance(value, str):
        _refuse(place, f"a pattern is a text, and not {_short(value)}")
    if (why := expression_error(value)) is not None:
        _refuse(place, why)


def _check_format(value: Any, place: str) -> None:
    if value not in FORMATS:
        known = ", ".join(FORMATS)
        _refuse(place, f"the format {_short(value)} is not supported", f"supported: {known}")


def _check_reference(value: Any, place: str) -> None:
    if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
        _refuse(
            place,
            f"$ref leads to {_short(value)}, and only references within the schema (#/...) are "
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


def _refuse(place: str, why: str, hint: str | None = None) -> NoReturn:
    raise UsageError(f"the JSON schema cannot be used: {why} (at {_short(place, 200)})", hint=hint)


def _short(value: object, limit: int = 60) -> str:
    """Write a value of a stranger on one short line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= limit else f"{text[:limit]}..."
