"""Thoughts at the command line, of a tiny model whose template begins one."""

from __future__ import annotations

import json
import sys

import pytest

from edgellm.generate.saved import load_session
from tinygguf import PERSIAN, TEMPLATE, write_tiny

ANSWER = "Hi " + PERSIAN
OPENING = TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
GREEDY = ("--temp", "0")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    path = tmp_path_factory.mktemp("thinker") / "thinker.gguf"
    return str(write_tiny(path, answer=ANSWER, template=OPENING))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    path = tmp_path_factory.mktemp("endless") / "endless.gguf"
    return str(write_tiny(path, answer=None, template=OPENING))


@pytest.fixture
def tiny(tmp_path):
    return str(write_tiny(tmp_path / "tiny.gguf"))


def test_the_answer_alone_is_on_stdout(call, thinker):
    assert call("run", thinker, "x", *GREEDY) == (0, ANSWER + "\n", "")
    assert call("run", thinker, "x", *GREEDY, "--think", "hide") == (0, ANSWER + "\n", "")
    status, out, err = call("run", thinker, "x", *GREEDY, "--think", "show")
    assert (status, out, err.strip()) == (0, ANSWER + "\n", ANSWER)
    assert "\x1b" not in err


def test_a_terminal_shows_thoughts_dimmed(call, thinker, monkeypatch):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _self: True)
    _, out, err = call("run", thinker, "x", *GREEDY)
    assert out.strip() == ANSWER
    assert "\x1b[2m" + ANSWER in err
    assert err.index("\x1b[0m") > err.index(ANSWER)
    assert "\x1b[2m" not in call("run", thinker, "x", *GREEDY, "--think", "hide")[2]


def test_json_has_thoughts_apart(call, thinker):
    _, out, _ = call("run", thinker, "x", *GREEDY, "--json")
    found = json.loads(out)
    assert (found["text"], found["thinking"]) == (ANSWER, ANSWER)
    assert found["thinking_tokens"] == len((ANSWER + "</think>\n\n").encode())
    assert found["completion_tokens"] == found["thinking_tokens"] + len(ANSWER.encode())
    _, out, _ = call("run", thinker, "x", *GREEDY, "--json", "--think", "off")
    assert (json.loads(out)["thinking"], json.loads(out)["text"]) == ("", ANSWER)


def test_a_budget_and_a_minimum(call, endless):
    options = ("--think-budget", "70", "--think-min", "60", "-n", "80", "--json")
    _, out, _ = call("run", endless, "x", *GREEDY, *options)
    assert json.loads(out)["thinking_tokens"] == 70
    assert json.loads(out)["text"] == "abcdefgabc"


def test_a_thought_that_takes_all_is_said(call, endless):
    status, out, err = call("run", endless, "x", *GREEDY, "-n", "9")
    assert (status, out) == (0, "")
    assert "there is no answer: -n is reached within the thought of 9 tokens" in err
    _, out, err = call("chat", endless, *GREEDY, "-n", "9", stdin="x\n")
    assert out == ""
    assert "there is no answer" in err


@pytest.mark.parametrize(
    "options", [("--think", "show"), ("--think-budget", "9"), ("--think-min", "9")]
)
def test_a_model_that_does_not_think_says_so(call, tiny, options):
    status, out, err = call("run", tiny, "x", *options)
    assert (status, out) == (2, "")
    assert "this model has no thinking" in err
    assert call("run", tiny, "x", "--raw", *options)[0] == 2


def test_options_that_make_no_sense(call, thinker):
    for options in (("--think-budget", "5", "--think-min", "6"), ("--think-budget", "-2")):
        assert call("run", thinker, "x", *options)[0] == 2
    status, _, err = call("run", thinker, "x", "--think", "off", "--think-min", "6")
    assert status == 2
    assert "thinking is off" in err
    assert call("run", thinker, "x", "--samples", "2", "--think-budget", "5")[0] == 2


def test_commands_of_a_chat(call, thinker, tiny):
    lines = "/think\nx\n/think show\nx\n/think off\nx\n/think\n/set think_budget 90\n/think no\n"
    status, out, err = call("chat", thinker, *GREEDY, stdin=lines)
    assert out == f"{ANSWER}\n" * 3
    assert err.count(ANSWER) == 1
    for sentence in ("Thoughts are shown.", "Thoughts are off.", "thinking is off"):
        assert sentence in err
    status, _, err = call("chat", tiny, stdin="/think show\n")
    assert status == 2
    assert "no thinking" in err


def test_a_thought_is_kept_with_its_session(call, thinker):
    call("chat", thinker, *GREEDY, "--session", "work", stdin="x\n")
    saved = load_session("work")
    assert [(m.content, m.thinking) for m in saved.messages] == [("x", ""), (ANSWER, ANSWER)]
    # It goes on without the thought, which the template leaves out.
    _, out, _ = call("chat", "--session", "work", *GREEDY, "--json", stdin="y\n")
    assert json.loads(out)["text"] == ANSWER
    assert load_session("work").messages[1].thinking == ANSWER
