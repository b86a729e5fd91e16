"""The command line, called as a person would, in this process."""

from __future__ import annotations

import io
import sys

import pytest

from edgellm.cli.main import run as edgellm


@pytest.fixture
def call(monkeypatch, capsys):
    """Give a function: arguments, and what is piped in, to status, stdout and stderr."""

    def call(*args: str, stdin: str | None = None):
        console = io.TextIOWrapper(io.BytesIO((stdin or "").encode()), encoding="utf-8")
        monkeypatch.setattr(console, "isatty", lambda: stdin is None, raising=False)
        monkeypatch.setattr(sys, "stdin", console)
        status = edgellm([*args])
        out, err = capsys.readouterr()
        return status, out, err

    return call
