"""What the REPL makes of lines, without a model."""

from __future__ import annotations

import pytest

from edgellm.cli.generation import printable_text
from edgellm.cli.repl_commands import ALIASES, COMMANDS, find_command
from edgellm.cli.repl_input import read_message
from edgellm.errors import UsageError


class Lines:
    """Lines of a list; the protocol that the REPL reads from."""

    def __init__(self, *lines: str, interactive: bool = True) -> None:
        self.lines = list(lines)
        self.interactive = interactive
        self.prompts: list[str] = []

    def line(self, prompt: str) -> str | None:
        self.prompts.append(prompt)
        return self.lines.pop(0) if self.lines else None

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["سلام"], "سلام"),
        (["", "x"], ""),
        (['"""one line"""'], "one line"),
        (['"""', "first", "", "  third", '"""'], "first\n\n  third"),
        (['"""first', 'last"""'], "first\nlast"),
        (['  """', "می‌روم", '"""  '], "می‌روم"),
        (['""""""'], ""),
        ([], None),
        (['"""', "open"], ""),  # Ctrl-D drops the block and does not leave
    ],
)
def test_messages(lines, message):
    assert read_message(Lines(*lines)) == message


def test_the_end_of_a_pipe_ends_a_block():
    assert read_message(Lines('"""', "a", "b", interactive=False)) == "a\nb"


def test_a_block_asks_with_another_prompt():
    reader = Lines('"""', "a", '"""')
    read_message(reader)
    assert reader.prompts == [">>> ", "... ", "... "]


def test_commands_and_their_rest():
    assert find_command("/set temp 0.2") == (COMMANDS["/set"], "temp 0.2")
    assert find_command("/BYE") == (COMMANDS["/bye"], "")
    assert find_command("/exit") == (COMMANDS["/bye"], "")
    assert set(ALIASES.values()) <= set(COMMANDS)


def test_an_unknown_command_gives_the_nearest():
    with pytest.raises(UsageError, match=r"no command /stat$") as caught:
        find_command("/stat")
    assert caught.value.hint == "did you mean /stats?"
    with pytest.raises(UsageError) as caught:
        find_command("/etc/passwd is a file")
    assert caught.value.hint == "/help lists the commands"


def test_a_terminal_gets_no_control_characters_and_persian_whole():
    hostile = "a\x1b]0;title\x07b\x9b31mc\x7f\r\x00d\te\n"
    assert printable_text(hostile) == "a]0;titleb31mcd\te\n"
    persian = "می‌خواهم \u200fراست\u202b چپ\u202c \u200d"
    assert printable_text(persian) == persian
