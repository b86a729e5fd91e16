"""The command group: help, unknown commands and variables, and errors as JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from edgellm.cli.main import COMMANDS, cli, printable, run
from edgellm.cli.options import option


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


def test_a_variable_like_no_other_gets_no_odd_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGELLM_FOO", "1")
    assert run(["list"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_a_home_that_nobody_has_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGELLM_HOME", "~no-such-user-here/x")
    assert run(["list"]) == 2
    assert "EDGELLM_HOME is ~no-such-user-here/x" in capsys.readouterr().err


def test_texts_in_a_variable_stand_on_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_STOP", "end of text\nthe end")

    @click.command
    @option("--stop", multiple=True)
    def command(stop: tuple[str, ...]) -> tuple[str, ...]:
        return stop

    assert command.main([], standalone_mode=False) == ("end of text", "the end")


SHOW_NOTHING = [
    sys.executable,
    "-c",
    "from edgellm.cli import main; main()",
    "show",
    "./no",
    "--json",
]


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_a_stream_that_takes_nothing_ends_in_no_traceback(full: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as sink:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, full: sink}
        done = subprocess.run(SHOW_NOTHING, check=False, text=True, **pipes)
    assert done.returncode == 3
    other = done.stderr if full == "stdout" else done.stdout
    assert "no file or folder ./no" in other
    assert "Traceback" not in other


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_no_defect(closed: str) -> None:
    shell = f"exec {shlex.join(SHOW_NOTHING)} {closed}"
    done = subprocess.run(["sh", "-c", shell], check=False, capture_output=True, text=True)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


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
