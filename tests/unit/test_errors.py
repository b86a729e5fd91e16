"""One table maps every error to a code; the documentation says the same."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import edgellm.errors
import edgellm_converters.errors
import edgellm_quant.errors
from edgellm.cli.errors import EXIT_CODES, describe

ROOT = Path(__file__).resolve().parents[2]
MODULES = [edgellm.errors, edgellm_converters.errors, edgellm_quant.errors]


def classes(module: ModuleType) -> list[type[Exception]]:
    return [c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Exception)]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_error_is_drawn_in_the_tree_and_exported(module: ModuleType) -> None:
    names = {c.__name__ for c in classes(module)}
    assert names == set(module.__all__)
    assert names == set(re.findall(r"\b\w+(?:Error)\b", module.__doc__ or ""))


@pytest.mark.parametrize("kind", [c for m in MODULES for c in classes(m)])
def test_every_error_has_a_row(kind: type[Exception]) -> None:
    row = next(row for row in EXIT_CODES if issubclass(kind, row[0]))
    # A base class may not shadow a more special row below it.
    assert all(
        not (issubclass(other, row[0]) and other is not row[0]) or other is kind
        for other, _, _ in EXIT_CODES[EXIT_CODES.index(row) + 1 :]
    )


def test_an_error_of_nobody_is_internal() -> None:
    code, status, sentence, hint = describe(ZeroDivisionError("division by zero"))
    assert (code, status) == ("internal", 1)
    assert "ZeroDivisionError" in sentence
    assert hint is not None
    assert "EDGELLM_DEBUG" in hint


def test_the_documentation_lists_the_same_codes() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (?:`(\w+)`)? *\|", (ROOT / "docs/exit-codes.md").read_text(), re.MULTILINE
    )
    documented = {(code, int(status)) for status, code in rows if code}
    assert documented == {(code, status) for _, code, status in EXIT_CODES}
