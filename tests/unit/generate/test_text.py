"""Whole characters and stop strings, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.generate.text import StopFilter, Utf8Stream


@given(st.text(max_size=40), st.data())
def test_any_cut_of_the_bytes_gives_the_text_and_no_broken_character(text, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    stream = Utf8Stream()
    chunks = [stream.push(raw[a:b]) for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert "".join(chunks) == text


def test_zero_width_non_joiner_byte_by_byte():
    stream = Utf8Stream()
    seen = [stream.push(bytes([value])) for value in "می‌خواهم".encode()]
    assert "".join(seen) == "می‌خواهم"
    assert all("\ufffd" not in part for part in seen)


def test_impossible_bytes_become_the_replacement_character_and_text_goes_on():
    stream = Utf8Stream()
    assert stream.push(b"a\xffb") == "a\ufffdb"
    assert stream.push(b"\xd9") == ""
    assert stream.push(b"c") == "\ufffdc"


def naive_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Go letter by letter: the first stop string that is complete ends it, the longest of those."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    st.text("ab<", max_size=20),
    st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_stop_strings_do_not_depend_on_the_chunks(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stop = StopFilter(stops)
    out = "".join(stop.push(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
    out += stop.finish()
    assert (out, stop.hit) == naive_stop(text, stops)


def test_the_beginning_of_a_stop_string_is_held_back_and_given_when_it_is_none():
    stop = StopFilter(["User:"])
    assert stop.push("ok Us") == "ok "
    assert stop.push("ers") == "Users"
    assert stop.push(" User") == " "
    assert stop.finish() == "User"


@pytest.mark.parametrize("after", ["", "more"])
def test_nothing_comes_after_a_hit(after):
    stop = StopFilter(["\n"])
    assert stop.push("one\ntwo") == "one"
    assert stop.hit == "\n"
    assert stop.push(after) == ""
    assert stop.finish() == ""
