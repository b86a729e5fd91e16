"""Tables and records: CSV, TSV, JSON and JSON lines, a row at a time with the names of its fields.

What is shown is made from the file: "name: value" lines, an empty line between rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgellm.rag.document import Document
from edgellm.rag.loaders.building import PageBuilder, one_line
from edgellm.rag.loaders.encoding import decode
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_DEPTH
from edgellm.rag.loaders.text import read_bytes

__all__ = ["load"]

MAX_FIELD = 1_000_000  # characters of a field of CSV


def load(path: Path) -> Document:
    """Read a table; its title is the file's name."""
    text = decode(read_bytes(path))
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        records = _rows(text, "\t" if suffix == ".tsv" else None)
    else:
        records = _records(text, lines=suffix != ".json")
    built = PageBuilder()
    for record in records:
        built.add("\n".join(f"{name}: {value}" if name else value for name, value in record))
    return Document(path.name, "table", (built.page(None),))


def _rows(text: str, delimiter: str | None) -> Iterator[list[tuple[str, str]]]:
    first = text[:10_000].partition("\n")[0]
    mark = delimiter or max(",;\t|", key=first.count)
    csv.field_size_limit(MAX_FIELD)
    names: list[str] | None = None
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark):
            if names is None:
                names = [one_line(name) for name in row]
                continue
            padded = [*names, *[""] * (len(row) - len(names))]
            yield [(name, value.strip()) for name, value in zip(padded, row, strict=False)
                   if value.strip()]  # fmt: skip
    except csv.Error as error:
        raise LoaderError(f"is no table that can be read: {error}") from error


def _records(text: str, *, lines: bool) -> Iterator[list[tuple[str, str]]]:
    try:
        if lines:
            values: Iterable[object] = (
                json.loads(line) for line in text.split("\n") if line.strip()
            )
        else:
            whole = json.loads(text)
            values = whole if isinstance(whole, list) else [whole]
        for value in values:
            yield list(_flat(value))
    except RecursionError as error:
        raise LoaderError("is nested too deep") from error
    except ValueError as error:
        raise LoaderError(f"is no JSON: {str(error)[:100]}") from error


def _flat(value: object) -> Iterator[tuple[str, str]]:
    """Give the values inside a value with their paths; a stack of our own instead of recursion."""
    stack: list[tuple[str, object, int]] = [("", value, 0)]
    while stack:
        name, item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise LoaderError("is nested too deep")
        if isinstance(item, dict):
            inner = [(f"{name}.{key}" if name else str(key), one, depth + 1)
                     for key, one in item.items()]  # fmt: skip
            stack.extend(reversed(inner))
        elif isinstance(item, list):
            stack.extend((name, one, depth + 1) for one in reversed(item))
        elif item is not None and str(item).strip():
            yield name, str(item).strip()
