"""Beam search: the likeliest texts that a bounded search finds.

The rules are those of transformers' `_beam_search` with its default `early_stopping=False`
(transformers/generation/utils.py): per step the best `beams` running texts go on, and of the best
`beams` continuations those that end are finished; a text's score is the sum of its tokens'
log-probabilities over its length to the power of the length penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import Branches, CancelledError, Model
from edgellm.generate.result import FinishReason
from edgellm.generate.samples import log_totals
from edgellm.generate.text import StopFilter, Utf8Stream

__all__ = ["Beam", "beam_search"]


@dataclass(frozen=True, slots=True)
class Beam:
    """A text that the search found.

    Attributes:
        text: the text.
        finish_reason: "stop" (the model's end or a stop string), "length" or "context".
        tokens: its tokens, and the one that ends it.
        log_probability: of all these; nats.
        score: what it was ranked by.
    """

    text: str
    finish_reason: FinishReason
    tokens: tuple[int, ...] = field(repr=False)
    log_probability: float
    score: float


@dataclass(frozen=True, slots=True)
class _Running:
    tokens: tuple[int, ...]
    log_probability: float


def beam_search(
    model: Model,
    branches: Branches,
    prompt: Sequence[int],
    *,
    beams: int,
    most: int,
    full: FinishReason,
    length_penalty: float,
    stop: Sequence[str],
    cancelled: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> list[Beam]:
    """Give up to `beams` texts, the best first.

    Args:
        model: whose branches these are.
        branches: with room for `beams`.
        prompt: its tokens.
        beams: how many texts are followed.
        most: tokens of one.
        full: why one ends that has as many.
        length_penalty: above 0 longer texts are favoured, below it shorter ones.
        stop: strings that end a text and are no part of it.
        cancelled: asked before each step; True ends the search with what it has.
        progress: told after each step how many texts are finished, and how many tokens one has.

    Raises:
        BackendError: the backend failed.
    """
    try:
        branches.prefill(prompt, cancelled)
    except CancelledError:
        return []
    running = [_Running((), 0.0)]
    finished: list[Beam] = []
    ends = sorted(model.end_tokens)

    def finish(text: _Running, reason: FinishReason) -> None:
        score = text.log_probability / max(len(text.tokens), 1) ** length_penalty
        written, hit = _written(model, text.tokens, stop)
        why: FinishReason = "stop" if hit else reason
        finished.append(Beam(written, why, text.tokens, text.log_probability, score))
        finished.sort(key=lambda beam: -beam.score)
        del finished[beams:]

    for place in range(most):
        if cancelled():
            break
        logits = branches.logits()
        so_far = np.array([text.log_probability for text in running]) - log_totals(logits)
        totals = logits.astype(np.float64) + so_far[:, None]  # (running, vocabulary)
        # As many as may end at once, and as many as go on.
        candidates = _largest(totals.ravel(), beams * (1 + max(len(ends), 1)))
        going: list[tuple[int, _Running]] = []
        for rank, candidate in enumerate(candidates.tolist()):
            parent, token = divmod(candidate, totals.shape[1])
            text = _Running((*running[parent].tokens, token), float(totals[parent, token]))
            if text.log_probability == -np.inf:
                break
            if token in model.end_tokens or (stop and _written(model, text.tokens, stop)[1]):
                if rank < beams:
                    finish(text, "stop")
            elif place + 1 == most:
                if rank < beams:
                    finish(text, full)
            elif len(going) < beams:
                going.append((parent, text))
        if not going or _decided(finished, beams, going[0][1], length_penalty):
            return finished
        branches.keep([parent for parent, _ in going])
        running = [text for _, text in going]
        branches.step([text.tokens[-1] for text in running])
        progress(len(finished), place + 1)
    for text in running if not finished else []:
        finish(text, "cancelled")
    return finished


def _decided(finished: Sequence[Beam], beams: int, best: _Running, length_penalty: float) -> bool:
    """Tell whether no running text can come among the finished ones, at its present length."""
    if len(finished) < beams:
        return False
    score: float = best.log_probability / len(best.tokens) ** length_penalty
    return score <= finished[-1].score


def _written(model: Model, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
    """Give the text of tokens, and whether a stop string ends it."""
    raw = b"".join(model.piece(token) or b"" for token in tokens)
    stops = StopFilter(stop)
    text = stops.push(Utf8Stream().push(raw))
    return (text, True) if stops.hit is not None else (text + stops.finish(), False)


def _largest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Give the places of the largest values, the largest first; of equals the first one."""
    count = min(count, len(values))
    places = np.argpartition(-values, count - 1)[:count]
    places.sort()
    return places[np.argsort(-values[places], kind="stable")]
