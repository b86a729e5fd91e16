"""Answers of a given form from the command line, on a tiny model whose greedy text is known."""

from __future__ import annotations

import json

import pytest

from edgellm.cli.main import run as edgellm
from tinygguf import PERSIAN, write_tiny

GREEDY = ("--temp", "0", "-t", "1")
SCHEMA = {"type": "array", "items": {"enum": ["تهران", "شیراز"]}, "minItems": 2, "maxItems": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


def test_a_schema_from_the_command_line_or_a_file(call, tiny, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text("\ufeff" + json.dumps(SCHEMA), encoding="utf-8")
    for given in (json.dumps(SCHEMA), str(file)):
        status, out, err = call("run", tiny, "hello", "--json-schema", given, *GREEDY)
        assert (status, err) == (0, "")
        assert len(out.splitlines()) == 1
        answer = json.loads(out)
        assert len(answer) == 2
        assert set(answer) <= {"تهران", "شیراز"}
        assert "\\u" not in out


def test_a_grammar_from_a_file_and_an_expression(call, tiny, tmp_path):
    file = tmp_path / "form.gbnf"
    file.write_text('root ::= "yes" | "نه"', encoding="utf-8")
    status, out, _ = call("run", tiny, "hello", "--grammar", str(file), *GREEDY)
    assert (status, out.strip() in ("yes", "نه")) == (0, True)
    assert call("run", tiny, "hello", "--regex", "[0-9]{3}", *GREEDY)[1].strip().isdecimal()
    # What the model would write anyway is written as it is.
    assert call("run", tiny, "hello", "--regex", "H.*", *GREEDY) == (0, f"Hi {PERSIAN}\n", "")


def test_an_answer_that_was_cut_has_a_status_of_its_own(call, tiny):
    ask = ("run", tiny, "hello", "--json-schema", json.dumps(SCHEMA), *GREEDY)
    status, out, err = call(*ask, "-n", "5")
    assert status == 7
    assert out.startswith('["')
    assert "not whole" in err
    assert "5 tokens" in err
    status, out, _ = call(*ask, "-n", "5", "--json")
    assert (status, json.loads(out)["complete"]) == (7, False)
    status, out, _ = call(*ask, "--json")
    assert (status, json.loads(out)["complete"]) == (0, True)
    status, out, err = call(*ask, "--stop", ",")
    assert (status, "stop string" in err) == (7, True)
    # Cut exactly behind its last token it is whole.
    status, out, err = call("run", tiny, "hello", "--regex", "[0-9]{3}", "-n", "3", *GREEDY)
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        (["--json-schema", '{"foo": 1}'], 2, "the keyword foo is not supported (at #/foo)"),
        (["--json-schema", "nowhere.json"], 3, "nowhere.json: there is no such file"),
        (["--json-schema", '{"type": "string"'], 2, "not JSON"),
        (["--grammar", "nowhere.lark"], 3, "nowhere.lark"),
        (["--regex", "("], 2, "unclosed group"),
        (["--regex", "a", "--grammar", "b"], 2, "--grammar and --regex"),
        (["--json-schema", "."], 1, "."),
    ],
)
def test_a_form_that_cannot_be_used_is_said_before_a_model_is_loaded(call, options, status, part):
    found, out, err = call("run", "-m", "no-such-model.gguf", "-p", "x", *options)
    assert (found, out) == (status, "")
    assert part in err


def test_a_file_names_itself_in_its_error(call, tiny, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"items": {"not": {}}}')
    _, _, err = call("run", tiny, "hello", "--json-schema", str(file))
    assert f"{file}: the JSON schema cannot be used: the keyword not" in err
    assert "#/items/not" in err
    file.write_bytes(b"\xff\xfe")
    assert f"{file}: the file is not UTF-8" in call("run", tiny, "x", "--grammar", str(file))[2]


def test_the_variables(call, tiny, monkeypatch):
    monkeypatch.setenv("EDGELLM_REGEX", "[0-9]{2}")
    assert call("run", tiny, "hello", *GREEDY)[1].strip().isdecimal()


def test_the_form_in_a_chat(call, tiny):
    lines = [
        "/set regex [0-9]{3}", "hello", "/set", "/set regex", "hello",
        '/set json-schema {"foo": 1}',
    ]  # fmt: skip
    status, out, err = call("chat", tiny, *GREEDY, stdin="\n".join(lines))
    numbers, plain = out.splitlines()
    assert numbers.isdecimal()
    assert plain == f"Hi {PERSIAN}"
    assert "regex is set" in err
    assert "[0-9]{3}" in err
    assert "no form" in err
    assert (status, "#/foo" in err) == (2, True)
    status, out, err = call("chat", tiny, *GREEDY, "--regex", "[0-9]{3}", "-n", "2", stdin="hello")
    assert (status, out.strip().isdecimal()) == (0, True)
    assert "not whole" in err


def test_help_lists_them(capsys):
    assert edgellm(["run", "--help"]) == 0
    assert "Form of the answer:" in capsys.readouterr().out
