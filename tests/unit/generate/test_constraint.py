"""What constraints allow, by other readers of the same schemas, grammars and expressions."""

from __future__ import annotations

import gc
import json
import random
import re
import weakref

import numpy as np
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import validator_for

import tiny
from edgellm.api.chat import load
from edgellm.errors import UsageError
from edgellm.generate.constraint import Grammar, JsonSchema, Regex, compile_constraint
from edgellm.generate.constraint_keywords import FORMATS
from edgellm.generate.engine import GenerateOptions
from edgellm_converters.pipeline import convert
from tinygguf import END, START, write_tiny

CHECKER: FormatChecker = Draft202012Validator.FORMAT_CHECKER


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with load(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"), threads=1) as loaded:
        yield loaded.model


def walk(model, spec, seed: int, limit: int = 400) -> str | None:
    """Write by chance among what is allowed; None if that does not end."""
    constraint, chance, raw = compile_constraint(model, spec), random.Random(seed), bytearray()
    for _ in range(limit):
        if constraint.complete or (constraint.allows(END) and chance.random() < 0.3):
            return raw.decode()
        allowed = [token for token in np.flatnonzero(constraint.mask()) if token > END]
        if not allowed:
            return raw.decode()
        token = int(chance.choice(allowed))
        constraint.take(token)
        raw += model.token_bytes(token)
    return None


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
PETS = {
    "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
    "discriminator": {"propertyName": "kind"},
    "$defs": {
        "cat": {
            "type": "object",
            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
            "required": ["kind"],
        },
        "dog": {"properties": {"kind": {"const": "dog"}}, "required": ["kind"], "type": "object"},
    },
}
DRAFT4 = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "id": "http://example.com/one",
    "type": "array",
    "items": [{"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "boolean"}],
    "additionalItems": False,
    "minItems": 2,
}


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (TREE, [{"value": 1}, {"value": 1, "children": [{"value": 2, "children": []}]}, {}, 3,
                {"value": 1, "x": 2}, {"value": 1.5}]),
        (PETS, [{"kind": "cat", "lives": 9}, {"kind": "dog"}, {"kind": "cow"}, {},
                {"kind": "cat", "lives": "many"}, {"kind": "dog", "lives": "many"}]),
        (DRAFT4, [[0.5, True], [0, True], [1, True, 2], [1], [-1, False], "x"]),
        ({"type": "string", "minLength": 2, "maxLength": 3},
         ["a", "ab", "سلا", "سلام", "😀😀", "\n\n", '""', 12]),
        ({"enum": ["تهران", 1, None, [1, "a"], {"b": 2}]},
         ["تهران", 1, 1.5, None, [1, "a"], ["a", 1], {"b": 2}, {"b": 3}, "تهر"]),
        ({"type": ["integer", "null"], "minimum": -3, "multipleOf": 2},
         [-4, -2, 0, 7, 8, None, False, "2"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [0, 0.5, 1, 1.5, -0.5]),
        ({"type": "object", "patternProperties": {"^n_": {"type": "integer"}},
          "additionalProperties": {"type": "string"}, "minProperties": 1},
         [{"n_a": 1}, {"n_a": "x"}, {"other": "x"}, {"other": 1}, {}]),
        ({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"properties": {"a": {"minimum": 5}, "b": {"type": "null"}}}]},
         [{"a": 5}, {"a": 4}, {"a": 5, "b": None}, {"a": 5, "b": 1}, {"b": None}]),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"},
          "maxItems": 3}, [[], [1], [1, "a"], ["a"], [1, 2], [1, "a", "b", "c"]]),
        ({"oneOf": [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3},
                    {"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 5}]},
         ["ab", "abc", 3, 4, 5, None]),
        (True, [1, "x", [{"a": None}]]),
        ({}, [1, "x", {"a": [1.5]}]),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"const": 1}}}, [1, 2]),
    ],
)  # fmt: skip
def test_the_texts_of_a_schema(model, schema, values):
    validator = validator_for(schema, Draft202012Validator)(schema)
    verdicts = {validator.is_valid(value) for value in values}
    constraint = compile_constraint(model, JsonSchema(schema))
    for value in values:
        text = json.dumps(value, ensure_ascii=False)
        assert constraint.satisfied_by(text) is validator.is_valid(value), text
    assert True in verdicts


