"""The loop: a prompt goes in, text comes out piece by piece, and a result stands at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgellm.backends.base import CancelledError, Context, Sampling
from edgellm.errors import ContextOverflowError, UsageError
from edgellm.generate.text import StopFilter, Utf8Stream

__all__ = ["FinishReason", "GenerateOptions", "Generation", "GenerationResult"]

FinishReason = Literal["stop", "length", "context", "cancelled"]
MAX_STOPS = 64
MAX_STOP_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How a text is written.

    Attributes:
        max_tokens: the most tokens of the answer; a negative number sets no limit but the context.
        stop: strings that end the answer; they are not part of it.

    Raises:
        UsageError: too many stop strings, or one that is empty or too long.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise UsageError(f"{len(self.stop)} stop strings are given, at most {MAX_STOPS} can be")
        for stop in self.stop:
            if not 0 < len(stop) <= MAX_STOP_LENGTH:
                raise UsageError(f"a stop string has 1 to {MAX_STOP_LENGTH} characters: {stop!r}")


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a generation gave.

    Attributes:
        text: the whole text.
        finish_reason: "stop" (the model's end or a stop string), "length" (`max_tokens`),
            "context" (the context is full), "cancelled".
        prompt_tokens: tokens of the prompt.
        reused_tokens: how many of them were in the context already and not evaluated again.
        completion_tokens: tokens that were generated, without the one that ends the text.
        time_to_first_token_s: seconds from the request to the first token, the model being loaded.
        completion_s: seconds from the first token to the last.
        seed: what the text was drawn with.
        tokens: the tokens of the text, where the model ended it and they give exactly this text;
            empty otherwise. They may differ from what the tokenizer makes of the text.
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


class Generation:
    """A stream of text; iterate over it once, then `result` is there.

    Iterating raises ContextOverflowError if the prompt leaves no room for an answer, BackendError
    if the backend fails, and UsageError if another generation was begun on the same context. Set
    `cancel` from any thread to stop it: the stream ends with
    the finish reason "cancelled".
    """

    def __init__(
        self,
        context: Context,
        prompt: Sequence[int],
        options: GenerateOptions,
        *,
        cancel: threading.Event | None = None,
        on_finish: Callable[[GenerationResult], None] | None = None,
    ) -> None:
        self.cancel = cancel or threading.Event()
        self._context = context
        self._prompt = prompt
        self._options = options
        self._on_finish = on_finish
        self._result: GenerationResult | None = None
        self._stream = self._run()

    def __iter__(self) -> Iterator[str]:
        return self._stream

    @property
    def result(self) -> GenerationResult:
        """What it gave; only after the stream has ended.

        Raises:
            UsageError: the stream has not ended yet.
        """
        if self._result is None:
            raise UsageError("the generation has not ended yet, so it has no result")
        return self._result

    def read(self) -> GenerationResult:
        """Run to the end and give the result."""
        for _ in self._stream:
            pass
        return self.result

    def _run(self) -> Iterator[str]:
        context, options, cancelled = self._context, self._options, self.cancel.is_set
        room = context.size - len(self._prompt)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(self._prompt)} tokens and the context holds {context.size}, "
                "so that no answer fits",
                hint="shorten the prompt, or give a larger context with --ctx",
            )
        limit = room if options.max_tokens < 0 else min(room, options.max_tokens)
        at_limit: FinishReason = "length" if limit == options.max_tokens else "context"
        reason: FinishReason = "cancelled"
        parts: list[str] = []
        decode = Utf8Stream().push
        stops = StopFilter(options.stop) if options.stop else None
        count = reused = size = 0
        start = first = last = time.perf_counter()
        try:
            reused = context.prefill(self._prompt, options.sampling, cancelled)
            ours = context.prefills
            while True:
                if context.prefills != ours:
                    raise UsageError(
                        "another text was begun on this model, so that this one cannot go on"
                    )
                if count == limit:
                    reason = at_limit
                    break
                if cancelled():
                    break
                piece = context.next_piece()
                last = time.perf_counter()
                if not count:
                    first = last
                if piece is None:
                    reason = "stop"
                    break
                count += 1
                size += len(piece)
                text = decode(piece)
                if stops is not None:
                    text = stops.push(text)
                if text:
                    parts.append(text)
                    yield text
                if stops is not None and stops.hit is not None:
                    reason = "stop"
                    break
            if stops is not None:
                text = stops.finish()
                if text:
                    parts.append(text)
                    yield text
        except CancelledError:
            pass
        finally:
            # Also when the consumer stops iterating: what was written until then is the result.
            text = "".join(parts)
            tokens = tuple(context.held[len(self._prompt) :]) if reason == "stop" else ()
            whole = len(tokens) == count and size == len(text.encode("utf-8"))
            self._result = GenerationResult(
                text=text,
                finish_reason=reason,
                prompt_tokens=len(self._prompt),
                reused_tokens=reused,
                completion_tokens=count,
                time_to_first_token_s=first - start,
                completion_s=last - first,
                seed=options.sampling.seed,
                tokens=tokens if whole else (),
            )
        if self._on_finish is not None:
            self._on_finish(self._result)
