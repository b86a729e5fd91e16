"""A GGUF model in several files, as llama.cpp splits it and finds its parts again.

The parts are named NAME-00001-of-00003.gguf and so on (`llama_split_path` in llama.cpp). Each says
in its metadata which part it is (`split.no`, from 0), how many there are (`split.count`, both
uint16) and how many tensors they hold together (`split.tensors.count`, int32). The first part has
the metadata of the model and may hold no tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgellm_converters.checkpoints.gguf_header import (
    MAX_TENSORS,
    GGUFHeader,
    TensorInfo,
    read_header,
)
from edgellm_converters.checkpoints.gguf_values import ValueType
from edgellm_converters.errors import CorruptFileError, SourceNotFoundError, UnsupportedError

__all__ = [
    "ARCHITECTURE",
    "MAX_PARTS",
    "SPLIT_COUNT",
    "SPLIT_NUMBER",
    "SPLIT_TENSORS",
    "part_path",
    "read_parts",
]

ARCHITECTURE = "general.architecture"
SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
# llama.cpp reads them with functions that take no other type.
TYPES: Mapping[str, ValueType] = {
    SPLIT_NUMBER: ValueType.UINT16,
    SPLIT_COUNT: ValueType.UINT16,
    SPLIT_TENSORS: ValueType.INT32,
}
# The largest models in use lie in some 60 parts.
MAX_PARTS = 1024
_NAME = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def part_path(path: Path, number: int, count: int) -> Path:
    """Name a part: of "x.gguf" (or "x"), "x-00001-of-00003.gguf"; `number` counts from 0."""
    stem = path.name.removesuffix(".gguf")
    return path.with_name(f"{stem}-{number + 1:05d}-of-{count:05d}.gguf")


def read_parts(path: Path) -> tuple[GGUFHeader, ...]:
    """Read the headers of all parts, whichever of them `path` is; of a whole file, its own.

    The metadata are the first part's: those of the others are checked and not kept.

    Raises:
        SourceNotFoundError: there is no such file, or a part of it is missing.
        CorruptFileError: a header breaks a rule, or the parts do not belong together.
        UnsupportedError: more than 1,024 parts.
    """
    opened = read_header(path)
    count = _count(opened)
    if count <= 1:
        return (opened,)
    if count > MAX_PARTS:
        raise UnsupportedError(f"{path}: a model in {count} parts, more than {MAX_PARTS}")
    number = _number(opened, SPLIT_NUMBER)
    named = _NAME.fullmatch(path.name)
    if named is None or (int(named["number"]) - 1, int(named["count"])) != (number, count):
        wanted = part_path(path.with_name("NAME"), number, count).name
        raise CorruptFileError(
            path,
            f"this is part {number + 1} of {count}, which the name does not say",
            hint=f"give the parts their names back: {wanted}",
        )
    paths = [part_path(path.with_name(named["name"]), part, count) for part in range(count)]
    headers: list[GGUFHeader] = []
    for part, file in enumerate(paths):
        header = opened if part == number else _read_part(path, file, part, count)
        # A header's buffer can take 32 MB, and only the first one's is needed.
        headers.append(header)
        _check_alike(headers[0], header)
        if part:
            headers[part] = replace(header, metadata=headers[0].metadata, value_types={})
    _check_tensors(headers)
    return tuple(headers)


def _read_part(opened: Path, file: Path, part: int, count: int) -> GGUFHeader:
    """Read the header of another part than the one that was given."""
    try:
        header = read_header(file)
    except SourceNotFoundError:
        raise SourceNotFoundError(
            f"{file}: part {part + 1} of {count} of the model is not there",
            hint=f"all parts must lie beside {opened}",
        ) from None
    if (found := _count(header)) != count:
        raise CorruptFileError(file, f"{SPLIT_COUNT} is {found}, but {opened} says {count}")
    if (number := _number(header, SPLIT_NUMBER)) != part:
        raise CorruptFileError(file, f"{SPLIT_NUMBER} is {number}, but the name says {part}")
    return header


def _check_alike(first: GGUFHeader, header: GGUFHeader) -> None:
    """Refuse a part of another model, as far as its metadata tell."""
    total, found = _number(first, SPLIT_TENSORS), _number(header, SPLIT_TENSORS)
    if found != total:
        raise CorruptFileError(
            header.path,
            f"{SPLIT_TENSORS} is {found}, but {first.path} says {total}; "
            "the parts are of different models",
        )
    for key in (ARCHITECTURE, "general.name"):
        if key in header.metadata and header.metadata[key] != first.metadata.get(key):
            raise CorruptFileError(
                header.path,
                f"{key} is another than in {first.path}; the parts are of different models",
            )


def _check_tensors(headers: list[GGUFHeader]) -> None:
    """Check that no tensor stands twice, and that there are as many as the parts say."""
    seen: dict[str, TensorInfo] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in seen:
                other = seen[tensor.name].path
                raise CorruptFileError(
                    header.path, f"the tensor {tensor.name!r} stands in {other} too"
                )
            seen[tensor.name] = tensor
        if len(seen) > MAX_TENSORS:
            raise CorruptFileError(header.path, f"the parts hold more than {MAX_TENSORS} tensors")
    first = headers[0]
    total = _number(first, SPLIT_TENSORS)
    if len(seen) != total:
        raise CorruptFileError(
            first.path, f"{SPLIT_TENSORS} is {total}, but the parts hold {len(seen)} tensors"
        )


def _count(header: GGUFHeader) -> int:
    """Give `split.count`; 1 of a file that is whole."""
    return _number(header, SPLIT_COUNT) if SPLIT_COUNT in header.metadata else 1


def _number(header: GGUFHeader, key: str) -> int:
    if key not in header.metadata:
        raise CorruptFileError(header.path, f"there is no {key} in a part of a split model")
    kind = header.value_types[key]
    if kind.kind != TYPES[key]:
        wanted = TYPES[key].name.lower()
        raise CorruptFileError(header.path, f"{key} is of type {kind}, not {wanted}")
    value = header.metadata[key]
    assert isinstance(value, int)
    return value
