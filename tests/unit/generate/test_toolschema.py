"""Typed functions become schemas, and arguments are judged as jsonschema judges them."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.generate.toolschema import SchemaError, converted, describe, problem


class Unit(enum.Enum):
    METRE = "m"
    FOOT = "ft"


class Place(TypedDict):
    name: str
    height: NotRequired[float]


def everything(
    text: str,
    count: int,
    share: float,
    sure: bool,
    file: Path,
    words: list[str],
    pair: tuple[int, ...],
    table: dict[str, float],
    way: Literal["up", "down"],
    unit: Unit,
    place: Place,
    note: Annotated[str, "what it is about"] = "",
    maybe: int | None = None,
) -> str:
    """Do it all.

    And say so.

    Args:
        text: a text
            of two lines.
        count (int): how many.

    Returns:
        nothing of use.
    """
    return ""


SCHEMA = describe(everything)["parameters"]
GOOD: dict[str, Any] = {
    "text": "سلام", "count": 2, "share": 1, "sure": True, "file": "a.txt", "words": ["a"],
    "pair": [1, 2], "table": {"x": 1.5}, "way": "up", "unit": "ft", "place": {"name": "خانه"},
}  # fmt: skip


def test_a_function_is_described():
    described = describe(everything)
    assert described["name"] == "everything"
    assert described["description"].startswith("Do it all.\n\nAnd say so.")
    assert "two lines" not in described["description"]
    properties = SCHEMA["properties"]
    assert list(properties) == [*GOOD, "note", "maybe"]
    assert properties["text"] == {"type": "string", "description": "a text of two lines."}
    assert properties["count"] == {"type": "integer", "description": "how many."}
    assert properties["way"] == {"enum": ["up", "down"], "type": "string"}
    assert properties["unit"] == {"enum": ["m", "ft"], "type": "string"}
    assert properties["note"] == {
        "type": "string",
        "description": "what it is about",
        "default": "",
    }
    assert properties["maybe"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert SCHEMA["required"] == list(GOOD)
    assert SCHEMA["additionalProperties"] is False


def test_sphinx_notes_are_read():
    def find(word: str) -> str:
        """Find a word.

        :param word: the word
            to find.
        """
        return word

    described = describe(find)
    assert described["description"] == "Find a word."
    assert described["parameters"]["properties"]["word"]["description"] == "the word to find."


def test_values_come_back_as_the_function_wants_them():
    values = converted(everything, GOOD | {"maybe": None, "count": 3.0})
    assert values["file"] == Path("a.txt")
    assert values["unit"] is Unit.FOOT
    assert values["pair"] == (1, 2)
    assert (values["share"], type(values["share"])) == (1.0, float)
    assert (values["count"], type(values["count"])) == (3, int)
    assert values["maybe"] is None


def no_type(a: int, b) -> int:
    return a


def any_type(a: Any) -> int:
    return a


def bare(a: list) -> int:
    return 1


def number_keys(a: dict[int, str]) -> int:
    return 1


def unknown(a: NoSuchType) -> int:  # noqa: F821
    return 1


def many(*words: str) -> int:
    return 1


def float_choice(a: Literal[b"x"]) -> int:
    return 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_type, "no_type: the parameter 'b' has no type"),
        (any_type, "any_type: the parameter 'a' has the type Any"),
        (bare, "bare: the parameter 'a' has the type list"),
        (number_keys, "number_keys: the parameter 'a' has the type"),
        (unknown, "unknown: its types cannot be read (name 'NoSuchType'"),
        (many, "many: the parameter 'words' cannot be given by its name"),
        (float_choice, "float_choice: the parameter 'a' has choices that are not"),
        (lambda a: a, "no name for a tool"),
    ],
)
def test_what_cannot_be_offered_is_named(function, said):
    with pytest.raises(SchemaError) as error:
        describe(function)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": "ten"}, 'the argument count must be a whole number, and is "ten"'),
        ({"count": True}, "the argument count must be a whole number, and is true"),
        ({"words": ["a", 1]}, "the argument words[1] must be a text, and is 1"),
        ({"way": "left"}, 'the argument way must be one of "up", "down", and is "left"'),
        ({"place": {}}, "the argument place.name is missing"),
        ({"colour": 1}, "there is no argument colour; there is: text, count"),
        ({"maybe": "x"}, "the argument maybe must be a whole number, and is \"x\"; or "),
        ({"table": {"x": "y"}}, 'the argument table.x must be a number, and is "y"'),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_said_clearly(change, said):
    assert problem(SCHEMA, GOOD | change).startswith(said)


def test_what_is_missing_is_said():
    assert problem(SCHEMA, {}) == "the argument text is missing"
    assert problem(SCHEMA, GOOD) is None


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2),
    st.sampled_from(["up", "m", "x", ""]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "height", "z"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "other"]), VALUES, max_size=4))
def test_it_judges_as_jsonschema_does(change):
    from jsonschema import Draft202012Validator

    value = GOOD | change
    assert (problem(SCHEMA, value) is None) == Draft202012Validator(SCHEMA).is_valid(value)
