"""From what a person writes down to the grammar that the engine compiles."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable
from typing import Any

from edgellm.errors import UsageError
from edgellm.generate.constraint import ConstraintSpec, Grammar, JsonSchema, Regex
from edgellm.generate.constraint_errors import Checked, first_line
from edgellm.generate.constraint_meaning import prepare_schema

__all__ = ["compiled", "grammar_of", "name_of"]

# JSON as Python's json.dumps writes it: models have read much of it, and white space that a small
# model may choose freely becomes an endless run of it.
JSON_FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,  # no two alternatives hold at once: `prepare_schema` makes sure
}
MAX_STATES = 50_000  # of what a regular expression becomes, 1 to 2 kB each
STACK = 256 * 2**20  # bytes; the engine calls itself for each schema that leads to another
NAMES = {JsonSchema: "JSON schema", Regex: "regular expression", Grammar: "grammar"}

_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
# In Lark: texts, expressions and comments, in which nothing is looked for, and a schema's sign.
_LARK = re.compile(
    r"""(?P<json>%json\s*(?={))|"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|/(?:\\.|[^/\\\n])+/""",
    re.VERBOSE,
)
_stack_size = threading.Lock()


def name_of(spec: ConstraintSpec) -> str:
    """Name the kind of constraint in a sentence."""
    return NAMES[type(spec)]


@functools.lru_cache(maxsize=16)
def grammar_of(spec: ConstraintSpec) -> str:
    """Give the grammar in the engine's own form.

    Raises:
        UsageError: it is malformed, asks for what is not supported, is too large, or no text
            satisfies it.
    """
    from llguidance import LLMatcher

    if isinstance(spec, JsonSchema):
        schema = json.dumps(prepare_schema(spec.text), ensure_ascii=False)
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=JSON_FORM)
    elif isinstance(spec, Regex):
        grammar = LLMatcher.grammar_from_regex(spec.text)
    else:
        grammar = LLMatcher.grammar_from_lark(_lark(spec.text))
    compiled(spec, lambda limits: Checked(LLMatcher.validate_grammar(grammar, limits=limits)))
    return str(grammar)


def compiled(spec: ConstraintSpec, make: Callable[[Any], Any]) -> Any:
    """Call a function that compiles a grammar, with limits, on a stack that is large enough.

    Raises:
        UsageError: what it makes has an error.
    """
    from llguidance import LLParserLimits

    limits = LLParserLimits(max_lexer_states=MAX_STATES, verbose_errors=False)
    found: list[Any] = []
    with _stack_size:
        before = threading.stack_size(STACK)
        thread = threading.Thread(target=lambda: found.append(make(limits)))
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if not found or found[0].is_error():
        why = first_line(found[0].get_error() if found else "the engine failed")
        why = why.replace("Unsatisfiable schema:", "no text satisfies it:")
        raise UsageError(f"the {name_of(spec)} cannot be used: {why}")
    return found[0]


def _lark(text: str) -> str:
    """Give a grammar in Lark: GBNF is rewritten, and JSON schemas in Lark are checked."""
    if _GBNF_RULE.search(text):
        from llguidance.gbnf_to_lark import gbnf_to_lark

        try:
            return str(gbnf_to_lark(text))
        except Exception as error:  # whatever a text of a stranger leads that reader to
            raise UsageError(
                f"the grammar cannot be used: it is no GBNF: {first_line(error)}"
            ) from None
    parts, end = [], 0
    while (found := _LARK.search(text, end)) is not None:
        parts.append(text[end : found.end()])
        end = found.end()
        if found["json"] is not None:
            try:
                _, end = json.JSONDecoder().raw_decode(text, found.end())
            except (ValueError, RecursionError) as error:
                raise UsageError(f"the grammar cannot be used: %json: {error}") from None
            schema = prepare_schema(text[found.end() : end])
            parts.append(json.dumps(schema | {"x-guidance": JSON_FORM}, ensure_ascii=False))
    return "".join([*parts, text[end:]])
