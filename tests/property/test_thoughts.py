"""Golden streams of each family, cut everywhere: thoughts and answers come out the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.generate.reasoning import FAMILIES
from edgellm.generate.text import Utf8Stream
from edgellm.generate.thoughts import ThoughtParser

THINK = "think"
FINAL = "<|start|>assistant<|channel|>final<|message|>"

# family, whether the prompt opened the thought, the stream, thought, answer
GOLDEN = [
    (THINK, False, "<think>\nTwo and two.\n</think>\n\nFour.", "\nTwo and two.\n", "Four."),
    (THINK, True, "Two\n</think>\n\nFour.", "Two\n", "Four."),
    (THINK, True, "دو و دو</think>چهار می‌شود.", "دو و دو", "چهار می‌شود."),
    (THINK, False, "\n<think>\n\n</think>\n\nFour.", "\n\n", "Four."),
    (THINK, False, " Four, no <think>tags</think>.", "", " Four, no <think>tags</think>."),
    (THINK, False, "<thing> is no tag", "", "<thing> is no tag"),
    (THINK, True, "a < b </thin </think>c", "a < b </thin ", "c"),
    (THINK, True, "never ends </thi", "never ends </thi", ""),
    (THINK, False, "<think>a</think>\n<think>b</think>c <think>", "ab", "c <think>"),
    (THINK, False, "<thi", "", "<thi"),
    (
        "harmony",
        False,
        "<|channel|>analysis<|message|>It is four.<|end|>" + FINAL + "Four.",
        "It is four.",
        "Four.",
    ),
    (
        "harmony",
        False,
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant"
        "<|channel|>analysis<|message|>b<|end|>" + FINAL + "c",
        "ab",
        "c",
    ),
    ("harmony", False, "<|channel|>final<|message|>Four.", "", "Four."),
    ("gemma", False, "<|channel>thought\nx\n<channel|>y", "\nx\n", "y"),
    ("magistral", False, "[THINK]x[y] [/THIN[/THINK]z [1]", "x[y] [/THIN", "z [1]"),
    (
        "cohere",
        False,
        "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>y",
        "x",
        "y",
    ),
    ("cohere", True, "x<|END_THINKING|>\n<|START_RESPONSE|>y", "x", "y"),
    ("seed", False, "<seed:think>x</seed:think>y", "x", "y"),
    ("kimi", False, "◁think▷x ◁ y◁/think▷z", "x ◁ y", "z"),
    ("apertus", False, "<|inner_prefix|>x<|inner_suffix|>y", "x", "y"),
    ("thought", True, "\nx\n</thought>\n\ny", "\nx\n", "y"),
    (
        "granite",
        False,
        "Here is my thought process:\nHere I am.\nHere is my response:\nyes",
        "\nHere I am.\n",
        "yes",
    ),
    ("granite", False, "Here's my thought process: x Here's my response: y", " x ", "y"),
    ("granite", False, "Here is my answer", "", "Here is my answer"),
    ("granite-tags", False, "<think>x</think>\n<response>y", "x", "y"),
    ("hunyuan", False, "<think>\nx\n</think>\n<answer>\ny", "\nx\n", "\ny"),
]


def parted(name: str, opened: bool, chunks: list[str]) -> tuple[str, str]:
    family = next(family for family in FAMILIES if family.name == name)
    parser = ThoughtParser(family, opened=opened)
    deltas = [delta for chunk in chunks for delta in parser.push(chunk)] + parser.finish()
    assert all(delta.text for delta in deltas)
    kinds = [delta.kind for delta in deltas]
    assert kinds == sorted(kinds, reverse=True)  # no thought behind an answer
    text = {
        kind: "".join(delta.text for delta in deltas if delta.kind == kind)
        for kind in ("thinking", "answer")
    }
    return text["thinking"], text["answer"]


def test_there_is_a_stream_of_each_family():
    assert {name for name, *_ in GOLDEN} == {family.name for family in FAMILIES}


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden[0]}-{golden[2][:20]}")
def test_a_stream_that_is_cut_at_any_two_bytes(golden):
    name, opened, text, thought, answer = golden
    raw = text.encode()
    assert parted(name, opened, [text]) == (thought, answer)
    assert parted(name, opened, list(text)) == (thought, answer)
    for first in range(len(raw) + 1):
        for second in range(first, len(raw) + 1, 3):
            decode = Utf8Stream().push
            pieces = [raw[:first], raw[first:second], raw[second:]]
            assert parted(name, opened, [decode(piece) for piece in pieces]) == (thought, answer)


@given(
    st.sampled_from([family.name for family in FAMILIES]),
    st.booleans(),
    st.data(),
)
def test_any_text_comes_out_as_it_does_in_one_piece(name, opened, data):
    family = next(family for family in FAMILIES if family.name == name)
    parts = st.sampled_from([*family.marks, *(mark[:-1] for mark in family.marks), "\n", "a", "م"])
    chunks = data.draw(st.lists(parts | st.text(max_size=3), max_size=8))
    whole = "".join(chunks)
    cut = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cut], [*cut, len(whole)], strict=True)]
    assert parted(name, opened, pieces) == parted(name, opened, [whole])
