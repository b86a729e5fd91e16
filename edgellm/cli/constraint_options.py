"""The options that give an answer a form: a JSON schema, a grammar, a regular expression."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.options import option

if TYPE_CHECKING:
    from edgellm.generate.constraint import ConstraintSpec
    from edgellm.generate.result import GenerationResult

__all__ = ["CONSTRAINTS", "OPTIONS", "constraint_of", "cut_sentence", "given_constraint"]

CONSTRAINTS = ("json_schema", "grammar", "regex")
MAX_FILE = 4_000_000  # bytes: a million characters

_form = functools.partial(option, section="Form of the answer")
OPTIONS = (
    _form("--json-schema", metavar="FILE|JSON",
          help="The answer is JSON of this schema, on one line."),
    _form("--grammar", metavar="FILE", help="The answer is a text of this grammar: Lark or GBNF."),
    _form("--regex", metavar="REGEX", help="The whole answer matches this regular expression."),
)  # fmt: skip


def given_constraint(values: dict[str, Any]) -> ConstraintSpec | None:
    """Give the constraint among a command's values; None if there is none.

    Raises:
        click.UsageError: more than one is given.
        EdgellmError: see `constraint_of`.
    """
    given = [name for name in CONSTRAINTS if values[name] is not None]
    if len(given) > 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{flags} are given: an answer has one form")
    return constraint_of(given[0], values[given[0]]) if given else None


def constraint_of(kind: str, value: str) -> ConstraintSpec:
    """Make the constraint of this kind, one of `CONSTRAINTS`, from what a person gave.

    Raises:
        NotFoundError: the file is not there.
        UsageError: it cannot be read or used.
    """
    from edgellm.errors import UsageError
    from edgellm.generate.constraint import Grammar, JsonSchema, Regex, check_constraint

    if kind == "regex":
        spec: ConstraintSpec = Regex(value)
        check_constraint(spec)
        return spec
    where = "" if kind == "json_schema" and _is_json(value) else f"{value}: "
    text = _read(value) if where else value
    try:
        spec = JsonSchema(text) if kind == "json_schema" else Grammar(text)
        check_constraint(spec)
    except UsageError as error:
        raise UsageError(f"{where}{error}", hint=error.hint) from error
    return spec


def cut_sentence(result: GenerationResult) -> str | None:
    """Say why an answer is not what its constraint asks for; None if it is."""
    if result.complete is not False:
        return None
    reasons = {
        "length": f"{result.completion_tokens} tokens were written (-n)",
        "context": "the context was full",
        "cancelled": "it was stopped",
    }
    why = reasons.get(result.finish_reason, "a stop string came")
    return f"the answer is not whole: it was cut where {why}, before its form was complete"


def _is_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "[")) or text.strip() in ("true", "false")


def _read(name: str) -> str:
    from edgellm.errors import NotFoundError, UsageError

    try:
        with Path(name).open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{name}: there is no such file") from None
    if len(raw) > MAX_FILE:
        raise UsageError(f"{name}: the file has more than {MAX_FILE:,} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: the file is not UTF-8 text (at byte {error.start})") from None
