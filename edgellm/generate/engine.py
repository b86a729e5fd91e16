"""The loop: a prompt goes in, text comes out piece by piece, and a result stands at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from edgellm.backends.base import (
    SEED_LIMIT,
    CancelledError,
    Constraint,
    Context,
    Drafter,
    Sampling,
)
from edgellm.errors import ContextOverflowError, UsageError
from edgellm.generate.options import GenerateFields, GenerateOptions
from edgellm.generate.overflow import ContextChange
from edgellm.generate.result import FinishReason, GenerationResult
from edgellm.generate.text import StopFilter, Utf8Stream
from edgellm.generate.thoughts import Delta, Step, ThoughtWatch

__all__ = [
    "Delta",
    "FinishReason",
    "FixedPrompt",
    "GenerateFields",
    "GenerateOptions",
    "Generation",
    "GenerationResult",
    "Prompt",
]


class Prompt(Protocol):
    """Where the tokens before an answer come from, and what makes room for more of the answer.

    Attributes:
        changes: what was taken out of the model's sight so far.
    """

    changes: list[ContextChange]

    def begin(self, cancel: threading.Event) -> Sequence[int]:
        """Give the prompt.

        Raises:
            ContextOverflowError: it leaves no room for an answer.
            CancelledError: `cancel` is set.
        """

    def make_room(
        self, held: Sequence[int], written: int, cancel: threading.Event
    ) -> Sequence[int] | None:
        """Give what goes on from a full window; None if there is nothing to leave out.

        It leaves room for two tokens at least.

        Args:
            held: prompt and answer, as the context holds them.
            written: how many of them are the answer's.
            cancel: ends that from any thread, where a summary is made.

        Raises:
            CancelledError: `cancel` is set.
        """


class FixedPrompt:
    """A prompt that stays as it is."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.changes: list[ContextChange] = []
        self._tokens = tokens

    def begin(self, cancel: threading.Event) -> Sequence[int]:  # noqa: ARG002
        """Give the prompt."""
        return self._tokens

    def make_room(
        self,
        held: Sequence[int],
        written: int,
        cancel: threading.Event,
    ) -> None:
        """Give none: nothing can be left out."""


