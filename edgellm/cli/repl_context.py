"""`/ctx`: what fills the window of a conversation."""

from __future__ import annotations

import shutil
import unicodedata
from typing import TYPE_CHECKING

from edgellm.cli.generation import isolated, notice, numbered

if TYPE_CHECKING:
    from edgellm.cli.repl import Repl
    from edgellm.generate.overflow import ContextChange

__all__ = ["shortened", "show_context"]

LABEL, NUMBER = 17, 7  # columns


def show_context(repl: Repl, _rest: str) -> None:
    """Write what the system prompt, the summary and each turn take, and what is no longer seen."""
    conversation = repl.conversation
    use = conversation.usage()
    _row("window", use.size)
    if not conversation.has_template:
        notice("  This model has no turns: each text stands alone.")
        return
    _row("system, template", use.system)
    if conversation.summary is not None:
        _row("summary", use.summary, conversation.summary)
    for turn in use.turns:
        _row(f"turn {turn.number}", turn.tokens, turn.words)
    _row("left", max(0, use.size - use.used))
    if use.forgotten and not conversation.changes:
        gone = "turn 1 is" if use.forgotten == 1 else f"turns 1-{use.forgotten} are"
        notice(f"  {gone} no longer seen by the model.")
    for change in conversation.changes:
        notice(f"  {_gone(change)}")
    notice(f"  When it is full: {conversation.on_overflow}.")


def _gone(change: ContextChange) -> str:
    what = {"text": "the newest text", "summary": "the summary"}.get(change.what)
    done = "dropped" if change.summary is None else "folded"
    return f"{done}: {what or numbered(change.turns)}, {change.dropped_tokens:,} tokens"


def _row(label: str, tokens: int, words: str = "") -> None:
    """Write a row; words stand last and by themselves, so that no direction turns the row."""
    row = f"  {label:<{LABEL}}{tokens:>{NUMBER},}"
    room = shutil.get_terminal_size().columns - len(row) - 3
    if words and room >= 8:
        row += f"  {isolated(shortened(words, room))}"
    notice(row)


def shortened(text: str, columns: int) -> str:
    """Give the beginning of a text that a terminal shows in so many columns."""
    text = " ".join(text.split())
    widths = [_width(sign) for sign in text]
    if sum(widths) <= columns:
        return text
    end, used = 0, 1  # the dots take a column
    while end < len(text) and used + widths[end] <= columns:
        used += widths[end]
        end += 1
    return text[:end].rstrip() + "…"


def _width(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in {"Cf", "Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1
