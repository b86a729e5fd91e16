"""Right-to-left text on terminals."""

from __future__ import annotations

import sys

import click
import pytest

from edgellm.cli import bidi
from edgellm.errors import UsageError

PERSIAN = "کتاب‌های من (نو) 12"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm-kitty"}, True),
        ({"TERM": "xterm-256color", "ALACRITTY_WINDOW_ID": "1"}, True),
        ({"TERM": "xterm-256color", "WT_SESSION": "x"}, True),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7600"}, False),
        ({"TERM": "xterm-256color", "VTE_VERSION": "5200"}, False),  # not known: left as it is
        ({"TERM": "alacritty", "VTE_VERSION": "7600"}, False),
        ({"TERM": "mlterm", "MLTERM": "3.9"}, False),
        ({"TERM_PROGRAM": "Apple_Terminal"}, False),
        ({"TERM": "xterm-256color"}, False),
        ({}, False),
    ],
)
def test_terminals_that_are_known(environment: dict[str, str], wanted: bool) -> None:
    assert bidi.must_reorder(environment) is wanted


@pytest.mark.usefixtures("terminal")
def test_visual_order_keeps_numbers_half_spaces_and_brackets() -> None:
    # By hand, after UAX #9: the line from its end, the number as it is, brackets mirrored.
    assert bidi.shown(PERSIAN, "visual", {}) == "12 (ون) نم یاه‌باتک"
    assert bidi.shown(PERSIAN, "auto", {"TERM": "xterm-kitty"}) == "12 (ون) نم یاه‌باتک"


@pytest.mark.usefixtures("terminal")
def test_logical_order_where_nothing_is_known_or_asked() -> None:
    assert bidi.shown(PERSIAN, "auto", {}) == PERSIAN
    assert bidi.shown(PERSIAN, "off", {"TERM": "xterm-kitty"}) == PERSIAN


def test_a_pipe_gets_logical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert bidi.shown(PERSIAN, "visual", {"TERM": "xterm-kitty"}) == PERSIAN


@pytest.mark.usefixtures("terminal")
def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bidi.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        bidi.shown(PERSIAN, "visual", {})
    assert caught.value.hint == "pip install 'edgellm[bidi]'"
    assert bidi.shown(PERSIAN, "auto", {"TERM": "xterm-kitty"}) == PERSIAN


def test_lines_are_broken_before_they_are_reordered() -> None:
    assert bidi.reordered("ابپ تثج چحخ\nplain text stays", 7) == "جثت پبا\nخحچ\nplain text stays"
    assert bidi.reordered("ابپتث", 2) == "با\nتپ\nث"


def streamed(mode: str, pieces: list[str]) -> None:
    with click.Context(click.Command("run"), obj=None) as context:
        context.params["bidi"] = mode
        writer = bidi.LineWriter()
        for piece in pieces:
            writer.write(piece)
        writer.end()


PIECES = ["سلام ", "دنیا\nab", "c ک", "تاب"]


def test_a_stream_is_reordered_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    streamed("visual", PIECES)
    whole = bidi.reordered("".join(PIECES), 80)
    assert capsys.readouterr().out == whole + "\n"
    assert whole.startswith("ایند")
    streamed("off", PIECES)
    assert capsys.readouterr().out == "".join(PIECES) + "\n"
    streamed("visual", ["سلام\n"])
    assert capsys.readouterr().out == "مالس\n"
    streamed("visual", [])
    assert capsys.readouterr().out == ""


def test_a_stream_into_a_pipe_stays_in_logical_order(capsys: pytest.CaptureFixture[str]) -> None:
    streamed("visual", PIECES)
    assert capsys.readouterr().out == "".join(PIECES) + "\n"
