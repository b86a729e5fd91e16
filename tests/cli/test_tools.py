"""`edgellm run --tools`: what is asked for, what is shown, and what goes to stdout."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm.cli.main import run as edgellm
from tinygguf import write_tiny

TOOLS = '''
import os, time
from pathlib import Path

def note() -> str:
    """Note."""
    print("printed by the tool")
    Path(__file__).with_name("ran").touch()
    return "یادداشت\\x1b[2J"
'''
HANGS = '''
import os, time
from pathlib import Path

def hangs() -> str:
    """Hang."""
    Path(__file__).with_name("pid").write_text(str(os.getpid()) + "\\n")
    time.sleep(1000)
'''
ARGS = ("--temp", "0", "-t", "1", "-n", "5", "--ctx", "4000", "--max-steps", "1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    # Behind a new line it likes "A" best, so that it acts as long as it may.
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return str(write_tiny(path, answer="A", context=4096))


@pytest.fixture
def tools(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(TOOLS, encoding="utf-8")
    return str(path)


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*args: str, typed: str | None = None):
        console = io.TextIOWrapper(io.BytesIO((typed or "").encode()), encoding="utf-8")
        monkeypatch.setattr(console, "isatty", lambda: typed is not None, raising=False)
        monkeypatch.setattr(sys, "stdin", console)
        status = edgellm([*args])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def ran(tools: str) -> bool:
    return Path(tools).with_name("ran").exists()


def test_calls_are_shown_and_the_answer_alone_is_on_stdout(call, tiny, tools):
    status, out, err = call("run", tiny, "q", "--tools", tools, "--yes", *ARGS)
    assert status == 0
    assert ran(tools)
    assert "call: note {}\nresult: یادداشت[2J\n" in err
    assert "the steps are used up" in err
    assert "printed" not in out + err
    assert "note" not in out


@pytest.mark.parametrize(
    ("typed", "runs"), [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)]
)
def test_each_call_is_asked_for(call, tiny, tools, typed, runs):
    status, _, err = call("run", tiny, "q", "--tools", tools, *ARGS, typed=typed)
    assert status == 0
    assert "run note? [y/N] " in err
    assert ran(tools) is runs
    assert ("the person refused" in err) is not runs


def test_without_a_terminal_nothing_runs(call, tiny, tools):
    status, out, err = call("run", tiny, "q", "--tools", tools, *ARGS)
    assert (status, out) == (2, "")
    assert "no terminal to answer on" in err
    assert "--yes" in err
    assert not ran(tools)


def test_json_has_the_documented_keys(call, tiny, tools):
    status, out, _ = call("run", tiny, "q", "--tools", tools, "--yes", "--json", *ARGS)
    body = json.loads(out)
    assert status == 0
    assert list(body) == [
        "text", "finish_reason", "tool_style", "steps", "steps_used_up", "calls", "prompt_tokens",
        "reused_tokens", "completion_tokens", "seconds", "seed", "context", "model", "backend",
    ]  # fmt: skip
    (made,) = body["calls"]
    assert list(made) == ["name", "arguments", "result", "ok", "ran", "cut", "seconds"]
    assert (made["name"], made["arguments"], made["ok"]) == ("note", {}, True)
    assert (body["tool_style"], body["steps"], body["steps_used_up"]) == ("react", 2, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--raw",), "--tools and --raw"),
        (("--on-overflow", "shift"), "--on-overflow"),
        (("--samples", "3"), "--samples"),
        (("--regex", "a"), "form of its own"),
        (("--tool-style", "template"), "takes no tools"),
        (("--max-steps", "0"), "max_steps is 0"),
        (("--tool-timeout", "0"), "time limit is 0"),
    ],
)
def test_what_excludes_tools_is_named(call, tiny, tools, args, said):
    status, out, err = call("run", tiny, "q", "--tools", tools, "--yes", *ARGS, *args)
    assert (status, out) == (2, "")
    assert said in err


def test_a_parameter_without_a_type_is_named(call, tiny, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f(a: int, b): pass\n")
    status, _, err = call("run", tiny, "q", "--tools", str(path), "--yes", *ARGS)
    assert status == 2
    assert "bad.py: f: the parameter 'b' has no type" in err
    assert call("run", tiny, "q", "--tools", str(tmp_path / "none.py"), "--yes", *ARGS)[0] == 3


def test_ctrl_c_ends_a_tool_and_the_run(tiny, tmp_path):
    path, pid = tmp_path / "tools.py", tmp_path / "pid"
    path.write_text(HANGS)
    program = [sys.executable, "-m", "edgellm", "run", tiny, "q", "--tools", str(path), "--yes"]
    process = subprocess.Popen(
        [*program, *ARGS], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for _ in range(3000):
        if pid.is_file() and pid.read_text().endswith("\n"):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
