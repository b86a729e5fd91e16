"""Lines from a person or from a pipe, with `\"\"\"` around several of them."""

from __future__ import annotations

import contextlib
import io
import locale
import os
import sys
from pathlib import Path
from typing import Protocol

import click

from edgellm.errors import UsageError

__all__ = ["LineReader", "PipeReader", "TerminalReader", "read_message"]

FENCE = '"""'
PROMPT = ">>> "
MORE = "... "
HISTORY_LINES = 1000


class LineReader(Protocol):
    """Where lines come from."""

    interactive: bool

    def line(self, prompt: str) -> str | None:
        """Give the next line without its newline; None at the end."""

    def close(self) -> None:
        """Keep what has to be kept."""


class TerminalReader:
    """Reads from a person, with editing and a history that is kept on disk."""

    interactive = True

    def __init__(self, history: Path | None = None) -> None:
        self._history = history
        self._readline = False
        if not sys.stdout.isatty():
            return  # input() edits lines only where it can draw them
        _use_utf8()
        try:
            import readline
        except ImportError:  # a Python built without it: lines can still be typed
            return
        self._readline = True
        # A text that is pasted comes as one line with newlines in it, and not as many messages.
        readline.parse_and_bind("set enable-bracketed-paste on")
        readline.set_history_length(HISTORY_LINES)
        if history is not None:
            with contextlib.suppress(OSError):
                readline.read_history_file(history)

    def line(self, prompt: str) -> str | None:
        """Ask for a line; Ctrl-D at its beginning gives None."""
        try:
            if self._readline:
                return input(prompt)
            click.echo(prompt, nl=False, err=True)
            line = sys.stdin.readline()
        except EOFError:
            line = ""
        except UnicodeDecodeError as error:
            raise UsageError("the line is not text in the terminal's encoding") from error
        if line:
            return line.rstrip("\n")
        click.echo(err=True)  # Ctrl-D leaves the cursor behind the prompt
        return None

    def close(self) -> None:
        """Write the history."""
        if not self._readline or self._history is None:
            return
        import readline

        with contextlib.suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(self._history)
            self._history.chmod(0o600)


def _use_utf8() -> None:
    """Let readline take UTF-8 as Python does in the C locale, where it would see Meta keys.

    It asks the environment itself, so that setting the locale alone is not enough.
    """
    if sys.platform == "win32" or not sys.flags.utf8_mode:
        return
    if locale.nl_langinfo(locale.CODESET) == "UTF-8":
        return
    os.environ["LC_ALL"] = "C.UTF-8"
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")


class PipeReader:
    """Reads lines that a program writes; shows no prompt."""

    interactive = False

    def __init__(self) -> None:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8")

    def line(self, prompt: str) -> str | None:  # noqa: ARG002  (the protocol's)
        """Give the next line.

        Raises:
            UsageError: it is not UTF-8.
        """
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise UsageError("stdin is not UTF-8 text") from error
        return line.rstrip("\r\n") if line else None

    def close(self) -> None:
        """Nothing has to be kept."""


def read_message(reader: LineReader) -> str | None:
    """Give the next message: a line, or the lines between two `\"\"\"`; None at the end.

    The end of a pipe ends an open block as well; Ctrl-D in an open block drops it.
    """
    line = reader.line(PROMPT)
    if line is None or not line.lstrip().startswith(FENCE):
        return line
    first = line.lstrip()[len(FENCE) :]
    if first.rstrip().endswith(FENCE):
        return first.rstrip()[: -len(FENCE)]
    lines = [first] if first.strip() else []
    while True:
        line = reader.line(MORE)
        if line is None:
            return "" if reader.interactive else "\n".join(lines)
        if line.rstrip().endswith(FENCE):
            last = line.rstrip()[: -len(FENCE)]
            return "\n".join([*lines, last] if last.strip() else lines)
        lines.append(line)
