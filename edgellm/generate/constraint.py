"""Answers of a given form: what a person writes down, and the constraint that it becomes.

The engine is llguidance, the same for both backends: it is built from a model's tokenizer, and says
after each token which ones may follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.backends.base import Constraint, Model

__all__ = [
    "ConstraintSpec",
    "Grammar",
    "JsonSchema",
    "Regex",
    "check_constraint",
    "compile_constraint",
]

# Characters.
MAX_SCHEMA = 1_000_000
MAX_GRAMMAR = 100_000
MAX_REGEX = 50_000


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that a schema describes (JSON Schema 2020-12), on one line.

    Attributes:
        schema: the schema's text, as JSON; a mapping or a bool that is given becomes that.

    Raises:
        UsageError: it is no JSON, or too long.
    """

    schema: str | Mapping[str, Any] | bool

    def __post_init__(self) -> None:
        text = self.schema
        if not isinstance(text, str):
            try:
                text = json.dumps(text, ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise UsageError(f"the JSON schema cannot be written as JSON: {error}") from None
        _check_length("JSON schema", text, MAX_SCHEMA)
        object.__setattr__(self, "schema", text)

    @property
    def text(self) -> str:
        """The schema as JSON."""
        return str(self.schema)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The answer is a text of a grammar, in llguidance's Lark syntax or llama.cpp's GBNF.

    Raises:
        UsageError: it is too long.
    """

    text: str

    def __post_init__(self) -> None:
        _check_length("grammar", self.text, MAX_GRAMMAR)


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole answer matches a regular expression, in the syntax of Rust's regex crate.

    Raises:
        UsageError: it is too long.
    """

    text: str

    def __post_init__(self) -> None:
        _check_length("regular expression", self.text, MAX_REGEX)


ConstraintSpec: TypeAlias = JsonSchema | Grammar | Regex


def check_constraint(spec: ConstraintSpec) -> None:
    """Refuse what no model could obey, before one is loaded.

    Raises:
        UsageError: it is malformed, asks for what is not supported, is too large, or no text
            satisfies it.
    """
    from edgellm.generate.constraint_grammar import grammar_of

    grammar_of(spec)


@overload
def compile_constraint(model: Model, spec: ConstraintSpec) -> Constraint: ...
@overload
def compile_constraint(model: Model, spec: ConstraintSpec | None) -> Constraint | None: ...
def compile_constraint(model: Model, spec: ConstraintSpec | None) -> Constraint | None:
    """Make what a person wrote down ready for a model's tokens; what is compiled is remembered.

    Gives a constraint at its beginning, for one text, and None for None.

    Raises:
        UsageError: see `check_constraint`.
    """
    if spec is None:
        return None
    from edgellm.generate.constraint_engine import engine_of

    return engine_of(model).constraint(spec)


def _check_length(what: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise UsageError(f"the {what} has {len(text):,} characters, and may have {limit:,}")
    if not text.strip():
        raise UsageError(f"the {what} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the {what} holds half a character (at character {error.start})"
        ) from None
