"""What fills the window of a conversation, counted by rendering it."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.generate.overflow import ForgottenTurn, first_words
from edgellm.generate.template import Message
from edgellm.generate.view import Render, View

__all__ = ["TurnUse", "WindowUse", "window_use"]


@dataclass(frozen=True, slots=True)
class TurnUse(ForgottenTurn):
    """A turn that the model sees, and its tokens with what the template writes around it."""

    tokens: int


@dataclass(frozen=True, slots=True)
class WindowUse:
    """Tokens of a window.

    Attributes:
        size: how many the window holds.
        system: of the system prompt, and of what the template writes in any case.
        summary: of the summary that stands for forgotten turns.
        forgotten: how many turns the model no longer sees.
        turns: those that it sees.
    """

    size: int
    system: int
    summary: int
    forgotten: int
    turns: tuple[TurnUse, ...]

    @property
    def used(self) -> int:
        """What the next question stands behind."""
        return self.system + self.summary + sum(turn.tokens for turn in self.turns)


def window_use(view: View, size: int, render: Render) -> WindowUse:
    """Count what a view takes of a window.

    Args:
        view: turns with their answers.
        size: of the window, in tokens.
        render: gives the tokens of a view.

    Raises:
        TemplateError: the template refuses the view.
    """
    # What a turn adds behind another of the same kind is its own; the rest is the template's. A
    # template may render nothing without a question, or put the system prompt into the first one.
    probe = (Message("user", "?"), Message("assistant", "!"))
    once = len(render(View(view.system, (probe,))))
    system = 2 * once - len(render(View(view.system, (probe, probe))))
    count = system
    summary = 0
    if view.summary is not None:
        count = len(render(View(view.system, (), view.summary)))
        summary = count - system
    turns = []
    for index, turn in enumerate(view.turns):
        seen = View(view.system, view.turns[: index + 1], view.summary)
        before, count = count, len(render(seen))
        number = view.forgotten + index + 1
        turns.append(TurnUse(number, first_words(turn[0].content), count - before))
    return WindowUse(size, system, summary, view.forgotten, tuple(turns))