@pytest.mark.parametrize("name", FORMATS)
def test_the_texts_of_a_format(model, name):
    assert name in CHECKER.checkers, "the validator would let everything through"
    schema = {"type": "string", "format": name}
    texts = [walk(model, JsonSchema(schema), seed) for seed in range(40)]
    found = [json.loads(text) for text in texts if text is not None]
    assert len(found) > 10
    for text in found:
        assert CHECKER.conforms(text, name), text


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("date", "2024-02-29", True), ("date", "2023-02-29", False), ("date", "1900-02-29", False),
        ("date", "2000-02-29", True), ("date", "2023-04-31", False), ("date", "0000-01-01", False),
        ("date-time", "2024-02-29T23:59:59.5+03:30", True),
        ("date-time", "2023-02-29T00:00:00Z", False), ("date-time", "2024-01-01T00:00:60Z", False),
        ("time", "23:59:59Z", True), ("time", "24:00:00Z", False),
        ("email", "a@b.ir", True), ("email", "ab", False),
        ("ipv4", "255.1.1.1", True), ("ipv4", "256.1.1.1", False),
        ("hostname", "a" * 64, False), ("hostname", ".".join(["a" * 60] * 5), False),
    ],
)  # fmt: skip
def test_the_bounds_of_a_format(model, name, text, right):
    assert CHECKER.conforms(text, name) is right
    constraint = compile_constraint(model, JsonSchema({"type": "string", "format": name}))
    assert constraint.satisfied_by(json.dumps(text)) is right


def test_letters_are_written_as_letters(model):
    constraint = compile_constraint(model, JsonSchema({"type": "string"}))
    assert constraint.satisfied_by('"سلام\\n😀"')
    assert constraint.satisfied_by('"\\u0001"')
    assert not constraint.satisfied_by('"\\u0633\\u0644"')
    assert not constraint.satisfied_by('"\\ud83d"')


def test_json_is_written_on_one_line(model):
    constraint = compile_constraint(model, JsonSchema({"type": "object"}))
    value = {"a": [1, 2.5, {"ب": None}], "c": {}, "d": []}
    assert constraint.satisfied_by(json.dumps(value, ensure_ascii=False))
    assert not constraint.satisfied_by(json.dumps(value, ensure_ascii=False, indent=1))
    assert not constraint.satisfied_by('{"a":1}')
    assert not constraint.satisfied_by(' {"a": 1}')


@pytest.mark.parametrize("pattern", ["[0-9]{2,4}", "(آری|نه)", "a.c", r"\p{Arabic}+", "x?", "^a$"])
def test_the_texts_of_a_regular_expression(model, pattern):
    constraint = compile_constraint(model, Regex(pattern))
    ours = re.compile(pattern.replace(r"\p{Arabic}", "[\u0600-\u06ff]"))
    for text in ("", "1", "12", "12345", "آری", "نه", "آر", "abc", "aسc", "a\nc", "سلام", "x", "a"):
        assert constraint.satisfied_by(text) is (ours.fullmatch(text) is not None), text


GBNF = 'root ::= item (", " item)*  # a list\nitem ::= [a-c]+ | "«" [^»]* "»" | "\\n"{2}'
# A mark of several bytes ends a text only within one terminal (capitals): the engine's lexer does
# not go back by a byte.
LARK = 'start: ITEM (", " ITEM)*  // a list\nITEM: /[a-c]+/ | "«" /[^»]*/ "»" | "\\n\\n"'


@pytest.mark.parametrize("grammar", [GBNF, LARK], ids=["gbnf", "lark"])
def test_the_texts_of_a_grammar(model, grammar):
    constraint = compile_constraint(model, Grammar(grammar))
    for text in ("a", "abc, b", "«سلام», a", "\n\n", "«», «»"):
        assert constraint.satisfied_by(text), text
    for text in ("", "d", "a,b", "«سلام", "\n", "a, "):
        assert not constraint.satisfied_by(text), text


def test_a_schema_within_a_grammar_is_checked_and_written_alike(model):
    schema = {"properties": {"a": {"type": "integer"}}, "required": ["a"], "type": "object"}
    text = f'start: "%json {{" call // %json {{\ncall: %json {json.dumps(schema)} "!"'
    constraint = compile_constraint(model, Grammar(text))
    assert constraint.satisfied_by('%json {{"a": 1}!')
    assert not constraint.satisfied_by('%json {{"a":1}!')
    with pytest.raises(UsageError, match=r"keyword foo .*#/foo"):
        compile_constraint(model, Grammar('start: %json {"foo": 1}'))
    with pytest.raises(UsageError, match="%json"):
        compile_constraint(model, Grammar('start: %json {"foo": '))


