"""Tools as a person meets them: each call is asked for in a terminal."""

from __future__ import annotations

import pytest

from tinygguf import write_tiny

pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
from pseudo_terminal import Terminal

ARGS = ("--temp", "0", "-t", "1", "-n", "5", "--ctx", "4000", "--max-steps", "1")


@pytest.fixture
def screen(tmp_path):
    model = write_tiny(tmp_path / "tiny.gguf", answer="A", context=4096)
    tools = tmp_path / "tools.py"
    tools.write_text('def note() -> str: return "noted"\n')
    screen = Terminal("run", str(model), "q", "--tools", str(tools), *ARGS)
    yield screen
    screen.close()


def test_yes_runs_the_call(screen):
    screen.expect("call: note {}")
    screen.expect("run note? [y/N] ")
    screen.send("y\n")
    screen.expect("result: noted")
    assert screen.wait() == 0


def test_ctrl_c_at_the_question_ends_all(screen):
    screen.expect("run note? [y/N] ")
    screen.interrupt("\n")
    assert screen.wait() == 130
