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
from edgellm.generate.constraint_keywords import (
    NAMED_SCHEMAS,
    NEWEST,
    ONE_SCHEMA,
    SCHEMA_LISTS,
    check_keyword,
    escaped,
    refuse,
    short,
)

__all__ = ["Schemas", "read_schemas", "target"]

MAX_DEPTH = 60  # of lists and objects in each other
MAX_SCHEMAS = 10_000

DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
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
                check_keyword(keyword, value, pointer, schemas.draft)
        elif not isinstance(schema, bool):
            refuse(pointer, f"a schema is an object or a bool, and not {short(schema)}")
        waiting.extend(schemas.inside(pointer))
    return schemas


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
            raise ValueError(f"the name {short(twice)} stands twice in one object")
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
        refuse("#/$schema", f"{short(name)} is not known; known are {', '.join(DRAFTS)}")
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
            raise UsageError(f"the JSON schema refers to {short(pointer)}, which is not there")
    return value
