"""The command group: help, unknown commands and variables, and errors as JSON."""

from __future__ import annotations

import json

import click
import pytest

from edgellm.cli.main import COMMANDS, cli, printable, run


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert f"edgellm {name}" in (command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantise"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Did you mean 'quantize'?" in captured.err


def test_an_unknown_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGELLM_TEMPP", "0")
    assert run(["list"]) == 2
    err = capsys.readouterr().err
    assert "EDGELLM_TEMPP is set" in err
    assert "did you mean EDGELLM_TEMP?" in err


def test_a_usage_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json", "--nope"]) == 2
    body = json.loads(capsys.readouterr().out)
    assert body["error"]["code"] == "usage"
    assert "--nope" in body["error"]["message"]


def test_a_missing_model_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "no-such-model.gguf", "--json"]) == 3
    body = json.loads(capsys.readouterr().out)
    assert body["error"]["code"] == "not_found"
    assert "no-such-model.gguf" in body["error"]["message"]


def test_control_characters_of_a_message_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"
    assert printable("نمی\u200cخواهم\nb") == "نمی\u200cخواهم\nb"
