"""What a generation gave: its text, how it ended, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgellm.generate.overflow import ContextChange

__all__ = ["FinishReason", "GenerationResult"]

FinishReason = Literal["stop", "length", "context", "cancelled"]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a generation gave.

    Attributes:
        text: the whole text, without thoughts.
        finish_reason: "stop" (the model's end, a complete constraint, or a stop string), "length"
            (`max_tokens`), "context" (the context is full), "cancelled".
        prompt_tokens: tokens of the prompt.
        reused_tokens: how many of them were in the context already and not evaluated again.
        completion_tokens: tokens that were generated, without the one that ends the text; with
            those of the thinking, and those that were put into it.
        time_to_first_token_s: seconds from the request to the first token, the model being loaded.
        completion_s: seconds from the first token to the last.
        seed: what the text was drawn with.
        tokens: the tokens of the text, where the model ended it and they give exactly this text;
            empty otherwise. They may differ from what the tokenizer makes of the text.
        context_changes: what was taken out of the model's sight, before the answer and within it.
        complete: whether the text is what its constraint asks for: one that was cut may not be.
            None without a constraint.
        drafted_tokens: how many tokens were guessed.
        accepted_tokens: how many of them the model wrote itself, and needed no evaluation for.
        thinking: what the model thought before.
        thinking_tokens: how many tokens of `completion_tokens` are the thinking's, its tags
            included where they are not the prompt's.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    time_to_first_token_s: float
    completion_s: float
    seed: int
    tokens: tuple[int, ...] = ()
    context_changes: tuple[ContextChange, ...] = ()
    complete: bool | None = None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    thinking: str = ""
    thinking_tokens: int = 0

    @property
    def prompt_tokens_per_s(self) -> float:
        """Evaluated prompt tokens by second; 0 where no time passed."""
        evaluated = self.prompt_tokens - self.reused_tokens
        return evaluated / self.time_to_first_token_s if self.time_to_first_token_s else 0.0

    @property
    def completion_tokens_per_s(self) -> float:
        """Tokens after the first by second; 0 where there is only one."""
        after_first = self.completion_tokens - 1
        return after_first / self.completion_s if after_first > 0 and self.completion_s else 0.0