def test_a_grammar_may_name_control_tokens(model):
    constraint = compile_constraint(model, Grammar('start: "a" <|im_start|> "b"'))
    constraint.take(model.tokenize("a", special=False)[-1])
    assert np.flatnonzero(constraint.mask()).tolist() == [START]
    with pytest.raises(UsageError, match="nope"):
        compile_constraint(model, Grammar("start: <|nope|>"))


def test_a_repetition_has_a_number(model):
    constraint = compile_constraint(model, JsonSchema({"type": "array", "maxItems": 10**9}))
    assert constraint.satisfied_by("[1, 2, 3]")


def test_options_refuse_what_no_model_could_obey():
    with pytest.raises(UsageError, match="#/foo"):
        GenerateOptions(constraint=JsonSchema({"foo": 1}))
    with pytest.raises(UsageError, match="unclosed group"):
        GenerateOptions(constraint=Regex("("))
    GenerateOptions(constraint=Grammar("start: <|only-a-model-knows|>"))


def test_what_has_to_follow_is_known_and_looking_changes_nothing(model):
    schema = {
        "type": "object",
        "properties": {"نام": {"type": "string", "maxLength": 3}, "age": {"enum": [10, 11]}},
        "required": ["نام", "age"],
        "additionalProperties": False,
    }
    constraint = compile_constraint(model, JsonSchema(schema))
    written = model.tokenize('{"نام": "a", "age": 11}', special=False)
    found = {}
    for place, token in enumerate(written):
        before = constraint.mask()
        forced = constraint.forced(token)
        assert constraint.forced(END) == constraint.forced(START) == ()
        assert (constraint.mask() == before).all()
        found[place] = b"".join(model.token_bytes(each) for each in forced)
        constraint.take(token)
        copy = constraint.copy()
        for each in forced:
            assert copy.allows(each)
            copy.take(each)
    assert found[0].decode() == '"نام": "'
    letter = written.index(model.tokenize("a", special=False)[-1])
    assert found[letter] == b""
    assert found[letter + 1] == b', "age": 1'
    assert found[len(written) - 2] == b"}"


def test_a_model_is_not_kept_by_its_constraints(tmp_path):
    loaded = load(write_tiny(tmp_path / "tiny.gguf"), threads=1)
    constraint = compile_constraint(loaded.model, JsonSchema({"type": "integer"}))
    there = weakref.ref(loaded.model)
    loaded.close()
    del loaded
    gc.collect()
    assert there() is None
    assert constraint.satisfied_by("12")


def test_a_mask_is_what_is_allowed_also_where_a_text_is_forced(tmp_path) -> None:
    """SentencePiece puts a space before a text, which is in none where a grammar forces one."""
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "tiny.gguf")
    with load(tmp_path / "tiny.gguf", threads=1) as loaded:
        model = loaded.model
        for text in ("[12] x: abc", " a  b", "می\u200cروم [1]"):
            constraint = compile_constraint(model, Regex(re.escape(text)))
            raw = bytearray()
            while not constraint.complete and bytes(raw) != text.encode():
                mask = constraint.mask()
                each = [constraint.allows(token) for token in range(model.vocabulary_size)]
                assert mask.any()
                assert all(each[token] for token in np.flatnonzero(mask))
                token = int(np.flatnonzero(mask)[-1])
                constraint.take(token)
                raw += model.token_bytes(token)
            assert raw.decode() == text


def test_what_is_forced_is_not_composed(tmp_path, monkeypatch):
    # As the tokenizers of Qwen do: e and an acute accent become one letter.
    decomposed = "cafe\u0301 «ا\u0653»"
    with load(write_tiny(tmp_path / "tiny.gguf"), threads=1) as loaded:
        monkeypatch.setattr(loaded.model, "_composes", True)
        spec = JsonSchema({"const": decomposed})
        result = loaded.complete("a", constraint=spec, max_tokens=60).read()
    assert result.finish_reason == "stop"
    assert json.loads(result.text) == decomposed
