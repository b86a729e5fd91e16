"""Schemas, grammars and expressions of strangers: refused with a sentence, or bounded."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from edgellm.api.chat import load
from edgellm.errors import UsageError
from edgellm.generate.constraint import (
    Grammar,
    JsonSchema,
    Regex,
    check_constraint,
    compile_constraint,
)
from tinygguf import END, byte_token, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with load(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"), threads=1) as loaded:
        yield loaded.model


def sentence(spec) -> str:
    with pytest.raises(UsageError) as caught:
        check_constraint(spec() if callable(spec) else spec)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        ({"not": {}}, "not", "#/not"),
        ({"if": {}}, "if", "#/if"),
        ({"properties": {"a": {"uniqueItems": True}}}, "uniqueItems", "#/properties/a/uniqueItems"),
        ({"items": {"contains": {}}}, "contains", "#/items/contains"),
        ({"anyOf": [{}, {"propertyNames": {}}]}, "propertyNames", "#/anyOf/1/propertyNames"),
        ({"properties": {"a/b~c": {"madeUp": 1}}}, "madeUp", "#/properties/a~1b~0c/madeUp"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"unevaluatedItems": False}}}, "unevaluatedItems",
         "#/$defs/x/unevaluatedItems"),
        ({"type": "string", "nullable": True}, "nullable", "#/nullable"),
        ({"x-guidance": {"lenient": True}, "uniqueItems": True}, "x-guidance", "#/x-guidance"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired", "#/dependentRequired"),
        ({"$dynamicRef": "#x"}, "$dynamicRef", "#/$dynamicRef"),
        ({"properties": {"a": {"$id": "http://x/"}}}, "$id", "#/properties/a/$id"),
        ({"type": "string", "format": "iri"}, "iri", "#/format"),
        ({"type": "strng"}, "strng", "#/type"),
        ({"items": [{}]}, "items", "#/items"),
        ({"additionalItems": False}, "additionalItems", "#/additionalItems"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]},
         "prefixItems", "#/prefixItems"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "const": 3}, "const", "#/const"),
        ({"$schema": "http://example.com/mine"}, "example.com", "#/$schema"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "#/oneOf"),
        ({"oneOf": [{"const": [1]}, {"const": [1.0]}]}, "oneOf", "#/oneOf"),
        ({"oneOf": [{"type": "object", "properties": {"k": {"const": n}}} for n in (1, 2)]},
         "oneOf", "#/oneOf"),
        ({"type": "object", "minProperties": 2}, "minProperties", "#"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead", "#/pattern"),
        ({"type": "string", "pattern": "("}, "unclosed", "#/pattern"),
        ({"patternProperties": {"[": {}}}, "unclosed", "#/patternProperties/["),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named_with_its_place(schema, keyword, place):
    text = sentence(JsonSchema(schema))
    assert keyword in text
    assert f"(at {place})" in text


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": "3"}, {"exclusiveMinimum": True}, {"minLength": -1}, {"maxItems": 1.5},
        {"multipleOf": 0}, {"required": "a"}, {"required": [1]}, {"properties": []},
        {"anyOf": {}}, {"anyOf": []}, {"enum": 3}, {"pattern": 3}, {"format": 3}, {"type": 3},
        {"$ref": 3}, {"items": 3}, {"properties": {"a": 1}}, {"maxLength": True}, [], 3, "x", None,
        {"maximum": 10**30}, {"const": 2**53 + 1}, {"enum": [[{"a": -(10**400)}]]},
    ],
)  # fmt: skip
def test_what_is_no_schema(schema):
    assert "JSON schema" in sentence(lambda: JsonSchema(json.dumps(schema)))


@pytest.mark.parametrize(
    "text",
    [
        "{", "[" * 100_000, '{"a":' * 5000, "NaN", '{"minimum": Infinity}', "", " ", '{"a" 1}',
        '{"type": "string", "type": "integer"}', '{"const": "\\ud800"}', "\ud800", "9" * 10_000,
        json.dumps("x" * 2_000_000),
    ],
)  # fmt: skip
def test_what_is_no_json(text):
    assert "JSON schema" in sentence(lambda: JsonSchema(text))


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [{"$ref": "#"}, {"type": "integer", "minimum": 5, "maximum": 3}]},
        {"allOf": [{"type": "string"}, False]},
        {"enum": []},
        {"type": "string", "minLength": 5, "maxLength": 3},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "array", "items": False, "minItems": 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "integer", "minimum": 1, "maximum": 6, "multipleOf": 7},
        {"type": "string", "pattern": "^a$", "minLength": 2},
        {"type": "string", "const": 3},
    ],
)
def test_what_no_text_satisfies(schema):
    assert "no text satisfies it" in sentence(JsonSchema(schema))


def chain(length: int) -> dict:
    links = {
        f"a{n}": {"type": "array", "items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(length)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "null"}}}


def doubling(depth: int) -> dict:
    """Each level intersects two schemas that hold two of the level below."""
    levels = {
        f"a{n + 1}": {
            "allOf": [
                {"$ref": f"#/$defs/a{n}"},
                {"anyOf": [{"$ref": f"#/$defs/a{n}"}, {"properties": {f"y{n}": {"type": "null"}}}]},
            ]
        }
        for n in range(depth)
    }
    base = {"type": "object", "properties": {"x": {"type": "string"}}}
    return {"$ref": f"#/$defs/a{depth}", "$defs": {"a0": base, **levels}}


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "array", "minItems": 10**9}, "1,000,000,000"),
        ({"type": "string", "minLength": 10**12}, "minLength"),
        ({"type": "object", "properties": {f"k{n}": {} for n in range(1001)}}, "1,001 schemas"),
        ({"oneOf": [{"const": n} for n in range(1001)]}, "1,001 schemas"),
        (chain(5000), "10,000 schemas"),
        (doubling(20), "too large"),
        ({"$ref": "http://evil.example/schema.json"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"$ref": "other.json#/a"}, "nothing is fetched"),
        ({"$ref": "#/$defs/nowhere"}, "not there"),
        ({"type": "string", "pattern": "(" * 1000 + ")" * 1000}, "nested"),
    ],
)
def test_what_is_too_large_or_elsewhere(schema, part):
    assert part in sentence(JsonSchema(schema))


def test_a_long_chain_of_references_ends_no_process(model):
    constraint = compile_constraint(model, JsonSchema(chain(3300)))
    assert constraint.satisfied_by("[]")
    assert constraint.satisfied_by("[[[]]]")


@pytest.mark.parametrize(
    "spec",
    [
        lambda: Grammar("root ::= (((("),
        lambda: Grammar("root ::= " + "(" * 90_000),
        lambda: Grammar('x ::= "a"'),
        lambda: Grammar('root ::= "a'),
        lambda: Grammar("root ::= [a"),
        lambda: Grammar("root ::= \\"),
        lambda: Grammar("start: foo"),
        lambda: Grammar('start: "a'),
        lambda: Grammar("what is this"),
        lambda: Grammar(""),
        lambda: Grammar("\udfff"),
        lambda: Grammar("start: " + '"a" | ' * 100_000),
        lambda: Regex("("),
        lambda: Regex("(?!a)b"),
        lambda: Regex("(" * 1000 + "a" + ")" * 1000),
        lambda: Regex("a" * 60_000),
        lambda: Regex("[^\\s\\S]{"),
    ],
)
def test_grammars_that_cannot_be_used(spec):
    sentence(spec)


def test_an_expression_of_no_text(model):
    with pytest.raises(UsageError, match="no text"):
        compile_constraint(model, Regex(r"[^\s\S]"))


@pytest.mark.parametrize(
    ("spec", "alphabet"),
    [
        (Regex("(a|b)*a(a|b){10000}"), "ab"),
        (Regex("((a{1,1000}){1,1000}){1,1000}"), "a"),
        (Regex("(a|aa|aaa){1,1000}(b|bb){1,1000}c"), "abc"),
        (JsonSchema({"type": "string", "pattern": "(a+)+$"}), 'a"'),
        (JsonSchema({"type": "array", "maxItems": 10**9, "items": {"type": "array"}}), "[],"),
        (JsonSchema({"type": "string", "pattern": "^[a-z]*x[a-z]{1,90000}$"}), '"abx'),
        (Grammar('start: start start | "a" | ""'), "a"),
        (Grammar('start: (("a"{1,1000}){1,1000}){1,1000}'), "a"),
        (Grammar('root ::= "a" root'), "a"),
    ],
)
def test_texts_of_the_worst_kind_go_on_or_end_with_a_sentence(model, spec, alphabet):
    constraint, chance = compile_constraint(model, spec), random.Random(1)
    letters = [byte_token(ord(letter)) for letter in alphabet]
    caught = ""
    for _ in range(200):
        try:
            mask = constraint.mask()
            allowed = [token for token in letters if mask[token]]
            allowed = allowed or [token for token in np.flatnonzero(mask) if token > END]
            if not allowed:
                break
            constraint.take(int(chance.choice(allowed)))
        except UsageError as error:
            caught = str(error)
            break
    assert not caught or "cannot go on" in caught
