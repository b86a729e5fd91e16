"""Schemas of any shape: what a model writes under one to its end is valid, by another validator."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgellm.api.chat import LoadedModel, load
from edgellm.backends.base import Sampling
from edgellm.errors import UsageError
from edgellm.generate.constraint import JsonSchema
from edgellm.generate.constraint_keywords import FORMATS
from tinygguf import write_tiny

NAMES = st.sampled_from(["a", "b", "نام", "شهر", "a/b~c", 'q"\\', "", "x y"])
WORDS = st.sampled_from(["", "yes", "تهران", "می‌رود", 'a"b', "\\", "new\nline", "😀", "\u0001"])
SMALL = st.integers(-20, 20)
PATTERNS = ["^[a-c]{2,4}$", "[0-9]", "^(آری|نه)$", "^\\d{3}-\\w+$", "^x?y*$"]


def _bounds(low: str, high: str, values: st.SearchStrategy) -> st.SearchStrategy:
    """Two keywords, the lower one not above the higher, either of which may be missing."""
    both = st.tuples(values, values).map(sorted)
    return st.tuples(both, st.sets(st.sampled_from([low, high]))).map(
        lambda drawn: {
            name: value
            for name, value in zip((low, high), drawn[0], strict=True)
            if name in drawn[1]
        }
    )


def _merged(*parts: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(*parts).map(
        lambda drawn: {name: value for part in drawn for name, value in part.items()}
    )


def _kind(name: str) -> st.SearchStrategy:
    return st.just({"type": name})


PLAIN = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["null", "boolean"]}]),
    _merged(_kind("integer"), _bounds("minimum", "maximum", SMALL)),
    _merged(_kind("integer"), _bounds("exclusiveMinimum", "maximum", SMALL)).filter(
        lambda schema: schema.get("exclusiveMinimum", -99) < schema.get("maximum", 99)
    ),
    _merged(_kind("integer"), st.integers(1, 9).map(lambda step: {"multipleOf": step})),
    _merged(_kind("number"), _bounds("minimum", "maximum", st.sampled_from([-2.5, 0, 0.125, 7]))),
    st.just({"type": "number", "multipleOf": 0.25, "minimum": -3, "maximum": 3}),
    _merged(_kind("string"), _bounds("minLength", "maxLength", st.integers(0, 6))),
    st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
    st.lists(WORDS | SMALL | st.none() | st.booleans(), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    st.recursive(
        WORDS | SMALL,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
        max_leaves=4,
    ).map(lambda value: {"const": value}),
)
SCALARS = PLAIN | st.sampled_from(["#/$defs/one", "#/$defs/two"]).map(lambda to: {"$ref": to})


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    arrays = _merged(
        _kind("array"),
        inner.map(lambda schema: {"items": schema}),
        _bounds("minItems", "maxItems", st.integers(0, 3)),
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda schemas: {"type": "array", "prefixItems": schemas, "items": False}
    )
    objects = st.tuples(
        st.dictionaries(NAMES, inner, max_size=4),
        st.sets(NAMES, max_size=3),
        st.just(False) | inner,
    ).map(
        lambda drawn: {
            "type": "object",
            "properties": drawn[0],
            "required": sorted(drawn[1] & set(drawn[0])),
            "additionalProperties": drawn[2],
        }
    )
    tagged = st.tuples(inner, inner).map(
        lambda pair: {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": name}, "value": schema},
                    "required": ["kind", "value"],
                    "additionalProperties": False,
                }
                for name, schema in zip(("first", "second"), pair, strict=True)
            ]
        }
    )
    either = st.lists(inner, min_size=2, max_size=3).map(lambda schemas: {"anyOf": schemas})
    together = st.tuples(objects, SCALARS).map(
        lambda pair: {"allOf": [{"type": "object", "properties": {"c": pair[1]}}, pair[0]]}
    )
    return arrays | tuples | objects | tagged | either | together


NEST = {"type": "array", "items": {"$ref": "#/$defs/two"}}
SCHEMAS = st.tuples(
    st.recursive(SCALARS, _containers, max_leaves=6),
    PLAIN,
).map(
    lambda drawn: {
        **drawn[0],
        "$defs": {
            "one": drawn[1],
            "two": {
                "anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/two"}}]
            },
        },
    }
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny(path, context=4096)
    with load(path, threads=1) as loaded:
        yield loaded


def is_valid(schema, text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    checker = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator(schema, format_checker=checker).is_valid(value)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(schema=SCHEMAS, seed=st.integers(0, 10_000))
def test_what_is_written_to_its_end_is_valid(model: LoadedModel, schema, seed):
    Draft202012Validator.check_schema(schema)
    # So hot that all tokens are about as likely: a walk by chance through what is allowed.
    wild = Sampling(temperature=50, top_k=0, top_p=1, min_p=0, seed=seed)
    try:
        spec = JsonSchema(schema)
        generation = model.complete("a", constraint=spec, sampling=wild, max_tokens=300)
    except UsageError as error:
        if "no text satisfies it" in str(error) and "allOf" in spec.text:
            return  # schemas that exclude each other
        raise
    result = generation.read()
    event(result.finish_reason)
    if result.finish_reason == "stop":
        assert result.complete
    assert result.complete is is_valid(schema, result.text), result.text
