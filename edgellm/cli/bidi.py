"""Right-to-left text on terminals: some put it in visual order themselves, others never do.

What goes into a pipe or a file is always in logical order: the order in which it is read and typed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from edgellm.cli.options import option
from edgellm.errors import UsageError

__all__ = ["MODES", "LineWriter", "bidi_option", "must_reorder", "reordered", "shown"]

MODES = ("off", "auto", "visual")

_ZWNJ = "\u200c"
_STAND_IN = "\U0001ee00"  # a mathematical alef: right to left as the letters around a ZWNJ
_RIGHT_TO_LEFT = ("R", "AL", "AN")
# Variables that terminals which do not reorder set for what runs in them.
_PLAIN = ("KITTY_WINDOW_ID", "ALACRITTY_WINDOW_ID", "WEZTERM_PANE", "WT_SESSION", "GHOSTTY_BIN_DIR")
_PLAIN_TERM = ("xterm-kitty", "alacritty", "foot", "xterm-ghostty", "linux")
# Variables of terminals that reorder: VTE since 0.58 (GNOME, Xfce, Tilix), mlterm, Konsole.
_REORDERING = ("MLTERM", "KONSOLE_VERSION")
_VTE_WITH_BIDI = 5800
_REORDERING_PROGRAMS = ("Apple_Terminal", "mlterm")


def bidi_option() -> Callable[[Any], Any]:
    """Declare `--bidi off|auto|visual`."""
    from click import Choice

    return option(
        "--bidi",
        type=Choice(MODES),
        default="off",
        show_default=True,
        help="Right-to-left text on a terminal: as it is (off); in visual order where the terminal "
        "is known not to reorder it (auto); in visual order (visual). A pipe gets it as it is.",
    )


class LineWriter:
    """Writes an answer to stdout: as it comes, or a line at a time where lines are reordered.

    The mode is that of the command that runs.

    Raises UsageError: see `shown`.
    """

    def __init__(self) -> None:
        import click

        context = click.get_current_context(silent=True)
        self._mode = "off" if context is None else str(context.params.get("bidi", "off"))
        shown("", self._mode, os.environ)  # what is missing is told before the model writes
        self._whole = self._mode != "off" and sys.stdout.isatty()
        self._held = ""
        self._last = ""

    def write(self, text: str) -> None:
        """Take a piece of the answer."""
        self._last = text[-1:] or self._last
        if self._whole:
            lines, newline, self._held = (self._held + text).rpartition("\n")
            text = shown(lines, self._mode, os.environ) + newline if newline else ""
        sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        """Write what is held back, and a newline where none stands at the end."""
        if self._last:
            rest = shown(self._held, self._mode, os.environ)
            sys.stdout.write(rest if self._last == "\n" else f"{rest}\n")
            sys.stdout.flush()
        self._held = self._last = ""


def shown(text: str, mode: str, environment: Mapping[str, str]) -> str:
    """Give a text as stdout should get it; only a terminal gets another order than the logical.

    Raises UsageError: `visual` is asked for, and python-bidi is not installed.
    """
    if mode == "off" or not sys.stdout.isatty():
        return text
    if importlib.util.find_spec("bidi") is None:
        if mode == "auto":
            return text
        raise UsageError(
            "visual order needs python-bidi, which is not installed",
            hint="pip install 'edgellm[bidi]'",
        )
    if mode == "visual" or must_reorder(environment):
        return reordered(text, shutil.get_terminal_size().columns)
    return text


def must_reorder(environment: Mapping[str, str]) -> bool:
    """Tell whether the terminal is one that is known to leave right-to-left text as it comes."""
    vte = environment.get("VTE_VERSION", "")
    if vte.isdigit() and int(vte) >= _VTE_WITH_BIDI:
        return False
    if any(name in environment for name in _REORDERING):
        return False
    if environment.get("TERM_PROGRAM") in _REORDERING_PROGRAMS:
        return False
    return environment.get("TERM") in _PLAIN_TERM or any(name in environment for name in _PLAIN)


def reordered(text: str, columns: int) -> str:
    """Give a text in visual order, by the Unicode bidirectional algorithm (UAX #9).

    Lines of right-to-left text are broken at `columns` first: a terminal that breaks a line in
    visual order would show its end above its beginning.
    """
    from bidi.algorithm import get_display  # the package's other one does not mirror brackets

    lines = []
    for line in text.split("\n"):
        if any(unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT for letter in line):
            # The algorithm takes ZWNJ out (rule X9); a letter that nobody writes stands in for it.
            held = line.replace(_ZWNJ, _STAND_IN)
            parts = (str(get_display(part)) for part in _broken(held, columns))
            lines += [part.replace(_STAND_IN, _ZWNJ) for part in parts]
        else:
            lines.append(line)
    return "\n".join(lines)


def _broken(line: str, columns: int) -> list[str]:
    """Break a line at spaces so that each part fits, a longer word wherever it must be."""
    parts, part, width = [], "", 0
    for word in line.split(" "):
        size = _width(word)
        if part and width + 1 + size > columns:
            parts.append(part)
            part, width = word, size
        else:
            part, width = (f"{part} {word}", width + 1 + size) if part else (word, size)
        while width > columns:
            fits = max(1, next(n for n in range(len(part), -1, -1) if _width(part[:n]) <= columns))
            parts.append(part[:fits])
            part = part[fits:]
            width = _width(part)
    return [*parts, part]


def _width(text: str) -> int:
    """Count the columns that a text takes."""
    return sum(
        0
        if letter == _STAND_IN or unicodedata.category(letter) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )
