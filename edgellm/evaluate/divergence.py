"""How far a model's predictions are from another one's, token by token.

For the logits x of a token's n possible successors, log p_i = x_i - log sum_j exp(x_j). With the
reference's probabilities q and the model's p:

    negative log-likelihood   -log p_t, t the token that follows in the text
    KL divergence             sum_i q_i (log q_i - log p_i)          (Kullback and Leibler, 1951)
    top-1 agreement           argmax p == argmax q

All in nats. Logits are float32 and are taken relative to the largest one; sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm_quant.parallel import for_each_chunk

__all__ = ["Divergence", "divergence", "negative_log_likelihood"]

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Divergence:
    """What was measured at each of n tokens.

    Attributes:
        kld: float32 (n,), nats; 0 or more.
        reference_nll: float32 (n,), nats: of the reference.
        nll: float32 (n,), nats: of the model.
        agree: bool (n,), whether both think the same token likeliest.
    """

    kld: Floats
    reference_nll: Floats
    nll: Floats
    agree: npt.NDArray[np.bool_]


def divergence(
    reference: Floats, logits: Floats, targets: npt.ArrayLike, *, threads: int | None = None
) -> Divergence:
    """Compare logits with a reference's at the same tokens.

    Rows are taken a megabyte at a time, on several cores: nothing of the logits' size is made.
    Logits that are not finite give values that are not.

    Args:
        reference: float32 (n, vocabulary).
        logits: float32 (n, vocabulary).
        targets: (n,): the tokens that follow in the text.
        threads: cores to use; None for all.

    Raises:
        ValueError: shapes that do not go together.
    """
    follows = _targets(logits, targets)
    if reference.shape != logits.shape:
        raise ValueError(f"logits of shape {logits.shape} and a reference of {reference.shape}")
    count, columns = logits.shape
    kld, reference_nll, nll = (np.empty(count, np.float32) for _ in range(3))
    agree = np.empty(count, np.bool_)

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        with np.errstate(invalid="ignore"):
            there, weights, there_total, there_top = _relative(reference[part])
            here, others, here_total, here_top = _relative(logits[part])
            np.subtract(there, here, out=others)  # in the place of exponentials that are summed
            np.multiply(weights, others, out=weights)  # (rows, vocabulary)
            mean = weights.sum(axis=1, dtype=np.float64) / there_total
            # Rounding can leave -1e-8 where both are nearly alike.
            found = np.maximum(mean - np.log(there_total) + np.log(here_total), 0.0)
        kld[part] = found
        reference_nll[part] = _nll(there, there_total, follows[part])
        nll[part] = _nll(here, here_total, follows[part])
        agree[part] = there_top == here_top

    for_each_chunk(count, columns, threads, work)
    return Divergence(kld, reference_nll, nll, agree)


def negative_log_likelihood(
    logits: Floats, targets: npt.ArrayLike, *, threads: int | None = None
) -> Floats:
    """Give -log p of the tokens that follow: float32 (n,), nats; see `divergence`."""
    follows = _targets(logits, targets)
    count, columns = logits.shape
    nll = np.empty(count, np.float32)

    def work(start: int, stop: int) -> None:
        with np.errstate(invalid="ignore"):
            here, _, total, _ = _relative(logits[start:stop])
        nll[start:stop] = _nll(here, total, follows[start:stop])

    for_each_chunk(count, columns, threads, work)
    return nll


def _targets(logits: Floats, targets: npt.ArrayLike) -> npt.NDArray[np.int64]:
    follows = np.asarray(targets, dtype=np.int64)
    if logits.ndim != 2 or logits.dtype != np.float32 or follows.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.dtype} {logits.shape} for {follows.shape} tokens")
    if follows.size and not (follows.min() >= 0 and follows.max() < logits.shape[1]):
        raise ValueError(f"a token outside a vocabulary of {logits.shape[1]}")
    return follows


def _relative(logits: Floats) -> tuple[Floats, Floats, Sums, npt.NDArray[np.intp]]:
    """Give logits less the largest, their exponentials, the sums of these, and where that was."""
    top = logits.argmax(axis=1)  # (rows,)
    relative = logits - np.take_along_axis(logits, top[:, None], axis=1)
    exponentials = np.exp(relative)
    return relative, exponentials, exponentials.sum(axis=1, dtype=np.float64), top


def _nll(relative: Floats, total: Sums, targets: npt.NDArray[np.int64]) -> Sums:
    at = np.take_along_axis(relative, targets[:, None], axis=1)[:, 0]
    result: Sums = np.log(total) - at
    return result
