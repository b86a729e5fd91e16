"""The Makefile: what a person types arrives as it was typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def fake_bin(tmp_path: Path) -> Path:
    """A folder with an `edgellm` that only tells how it was called."""
    program = tmp_path / "edgellm"
    program.write_text('#!/bin/sh\nfor word in "$@"; do printf "<%s>" "$word"; done\n')
    program.chmod(0o755)
    return tmp_path


def make(*arguments: str, **environment: str) -> str:
    names = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PROMPT", "MODEL")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "prompt",
    [
        "Why is the sky blue?",
        "it costs $5 and $$ and $(HOME) and ${PATH}",
        """quotes ' " and `id` and \\ and ; # * ~""",
        "--help",
        "سلام، نمی\u200cدانم",
    ],
)
def test_a_prompt_arrives_as_it_was_typed(fake_bin: Path, prompt: str) -> None:
    out = make("chat", "SETUP=true", f"BIN={fake_bin}", f"PROMPT={prompt}")
    assert out == f"<run><--prompt={prompt}>"


def test_without_a_prompt_it_is_a_conversation(fake_bin: Path) -> None:
    assert make("chat", "SETUP=true", f"BIN={fake_bin}") == "<chat>"
    out = make("chat", "SETUP=true", f"BIN={fake_bin}", "MODEL=./my model.gguf")
    assert out == "<chat><--model=./my model.gguf>"


def test_a_prompt_of_the_shell_is_not_ours(fake_bin: Path) -> None:
    out = make("chat", "SETUP=true", f"BIN={fake_bin}", PROMPT="%n@%m", MODEL="laptop")
    assert out == "<chat>"


def test_a_set_up_that_fails_starts_nothing(fake_bin: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        make("chat", "SETUP=false", f"BIN={fake_bin}")
    assert caught.value.stdout == ""


def test_python_can_be_chosen() -> None:
    assert make("-n", "chat", "PYTHON=python3.99").startswith("python3.99 tools/setup.py ")


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert declared is not None
    listed = re.findall(r"^  make ([\w-]+)  +\S", make("help"), re.MULTILINE)
    assert sorted(listed) == sorted(declared[1].split())


def test_every_benchmark_is_there() -> None:
    named = re.search(r"^BENCHMARKS = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    for name in named[1].split():
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()


def test_ci_calls_the_commands_that_people_type() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^step (\S+)$", script.read_text(), re.MULTILINE) == [
        "lint",
        "test",
        "test-oracle",
    ]
    subprocess.run(["bash", "-n", script], check=True)
