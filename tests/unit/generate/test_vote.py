"""What counts as the answer of a text, and which answer wins."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import UsageError
from edgellm.generate.vote import extractor, last_number, majority


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 + 4 = 7 apples.", "7"),
        ("That is 1,234.50 dollars.", "1234.5"),
        ("-5 degrees", "-5"),
        ("from 9-4", "4"),
        ("x=-3", "-3"),
        ("12,5", "5"),
        ("1,2345", "2345"),
        ("it is 7.", "7"),
        ("7.0", "7"),
        ("0.50", "0.5"),
        ("-0", "0"),
        ("1000", "1000"),
        ("جواب ۴۲ است", "42"),
        ("٣٫٥ کیلو", "3.5"),
        ("۱٬۲۰۰ تومان", "1200"),
        ("۷تا", "7"),
        ("the 3rd", "3"),
        ("9" * 101, None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("by", "text", "answer"),
    [
        ("auto", r"so \boxed{12} and not 13", "12"),
        ("auto", "3 and 4", "4"),
        ("auto", "  Paris. ", "paris"),
        ("auto", " ", None),
        ("boxed", r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{$1,000$}", "1000"),
        ("boxed", r"\boxed{never closed", None),
        ("boxed", "7", None),
        ("number", r"\boxed{12} of 13", "13"),
        ("text", "«سلام  دنیا»!", "سلام دنیا"),
        ("choice:A,B,C", "Not A. The answer is (b).", "B"),
        ("choice:A,B", "CAB", None),
        ("choice:yes,yes sir", "well, Yes sir!", "yes sir"),
        ("choice:بله,خیر", "جواب: بله.", "بله"),
        (r"answer: (\w+)", "answer: Ten, answer: Six", "six"),
        (r"#+ \d+", "## 5", "## 5"),
        (r"= ([\d۰-۹]+)", "= ۰۷", "7"),
        (r"a(b)?", "a", "a"),
        ("zzz", "abc", None),
    ],
)
def test_what_counts_as_an_answer(by, text, answer):
    assert extractor(by)(text) == answer


@pytest.mark.parametrize("by", ["(", "[a", "choice:", "choice:a,,b"])
def test_what_says_nothing_is_refused(by):
    with pytest.raises(UsageError, match=r"regular expression|choices"):
        extractor(by)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["1", "2", "2", None], "2"),
        (["1", "2"], "1"),
        (["2", "1", "1", "2"], "2"),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_majority(answers, winner):
    found, votes = majority(answers)
    assert found == winner
    assert votes == Counter(answer for answer in answers if answer is not None)
    assert list(votes.values()) == sorted(votes.values(), reverse=True)


@given(st.text(), st.sampled_from(["auto", "boxed", "number", "text", "choice:a,b", r"(\d)"]))
def test_no_text_breaks_an_extractor(text, by):
    found = extractor(by)(text)
    assert found is None or found
