"""Conversations on disk."""

from __future__ import annotations

import json

import pytest

from edgellm.errors import EdgellmError, NotFoundError, UsageError
from edgellm.generate.saved import (
    SavedSession,
    load_session,
    save_session,
    session_names,
    sessions_dir,
)
from edgellm.generate.template import Message

TALK = SavedSession(
    "smollm2", "کوتاه بگو", (Message("user", "سلام"), Message("assistant", "می‌بینم"))
)


def test_what_is_saved_comes_back_and_is_private():
    path = save_session("first", TALK)
    assert load_session("first") == TALK
    assert path.stat().st_mode & 0o077 == 0
    assert "می‌بینم" in path.read_text("utf-8")  # people can read their conversations


def test_what_the_model_no_longer_sees_comes_back():
    folded = SavedSession(None, None, TALK.messages, "خلاصه‌ای", 1)
    save_session("folded", folded)
    assert load_session("folded") == folded
    assert "forgotten" not in save_session("first", TALK).read_text("utf-8")


def test_saving_again_replaces_and_leaves_nothing_else():
    save_session("a", TALK)
    save_session("a", SavedSession(None, None, ()))
    assert load_session("a") == SavedSession(None, None, ())
    assert [entry.name for entry in sessions_dir().iterdir()] == ["a.json"]


def test_a_failed_save_keeps_the_old_one(monkeypatch):
    save_session("a", TALK)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        save_session("a", SavedSession(None, None, ()))
    assert caught.value.filename == str(sessions_dir() / "a.json")
    assert load_session("a") == TALK
    assert [entry.name for entry in sessions_dir().iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101, "..", "-c", "a\n"]
)
def test_a_name_never_leads_out_of_the_folder(name):
    with pytest.raises(UsageError):
        save_session(name, TALK)
    with pytest.raises(UsageError):
        load_session(name)


@pytest.mark.parametrize("name", ["گفتگو", "نامه\u200cها"])
def test_persian_names(name):
    save_session(name, TALK)
    (sessions_dir() / "gone.json").symlink_to("nowhere")
    assert session_names() == [name]
    assert load_session(name) == TALK


def test_what_is_not_there_names_what_is():
    save_session("here", TALK)
    with pytest.raises(NotFoundError) as caught:
        load_session("there")
    assert caught.value.hint == "saved: here"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1, "model": 5, "system": null, "messages": []}',
        '{"version": 1, "model": null, "system": null, "messages": [{"role": "user"}]}',
        '{"version": 1, "model": null, "system": null, "messages": 7}',
        json.dumps({"version": 1, "model": None, "system": None,
                    "messages": [{"role": "system", "content": "x"}]}),
        json.dumps({"version": 1, "model": None, "system": None,
                    "messages": [{"role": "user", "content": "x"}]}),
        '{"version": 1, "model": null, "system": null, "messages": [], "forgotten": 1}',
        '{"version": 1, "model": null, "system": null, "messages": [], "forgotten": true}',
        '{"version": 1, "model": null, "system": null, "messages": [], "summary": 3}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_conversation(body):
    sessions_dir().mkdir(parents=True)
    (sessions_dir() / "bad.json").write_text(body)
    with pytest.raises(EdgellmError, match=r"bad\.json: not a saved conversation"):
        load_session("bad")
