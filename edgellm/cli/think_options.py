"""The options of models that think before they answer, and their thoughts on a terminal."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.options import option

if TYPE_CHECKING:
    from edgellm.generate.reasoning import Think
    from edgellm.generate.result import GenerationResult

__all__ = [
    "CHOICES",
    "OPTIONS",
    "ThoughtPrinter",
    "empty_sentence",
    "refuse_thinking",
    "think_of",
]

CHOICES = ("show", "hide", "off")
DIM, PLAIN = "\x1b[2m", "\x1b[0m"

_thinking = functools.partial(option, section="Thinking")
OPTIONS = (
    _thinking("--think", type=click.Choice(CHOICES),
              help="Of a model that thinks before it answers: ask for thoughts and show them on "
              "stderr, hide them, or ask for none  [default: as the chat template does by itself, "
              "shown where stderr is a terminal]."),
    _thinking("--think-budget", type=click.IntRange(min=-1), default=-1, metavar="N",
              help="Most tokens of thinking: the thought is ended then, and the answer follows; -1 "
              "for no limit but -n."),
    _thinking("--think-min", type=click.IntRange(min=0), default=0, metavar="N",
              help="Fewest tokens of thinking: a thought that would end before goes on."),
)  # fmt: skip


def think_of(choice: str | None) -> Think:
    """Give what a choice, one of `CHOICES` or None, means for the prompt."""
    if choice == "show":
        return "on"
    return "off" if choice == "off" else "auto"


def refuse_thinking(values: dict[str, Any], flag: str) -> None:
    """Refuse options of thinking beside a flag that does not know thoughts.

    Raises:
        click.UsageError: there are some.
    """
    if values["think"] == "show" or values["think_budget"] >= 0 or values["think_min"] > 0:
        raise click.UsageError(f"{flag} cannot show or bound thoughts: leave --think and such out")


def empty_sentence(result: GenerationResult) -> str | None:
    """Say why there is no answer where all was thinking; None if that is not so."""
    if result.text or not result.thinking_tokens or result.finish_reason == "cancelled":
        return None
    if result.finish_reason == "stop":
        return f"the model ended behind its thought of {result.thinking_tokens} tokens: no answer"
    bound = {"length": "-n is reached", "context": "the context is full"}[result.finish_reason]
    return (
        f"there is no answer: {bound} within the thought of {result.thinking_tokens} tokens "
        "(--think-budget ends it before)"
    )


class ThoughtPrinter:
    """Writes thoughts to stderr, dimmed on a terminal, and ends their line before the answer.

    Args:
        choice: one of `CHOICES`; None shows thoughts on a terminal alone.
    """

    def __init__(self, choice: str | None) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = choice == "show" or (choice is None and self._terminal)
        self._open = False
        self._last = "\n"

    def write(self, text: str) -> None:
        """Write a piece of a thought, without what a terminal would obey."""
        from edgellm.cli.generation import printable_text

        if not self._open:
            text = text.lstrip("\n")  # behind the tag
        if not self._shown or not text:
            return
        if self._terminal:
            text = printable_text(text)
            if not self._open:
                sys.stderr.write(DIM)
        self._open = True
        self._last = (self._last + text)[-2:]
        sys.stderr.write(text)
        sys.stderr.flush()

    def end(self) -> None:
        """End the thought: what follows is the answer, or an error's sentence."""
        if not self._open:
            return
        self._open = False
        if self._terminal:
            sys.stderr.write(PLAIN)
        if not self._last.endswith("\n"):
            sys.stderr.write("\n")
        self._last = "\n"
        sys.stderr.flush()
