"""Texts are read as they are, or refused in one sentence."""

from __future__ import annotations

import hashlib

import pytest

from edgellm.errors import EdgellmError, NotFoundError, UsageError
from edgellm.evaluate import texts
from edgellm.evaluate.texts import Text, parse_text, read_texts
from edgellm.generate.template import Message

TURNS = (
    '{"messages": [{"role": "user", "content": "سلام"}, {"role": "assistant", "content": "Hi"}]}'
)


def test_a_plain_text_keeps_every_character(tmp_path):
    path = tmp_path / "plain.txt"
    path.write_bytes("one\r\n\ttwo می‌شود\n\n".encode())
    assert read_texts([path]) == (Text("plain.txt", "und", content="one\r\n\ttwo می‌شود\n\n"),)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "plain.txt"
    path.write_bytes(b"\xef\xbb\xbfone")
    assert read_texts([path])[0].content == "one"


def test_each_line_is_a_conversation(tmp_path):
    path = tmp_path / "talk.JSONL"
    inside = '{"messages": [{"role": "system", "content": "a\u2028b"}]}'
    path.write_text(f"{TURNS}\r\n\n{inside}", "utf-8")
    assert read_texts([path])[0].conversations == (
        (Message("user", "سلام"), Message("assistant", "Hi")),
        (Message("system", "a\u2028b"),),
    )


def test_files_of_one_name_are_named_after_their_paths(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.txt", tmp_path / "other" / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("text")
    assert [text.name for text in read_texts(paths)] == [str(paths[0]), str(paths[1]), "b.txt"]
    with pytest.raises(UsageError, match="is given twice"):
        read_texts([paths[0], paths[0]])


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.txt", b"ab\xff", "a.txt is not UTF-8: byte 2 is 0xff"),
        ("a.txt", " \n\u3000".encode(), "a.txt holds no text"),
        ("a.jsonl", b"", "a.jsonl holds no text"),
        ("a.jsonl", b"\n{", "a.jsonl, line 2: this is not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: this is not JSON"),
        ("a.jsonl", b"[]", "a.jsonl, line 1: there is no list of messages"),
        ("a.jsonl", b'{"messages": []}', "there is no list of messages"),
        ("a.jsonl", b'{"messages": ["a"]}', "role is None, and must be one of system, user"),
        ("a.jsonl", b'{"messages": [{"role": ["user"]}]}', r"role is \['user'\], and must be"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": [1]}]}',
            "line 1: a message of the user has no content that is text",
        ),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
            "line 1: a message holds half a surrogate pair",
        ),
    ],
)
def test_a_file_that_is_wrong_gets_one_sentence(tmp_path, name, data, sentence):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_texts([path])
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match=r"none\.txt is not there"):
        read_texts([tmp_path / "none.txt"])
    with pytest.raises(UsageError, match="cannot be read"):
        read_texts([tmp_path])
    monkeypatch.setattr(texts, "MAX_TEXT_BYTES", 8)
    (tmp_path / "a.txt").write_bytes(b"12345678")
    assert read_texts([tmp_path / "a.txt"])[0].content == "12345678"
    (tmp_path / "a.txt").write_bytes(b"123456789")
    with pytest.raises(EdgellmError, match="more than 8 bytes"):
        read_texts([tmp_path / "a.txt"])


def test_the_hash_is_of_what_a_text_says():
    assert Text("a", "fa", content="سلام").sha256 == hashlib.sha256("سلام".encode()).hexdigest()
    one = parse_text(TURNS.encode(), name="a", language="fa", where="a.jsonl")
    spaced = parse_text(TURNS.replace(": ", ":").encode(), name="b", language="en", where="b.jsonl")
    line = '[[["user","سلام"],["assistant","Hi"]]]'
    assert one.sha256 == spaced.sha256 == hashlib.sha256(line.encode()).hexdigest()
