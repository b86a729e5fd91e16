"""From values at each token to the numbers that describe a model: perplexity, KLD, agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["KLDSummary", "Quality", "Scores", "summarize"]


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured at each scored token of one text, by one model.

    Attributes:
        name: the text's.
        per_chunk: how many tokens of a chunk are scored; the arrays hold whole chunks.
        nll: float32 (n,), nats: -log of the probability of the token that follows.
        reference_nll: the same of the reference; None without one, as the two below.
        kld: float32 (n,), nats: the KL divergence from the reference.
        agree: bool (n,): whether the likeliest token is the reference's.
    """

    name: str
    per_chunk: int
    nll: npt.NDArray[np.float32]
    reference_nll: npt.NDArray[np.float32] | None = None
    kld: npt.NDArray[np.float32] | None = None
    agree: npt.NDArray[np.bool_] | None = None

    @property
    def quality(self) -> Quality:
        """The text's numbers."""
        return summarize([self])


@dataclass(frozen=True, slots=True)
class KLDSummary:
    """KL divergences of tokens, in nats: their mean with its standard error, and quantiles."""

    mean: float
    error: float
    median: float
    p99: float
    p999: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The numbers of a model on a text, or on several joined.

    An error is the standard error of the number before it, tokens being taken as independent.

    Attributes:
        tokens: how many were scored.
        perplexity: exp of the mean negative log-likelihood.
        reference_perplexity: the reference's; None without one, as all below.
        perplexity_ratio: the model's perplexity by the reference's. Its error is much smaller than
            those of the two, because they were measured on the same tokens.
        kld: the KL divergence from the reference.
        top1_agreement: at how many tokens the likeliest successor is the reference's, in percent.
    """

    tokens: int
    perplexity: float
    perplexity_error: float
    reference_perplexity: float | None = None
    reference_perplexity_error: float | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_error: float | None = None
    kld: KLDSummary | None = None
    top1_agreement: float | None = None
    top1_agreement_error: float | None = None


def summarize(scores: Sequence[Scores]) -> Quality:
    """Give the numbers of texts together: every scored token counts the same.

    Raises:
        ValueError: there are no scored tokens.
    """
    if not any(each.nll.size for each in scores):
        raise ValueError("no tokens were scored")
    nll = np.concatenate([each.nll for each in scores]).astype(np.float64)
    perplexity, error = _exponential(nll)
    against = [(s.reference_nll, s.kld, s.agree) for s in scores]
    reference = [each for each, _, _ in against if each is not None]
    klds = [each for _, each, _ in against if each is not None]
    agrees = [each for _, _, each in against if each is not None]
    if len(reference) != len(scores) or len(klds) != len(scores) or len(agrees) != len(scores):
        return Quality(nll.size, perplexity, error)
    reference_nll = np.concatenate(reference).astype(np.float64)
    reference_perplexity, reference_error = _exponential(reference_nll)
    ratio, ratio_error = _exponential(nll - reference_nll)
    share = float(np.concatenate(agrees).mean())
    return Quality(
        nll.size,
        perplexity,
        error,
        reference_perplexity,
        reference_error,
        ratio,
        ratio_error,
        _kld(np.concatenate(klds).astype(np.float64)),
        100 * share,
        100 * math.sqrt(share * (1 - share) / max(nll.size - 1, 1)),
    )


def _kld(values: npt.NDArray[np.float64]) -> KLDSummary:
    median, p99, p999 = (float(each) for each in np.quantile(values, (0.5, 0.99, 0.999)))
    return KLDSummary(float(values.mean()), _error(values), median, p99, p999, float(values.max()))


def _exponential(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Give exp of a mean, and its standard error by the delta method: exp(mean) times the mean's.

    A model that is broken altogether has no perplexity that a float could hold: infinity.
    """
    mean = float(values.mean())
    value = math.exp(mean) if mean < 700 else math.inf
    return value, value * _error(values)


def _error(values: npt.NDArray[np.float64]) -> float:
    """Give the standard error of a mean."""
    return float(values.std()) / math.sqrt(max(values.size - 1, 1))
