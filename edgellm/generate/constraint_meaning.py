"""What a JSON schema means as a whole: whether a text can satisfy it, and what the engine gets."""

from __future__ import annotations

import json
import math
from typing import Any

from edgellm.errors import UsageError
from edgellm.generate.constraint_keywords import TYPES, escaped
from edgellm.generate.constraint_schema import Schemas, read_schemas, target

__all__ = ["prepare_schema"]

MAX_HOPS = 20  # of references, where two alternatives are compared

# The engine lets every year have a 29th of February, a year 0 be, and minutes have 61 seconds; and
# names of hosts get as long as one likes.
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = f"(?:{_YEAR}-(?:0[13-9]|1[0-2])-[0-9]{{2}}|{_YEAR}-02-(?:[01][0-9]|2[0-8])|{_LEAP}-02-29)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-5].*"
STRICTER: dict[str, dict[str, Any]] = {
    "date": {"pattern": f"^{_DATE}$"},
    "date-time": {"pattern": f"^{_DATE}[Tt]{_TIME}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "hostname": {"maxLength": 253},
}


def prepare_schema(text: str) -> dict[str, Any]:
    """Check a schema and give the one that the engine gets.

    In it a oneOf may be read as an anyOf: no two of its alternatives can hold at once.

    Raises:
        UsageError: it is no schema, holds something that is not supported, or is too large, or no
            text satisfies it.
    """
    schemas = read_schemas(text)
    _check_satisfiable(schemas)
    for pointer, schema in schemas.at.items():
        if isinstance(schema, dict):
            _check_alternatives(schemas, pointer, schema)
            _check_properties(pointer, schema)
    for schema in schemas.at.values():
        stricter = STRICTER.get(schema.get("format", "")) if isinstance(schema, dict) else None
        if stricter is not None:
            schema["allOf"] = [*schema.get("allOf", ()), stricter]
    if schemas.document is True:
        return {}
    found: dict[str, Any] = schemas.document
    for name in ("$id", "id"):  # all references are within, wherever the schema lies
        found.pop(name, None)
    return found


def _check_satisfiable(schemas: Schemas) -> None:
    """Refuse a schema that only endless texts satisfy, or none.

    The least fixed point: a schema can be satisfied if those inside that it needs can be, by what
    is known of them so far.
    """
    users: dict[str, list[str]] = {}
    for pointer in schemas.at:
        for inner in schemas.inside(pointer):
            users.setdefault(inner, []).append(pointer)
    known: set[str] = set()
    waiting = list(schemas.at)
    while waiting:
        pointer = waiting.pop()
        if pointer not in known and _satisfiable(schemas, pointer, known):
            known.add(pointer)
            waiting.extend(users.get(pointer, ()))
    if "#" not in known:
        raise UsageError("the JSON schema cannot be used: no text satisfies it")


def _satisfiable(schemas: Schemas, pointer: str, known: set[str]) -> bool:
    schema = schemas.at[pointer]
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and target(schema["$ref"]) not in known:
        return False
    if "enum" in schema and not schema["enum"]:
        return False

    def inner(keyword: str) -> list[bool]:
        return [f"{pointer}/{keyword}/{number}" in known for number in range(len(schema[keyword]))]

    if "allOf" in schema and not all(inner("allOf")):
        return False
    if any(keyword in schema and not any(inner(keyword)) for keyword in ("anyOf", "oneOf")):
        return False
    if "enum" in schema or "const" in schema:
        return True
    return any(_satisfiable_type(schema, kind, pointer, known) for kind in _types(schema))


def _satisfiable_type(schema: dict[str, Any], kind: str, pointer: str, known: set[str]) -> bool:
    if kind in ("number", "integer"):
        least, most = _range(schema)
        return least <= most
    if kind == "string":
        return bool(schema.get("minLength", 0) <= schema.get("maxLength", math.inf))
    if kind == "array":
        return _satisfiable_array(schema, pointer, known)
    if kind == "object":
        if schema.get("minProperties", 0) > schema.get("maxProperties", math.inf):
            return False
        return all(
            place is None or place in known
            for name in schema.get("required", ())
            for place in [_place_of(schema, pointer, name)]
        )
    return True


def _satisfiable_array(schema: dict[str, Any], pointer: str, known: set[str]) -> bool:
    least = schema.get("minItems", 0)
    if least > schema.get("maxItems", math.inf):
        return False
    listed, rest = "prefixItems", "items"
    if isinstance(schema.get("items"), list):
        listed, rest = "items", "additionalItems"
    count = len(schema.get(listed, ()))
    if not all(f"{pointer}/{listed}/{number}" in known for number in range(min(count, least))):
        return False
    return least <= count or rest not in schema or f"{pointer}/{rest}" in known


def _place_of(schema: dict[str, Any], pointer: str, name: str) -> str | None:
    """Give where a property's schema lies; None if it may be anything, or a pattern decides."""
    if name in schema.get("properties", ()):
        return f"{pointer}/properties/{escaped(name)}"
    if "additionalProperties" in schema and "patternProperties" not in schema:
        return f"{pointer}/additionalProperties"
    return None


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type", list(TYPES))
    return types if isinstance(types, list) else [types]


def _range(schema: dict[str, Any]) -> tuple[float, float]:
    """Give the least and the most that a number may be, whether it may be these themselves or not.

    A draft 4 says with a bool that it may not.
    """
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None and above is not True and above is not False:
        least = max(least, above)
    if below is not None and below is not True and below is not False:
        most = min(most, below)
    return least, most


def _check_properties(pointer: str, schema: dict[str, Any]) -> None:
    """Refuse to count what the engine cannot: it lets a name that is not listed stand twice.

    A least number that the required ones reach by themselves says nothing, and is taken away.
    """
    least = schema.get("minProperties", 0)
    required = set(schema.get("required", ()))
    optional = set(schema.get("properties", ())) - required
    if least > len(required) + 1:
        raise UsageError(
            f"the JSON schema cannot be used: minProperties is {least} (at {pointer}), and only "
            f"one more than the {len(required)} required properties is supported"
        )
    if least <= len(required):
        schema.pop("minProperties", None)
    if optional and (least > len(required) or "maxProperties" in schema):
        raise UsageError(
            "the JSON schema cannot be used: minProperties and maxProperties are supported where "
            f"all listed properties are required (at {pointer})"
        )


def _check_alternatives(schemas: Schemas, pointer: str, schema: dict[str, Any]) -> None:
    """Refuse a oneOf of which two alternatives may hold at once."""
    count = len(schema.get("oneOf", ()))
    places = [f"{pointer}/oneOf/{number}" for number in range(count)]
    for second in range(count):
        for first in range(second):
            if not _disjoint(schemas, places[first], places[second], MAX_HOPS):
                raise UsageError(
                    "the JSON schema cannot be used: it is not certain that of oneOf's "
                    f"alternatives {first} and {second} only one can hold (at {pointer}/oneOf)",
                    hint='give them different types, or a required property with another "const" '
                    "in each; or write anyOf",
                )


def _disjoint(schemas: Schemas, one: str, other: str, hops: int) -> bool:
    """Tell whether it is certain that no value satisfies both."""
    if hops == 0:
        return False
    a, b = schemas.at[one], schemas.at[other]
    if isinstance(a, bool) or isinstance(b, bool):
        return a is False or b is False
    for here, place, there in ((a, one, other), (b, other, one)):
        if "$ref" in here and _disjoint(schemas, target(here["$ref"]), there, hops - 1):
            return True
        for keyword, enough in (("allOf", any), ("anyOf", all), ("oneOf", all)):
            if keyword in here and enough(
                _disjoint(schemas, f"{place}/{keyword}/{number}", there, hops - 1)
                for number in range(len(here[keyword]))
            ):
                return True
    values_a, values_b = _values(a), _values(b)
    if values_a is not None and values_b is not None:
        return values_a.isdisjoint(values_b)
    kinds = _kinds(a) & _kinds(b)
    return all(_disjoint_as(schemas, kind, one, other, hops) for kind in kinds)


def _disjoint_as(schemas: Schemas, kind: str, one: str, other: str, hops: int) -> bool:
    """Tell the same of values of one type."""
    a, b = schemas.at[one], schemas.at[other]
    if kind == "number":
        (least_a, most_a), (least_b, most_b) = _range(a), _range(b)
        return most_a < least_b or most_b < least_a
    if kind == "string":
        infinite = math.inf
        return bool(
            a.get("maxLength", infinite) < b.get("minLength", 0)
            or b.get("maxLength", infinite) < a.get("minLength", 0)
        )
    if kind == "array":
        return bool(
            a.get("maxItems", math.inf) < b.get("minItems", 0)
            or b.get("maxItems", math.inf) < a.get("minItems", 0)
        )
    if kind == "object":
        for name in {*a.get("required", ()), *b.get("required", ())}:
            place_a, place_b = _place_of(a, one, name), _place_of(b, other, name)
            if place_a and place_b and _disjoint(schemas, place_a, place_b, hops - 1):
                return True
            if any(place and schemas.at[place] is False for place in (place_a, place_b)):
                return True
    return False


def _kinds(schema: dict[str, Any]) -> set[str]:
    """Give the types that a value may have, whole numbers among the numbers."""
    values = _values(schema)
    if values is not None:
        return {kind for kind, _ in values}
    return {"number" if kind == "integer" else kind for kind in _types(schema)}


def _values(schema: dict[str, Any]) -> set[tuple[str, str]] | None:
    """Give all values that are allowed, each with its type; None where they are not listed."""
    if "const" in schema:
        listed = [schema["const"]]
    elif "enum" in schema:
        listed = schema["enum"]
    else:
        return None
    return {(_kind_of(value), _canonical(value)) for value in listed}


def _kind_of(value: Any) -> str:
    for kind, classes in (
        ("null", type(None)),
        ("boolean", bool),
        ("number", int | float),
        ("string", str),
        ("array", list),
    ):
        if isinstance(value, classes):
            return kind
    return "object"


def _canonical(value: Any) -> str:
    """Write a value so that equal ones are equal texts, as 1 and 1.0 are."""
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name!r}:{_canonical(value[name])}' for name in sorted(value))}}}"
    if type(value) is float and value.is_integer():
        value = int(value)
    return json.dumps(value)
