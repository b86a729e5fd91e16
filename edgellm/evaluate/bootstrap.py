"""Whether one model is better than another on the same tokens, or merely luckier.

A paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13):
chunks are drawn with replacement, the same ones for both models, and the difference is computed
anew for each draw. Whole chunks are drawn because tokens of a chunk are not independent, and as
many of each text as there are, so that the mixture of texts stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.evaluate.quality import Scores

__all__ = ["Comparison", "Interval", "paired_bootstrap"]

RESAMPLES = 10_000
CONFIDENCE = 0.95
SLAB = 2**20  # draws of a chunk that are held at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the value is certain at that level."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A second model against a first one, on the same tokens; below 0 the second is better.

    Attributes:
        log_perplexity_difference: in nats a token; exp of it is the ratio of perplexities.
        kld_difference: of mean KL divergences, in nats; None without a reference.
        kld_ratio: the second's mean KL divergence by the first's; None without a reference, and
            where the first's is 0.
    """

    log_perplexity_difference: Interval
    kld_difference: Interval | None
    kld_ratio: Interval | None


def paired_bootstrap(
    first: Sequence[Scores], second: Sequence[Scores], *, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison | None:
    """Compare two models; None where fewer than two chunks were scored.

    Args:
        first: the scores of each text.
        second: those of the other model on the same texts.
        seed: the same seed gives the same intervals.
        resamples: how many times chunks are drawn.

    Raises:
        ValueError: the two were not measured on the same tokens.
    """
    for one, other in zip(first, second, strict=True):
        if (one.name, one.per_chunk, one.nll.size) != (other.name, other.per_chunk, other.nll.size):
            raise ValueError(f"{one.name} and {other.name} are not the same tokens")
    with_kld = all(each.kld is not None for each in (*first, *second))
    columns = [
        np.stack(
            [_chunk_sums(of.per_chunk, values) for of in pair for values in _values(of, with_kld)],
            axis=1,
        )
        for pair in zip(first, second, strict=True)
    ]  # for each text (chunks, 2 models x values)
    if sum(len(sums) for sums in columns) < 2:
        return None
    tokens = sum(each.nll.size for each in first)
    whole = np.sum([sums.sum(axis=0) for sums in columns], axis=0)[None] / tokens
    drawn = _draw(columns, np.random.default_rng(seed), resamples) / tokens
    each = whole.shape[1] // 2
    difference = _interval(whole[:, each] - whole[:, 0], drawn[:, each] - drawn[:, 0])
    if not with_kld:
        return Comparison(difference, None, None)
    kld_difference = _interval(whole[:, 3] - whole[:, 1], drawn[:, 3] - drawn[:, 1])
    ratio = None
    if drawn[:, 1].min() > 0:
        ratio = _interval(whole[:, 3] / whole[:, 1], drawn[:, 3] / drawn[:, 1])
    return Comparison(difference, kld_difference, ratio)


def _values(scores: Scores, with_kld: bool) -> list[npt.NDArray[np.float32]]:
    return [scores.nll, scores.kld] if with_kld and scores.kld is not None else [scores.nll]


def _chunk_sums(per_chunk: int, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = values.reshape(-1, per_chunk).sum(axis=1, dtype=np.float64)
    return result


def _draw(
    columns: Sequence[npt.NDArray[np.float64]], rng: np.random.Generator, resamples: int
) -> npt.NDArray[np.float64]:
    """Sum drawn chunks, of each text as many as it has: (resamples, values)."""
    found = np.zeros((resamples, columns[0].shape[1]))
    for sums in columns:
        count = len(sums)
        step = max(1, SLAB // count)
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            times = rng.multinomial(count, np.full(count, 1 / count), size=size)
            found[start : start + size] += times.astype(np.float64) @ sums
    return found


def _interval(whole: npt.NDArray[np.float64], drawn: npt.NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("values that are not finite")
    return Interval(float(whole[0]), float(low), float(high))