class Generation:
    """A stream of text; iterate over it, or over `deltas`, once; then `result` is there.

    Iterating gives the answer alone. Thoughts are among the deltas, and in the result.

    Iterating raises ContextOverflowError if the prompt leaves no room for an answer, BackendError
    if the backend fails, and UsageError if another generation was begun on the same context, or if
    the constraint becomes too complex. Set `cancel` from any thread to stop it: the stream ends
    with the finish reason "cancelled".
    """

    def __init__(
        self,
        context: Context,
        prompt: Prompt,
        options: GenerateOptions,
        *,
        cancel: threading.Event | None = None,
        constraint: Constraint | None = None,
        drafter: Drafter | None = None,
        thoughts: ThoughtWatch | None = None,
        on_finish: Callable[[GenerationResult], None] | None = None,
    ) -> None:
        self.cancel = cancel or threading.Event()
        self._context = context
        self._prompt = prompt
        self._options = options
        self._constraint = constraint
        self._drafter = drafter
        self._thoughts = thoughts
        self._restarts = 0  # within a thought, behind a prompt that was evaluated already
        self._on_finish = on_finish
        self._result: GenerationResult | None = None
        self._stream = self._run()

    def __iter__(self) -> Iterator[str]:
        for kind, text in self._stream:
            if kind == "answer":
                yield text

    def deltas(self) -> Generator[Delta, None, None]:
        """Give the text piece by piece, thoughts and answer."""
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

    def _run(self) -> Generator[Delta, None, None]:
        context, options, cancelled = self._context, self._options, self.cancel.is_set
        form = self._constraint.copy() if self._constraint is not None else None
        reason: FinishReason = "cancelled"
        parts: list[str] = []
        thinking: list[str] = []
        decode = Utf8Stream().push
        ends = (*options.stop, self._thoughts.end if self._thoughts is not None else "")
        stops = StopFilter(ends) if any(ends) else None
        # `thoughts` is there until the answer begins, behind `answer_at` tokens that were written.
        thoughts = self._thoughts
        count = reused = size = asked = written_at = answer_at = 0
        start = first = last = time.perf_counter()
        try:
            prompt = self._prompt.begin(self.cancel)
            asked = written_at = len(prompt)
            room = context.size - asked
            if room < 1:
                raise ContextOverflowError(
                    f"the prompt has {asked} tokens and the context holds {context.size}, "
                    "so that no answer fits",
                    hint="shorten the prompt, or give a larger context with --ctx",
                )
            if thoughts is not None and not thoughts.begin(prompt):
                thoughts = None
            reused = self._prefill(prompt, options.sampling, answering=thoughts is None)
            ours = context.prefills
            while True:
                if context.prefills != ours:
                    raise UsageError(
                        "another text was begun on this model, so that this one cannot go on"
                    )
                if 0 <= options.max_tokens <= count:
                    reason = "length"
                    break
                if not room:
                    reason = "context"
                    break
                if cancelled():
                    break
                piece = context.next_piece()
                last = time.perf_counter()
                if not count:
                    first = last
                if piece is None and thoughts is None:
                    reason = "stop"
                    break
                need = 1 if thoughts is None else thoughts.reserve
                if room <= need and not 0 <= options.max_tokens <= count + room:
                    # The token that was sampled last is in no list, so it cannot be put into
                    # another prompt: it is sampled again behind that.
                    shorter = self._prompt.make_room(list(context.held), count, self.cancel)
                    if shorter is not None:
                        self._prefill(shorter, self._sampling(), answering=thoughts is None)
                        ours = context.prefills
                        written_at = len(shorter) - count
                        room = context.size - len(shorter)
                        continue
                if thoughts is None:
                    assert piece is not None
                    count += 1
                    room -= 1
                    size += len(piece)
                    text = decode(piece)
                else:
                    left = room if options.max_tokens < 0 else min(room, options.max_tokens - count)
                    step = thoughts.take(context.sampled, piece, left)
                    if piece is None and step.put is None:
                        reason = "stop"
                        break
                    added = self._put(step)
                    ours = context.prefills
                    count += added
                    room -= added
                    text = ""
                    for delta in step.deltas:
                        if delta.kind == "answer":
                            text += delta.text
                        else:
                            thinking.append(delta.text)
                            yield delta
                    if step.answering:
                        decode = thoughts.decode
                        thoughts = None
                        answer_at = count
                        if text and piece is not None:
                            answer_at, size = count - 1, len(piece)
                        context.constrain(self._constraint)
                if stops is not None:
                    text = stops.push(text)
                if text:
                    parts.append(text)
                    yield Delta("answer", text)
                if stops is not None and stops.hit is not None:
                    reason = "stop"
                    break
            text = ""
            for delta in thoughts.finish() if thoughts is not None else ():
                if delta.kind == "thinking":
                    thinking.append(delta.text)
                    yield delta
                else:
                    text += delta.text
            if stops is not None:
                text = stops.push(text) + stops.finish()
            if text:
                parts.append(text)
                yield Delta("answer", text)
        except CancelledError:
            pass
        finally:
            # Also when the consumer stops iterating: what was written until then is the result.
            text = "".join(parts)
            answer = written_at + answer_at
            tokens = tuple(context.held[answer:]) if reason == "stop" and written_at > 0 else ()
            whole = len(tokens) == count - answer_at and size == len(text.encode("utf-8"))
            self._result = GenerationResult(
                text=text,
                finish_reason=reason,
                prompt_tokens=asked,
                reused_tokens=reused,
                completion_tokens=count,
                time_to_first_token_s=first - start,
                completion_s=last - first,
                seed=options.sampling.seed,
                tokens=tokens if whole else (),
                context_changes=tuple(self._prompt.changes),
                complete=form.satisfied_by(text) if form is not None else None,
                drafted_tokens=self._drafter.drafted if self._drafter else 0,
                accepted_tokens=self._drafter.accepted if self._drafter else 0,
                thinking="".join(thinking).strip(),
                thinking_tokens=self._thoughts.tokens if self._thoughts is not None else 0,
            )
        if self._on_finish is not None:
            self._on_finish(self._result)

    def _prefill(self, tokens: Sequence[int], sampling: Sampling, *, answering: bool) -> int:
        """Evaluate a prompt; only the answer is under the constraint."""
        reused = self._context.prefill(tokens, sampling, self.cancel.is_set)
        self._context.constrain(self._constraint if answering else None)
        if self._drafter is not None:
            self._context.speculate(self._drafter)
        return reused

    def _put(self, step: Step) -> int:
        """Do what a step asks for; give how many tokens the text has more than before."""
        context = self._context
        if step.put is None:
            return 1
        if step.back:
            # Its tokens are in the context: the beginning of it is a prompt again.
            self._restarts += 1
            kept = [*context.held[: len(context.held) - step.back], *step.put]
            self._prefill(kept, self._sampling(), answering=False)
        else:
            context.put(step.put, self.cancel.is_set)
        return len(step.put) - step.back

    def _sampling(self) -> Sampling:
        """Give another seed after each change: the same one would draw the same numbers again."""
        sampling = self._options.sampling
        seed = (sampling.seed + len(self._prompt.changes) + self._restarts) % SEED_LIMIT
        return replace(sampling, seed=seed)
