"""What the engine says of grammars, in a sentence."""

from __future__ import annotations

__all__ = ["Checked", "expression_error", "first_line"]


def expression_error(text: str) -> str | None:
    """Say what is wrong with a regular expression; None if nothing is."""
    from llguidance import LLMatcher

    checked = Checked(LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(text)))
    return first_line(checked.get_error()) if checked.is_error() else None


def first_line(error: object) -> str:
    """Take what the engine says first: behind it follows its state.

    Of a regular expression the reason stands below the expression itself.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if line.startswith("error: "):
            return f"its regular expression has an error: {line.removeprefix('error: ')}"
    return lines[0][:300] if lines else "no reason is given"


class Checked:
    """What checking a grammar without a model says, as a compiled one says it."""

    def __init__(self, message: str) -> None:
        # Without a model's tokenizer the names of its control tokens are not known.
        unknown = message.startswith("WARNING:") or "unknown special token" in message
        self._message = "" if unknown else message

    def is_error(self) -> bool:
        """Whether it cannot be used."""
        return bool(self._message)

    def get_error(self) -> str:
        """Give what is wrong."""
        return self._message
