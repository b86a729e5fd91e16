"""Several answers to one prompt, written side by side; the prompt is evaluated once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import SEED_LIMIT, Branches, CancelledError, Chooser, Constraint, Model
from edgellm.generate.options import GenerateOptions
from edgellm.generate.result import FinishReason
from edgellm.generate.text import StopFilter, Utf8Stream

__all__ = ["MAX_SAMPLES", "Sample", "log_totals", "sample_answers"]

MAX_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class Sample:
    """One of several answers.

    Attributes:
        text: the answer.
        finish_reason: as of a `GenerationResult`.
        seed: what it was drawn with.
        completion_tokens: its tokens, without the one that ends it.
        log_probability: of all its tokens and the one that ends it, as the model gives them before
            anything is cut; nats.
        mean_log_probability: that, divided by the number of these tokens; 0 where there are none.
    """

    text: str
    finish_reason: FinishReason
    seed: int
    completion_tokens: int
    log_probability: float
    mean_log_probability: float


class Writer:
    """One answer while it is written."""

    def __init__(
        self, options: GenerateOptions, seed: int, chooser: Chooser, constraint: Constraint | None
    ) -> None:
        self.seed = seed
        self.reason: FinishReason = "cancelled"
        self._chooser = chooser
        self._constraint = constraint
        self._decode = Utf8Stream().push
        self._stops = StopFilter(options.stop)
        self._parts: list[str] = []
        self._count = self._drawn = 0
        self._log_probability = 0.0

    def choose(self, branch: int, logits: npt.NDArray[np.float32], total: np.float32) -> int | None:
        """Choose the next token; None where the constraint is complete.

        Args:
            branch: the number that this answer has at the moment.
            logits: of what follows it, (vocabulary,).
            total: the logarithm of the sum of their exponentials.
        """
        mask = None
        if self._constraint is not None:
            if self._constraint.complete:
                self.reason = "stop"
                return None
            mask = self._constraint.mask()
        token = self._chooser.choose(branch, mask)
        self._drawn += 1
        self._log_probability += float(logits[token] - total)
        return token

    def write(self, token: int, piece: bytes | None) -> bool:
        """Take a token and its bytes; False where the text ends with it."""
        if piece is None:
            self.reason = "stop"
            return False
        self._count += 1
        self._parts.append(self._stops.push(self._decode(piece)))
        if self._stops.hit is not None:
            self.reason = "stop"
            return False
        if self._constraint is not None:
            self._constraint.take(token)
        return True

    def result(self) -> Sample:
        """Give the answer as far as it is written."""
        return Sample(
            text="".join(self._parts) + self._stops.finish(),
            finish_reason=self.reason,
            seed=self.seed,
            completion_tokens=self._count,
            log_probability=self._log_probability,
            mean_log_probability=self._log_probability / self._drawn if self._drawn else 0.0,
        )


def sample_answers(
    model: Model,
    branches: Branches,
    prompt: Sequence[int],
    options: GenerateOptions,
    *,
    count: int,
    most: int,
    full: FinishReason,
    constraint: Constraint | None,
    cancelled: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> list[Sample]:
    """Write so many answers; the one at place i is drawn with the seed + i.

    Args:
        model: whose branches these are.
        branches: with room for them.
        prompt: its tokens.
        options: how answers are written, but for `max_tokens`.
        count: how many.
        most: tokens of one.
        full: why one ends that has as many.
        constraint: at its beginning; each answer gets a copy.
        cancelled: asked before each token; True ends all answers where they are.
        progress: told after each token how many answers are finished, and how many tokens written.

    Raises:
        BackendError: the backend failed.
        UsageError: the constraint is too complex to go on.
    """
    sampling = options.sampling
    seeds = [(sampling.seed + number) % SEED_LIMIT for number in range(count)]
    try:
        branches.prefill(prompt, cancelled)
    except CancelledError:
        return [Sample("", "cancelled", seed, 0, 0.0, 0.0) for seed in seeds]
    branches.keep([0] * count)
    writers = [
        Writer(
            options,
            seed,
            branches.chooser(replace(sampling, seed=seed)),
            None if constraint is None else constraint.copy(),
        )
        for seed in seeds
    ]
    live = list(writers)
    written = 0
    for place in range(most + 1):
        if place == most:
            for writer in live:
                writer.reason = full
        if place == most or not live or cancelled():
            break
        logits = branches.logits()
        totals = log_totals(logits)
        kept: list[int] = []
        tokens: list[int] = []
        for branch, writer in enumerate(live):
            token = writer.choose(branch, logits[branch], totals[branch])
            if token is not None and writer.write(token, model.piece(token)):
                kept.append(branch)
                tokens.append(token)
        written += len(kept)
        if kept and place + 1 < most:
            if len(kept) < len(live):
                branches.keep(kept)
            branches.step(tokens)
        live = [live[branch] for branch in kept]
        progress(count - len(live), written)
    return [writer.result() for writer in writers]


def log_totals(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-sum-exp of each row of (rows, vocabulary): what a logit is less than its probability."""
    largest = logits.max(axis=1)
    found: npt.NDArray[np.float32] = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return found
