"""The commands of the REPL for conversations on disk."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from edgellm.cli.generation import notice
from edgellm.cli.repl_adapters import restore_adapters
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.cli.repl import Repl

__all__ = ["load", "save", "show_sessions"]

SESSIONS_SHOWN = 20
WORDS_SHOWN = 50  # characters of a conversation's first question


def save(repl: Repl, rest: str) -> None:
    """Save the conversation under a name, and keep it there from now on."""
    from edgellm.generate.saved import save_session

    if not rest:
        raise UsageError("/save needs a name")
    notice(f"Saved to {save_session(rest, repl.session())}")
    repl.rename(rest)
    repl.loaded.keep_prompt()


def load(repl: Repl, rest: str) -> None:
    """Go on with a saved conversation, under its name."""
    from edgellm.generate.saved import load_session

    if not rest:
        raise UsageError("/load needs a name", hint="/sessions lists what is saved")
    session = load_session(rest)
    repl.restore(session)
    missing = restore_adapters(repl.loaded, session.adapters)
    repl.rename(rest)
    notice(f"Loaded {len(session.messages) // 2} questions with their answers.")
    repl.tell_other_model(session)
    for path in missing:
        notice(f"(It was with the adapter {path}, which is not loaded: --lora loads it.)")


def show_sessions(_repl: Repl, _rest: str) -> None:
    """Write the saved conversations: name, time, number of questions, and how they begin."""
    from edgellm.generate.saved import list_sessions

    listed = list_sessions(SESSIONS_SHOWN)
    width = max((len(each.name) for each in listed), default=0)
    for each in listed:
        when = datetime.fromtimestamp(each.changed).strftime("%Y-%m-%d %H:%M")
        if each.turns is None:
            notice(f"  {each.name:<{width}}  {when}  (not a conversation)")
            continue
        words = " ".join(each.begins.split())
        if len(words) > WORDS_SHOWN:
            words = words[:WORDS_SHOWN] + "…"
        notice(f"  {each.name:<{width}}  {when}  {each.turns:>3}  {words}")
    if not listed:
        notice("Nothing is saved yet.")
