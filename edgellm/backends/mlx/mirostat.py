"""Mirostat: the surprise of a text is kept near a target (Basu et al. 2021), as in llama.cpp."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm.backends.sampling import Sampling

__all__ = ["Mirostat"]

Probabilities = npt.NDArray[np.float32]
RANKS = 100  # of which the first version estimates how probabilities fall


class Mirostat:
    """The controller of one text, of version 1 or 2."""

    def __init__(self, sampling: Sampling) -> None:
        self._version = sampling.mirostat
        self._tau = np.float32(sampling.mirostat_tau)
        self._eta = np.float32(sampling.mirostat_eta)
        self._mu = 2 * self._tau

    def count(self, probabilities: Probabilities, vocabulary: int) -> int:
        """Give how many of the likeliest tokens may be drawn.

        Args:
            probabilities: of all candidates, falling.
            vocabulary: the number of tokens that there are.
        """
        if self._version == 2:
            with np.errstate(divide="ignore"):
                above = -np.log2(probabilities) > self._mu
            return max(int(above.argmax()) if above.any() else len(probabilities), 1)
        return max(min(self._zipf(probabilities, vocabulary), len(probabilities)), 1)

    def observe(self, probability: np.float32) -> None:
        """Correct the bound by the surprise of the token that was drawn."""
        self._mu -= self._eta * (-np.log2(probability) - self._tau)

    def _zipf(self, probabilities: Probabilities, vocabulary: int) -> int:
        """Give how many tokens have the wanted surprise, if probabilities fall by Zipf's law."""
        first = probabilities[:RANKS]
        ranks = np.arange(1, len(first), dtype=np.float32)
        one, two = np.float32(1), np.float32(2)
        with np.errstate(all="ignore"):
            steps = np.log((ranks + one) / ranks)
            falls = np.log(first[:-1] / first[1:])
            slope = _sum(steps * falls) / _sum(steps * steps)
            excess = slope - one
            scale = (excess * two**self._mu) / (one - np.float32(vocabulary) ** -excess)
            # As C converts floats: what is no number, or too large, becomes what the processor says
            return int(np.float32(scale ** (one / slope)).astype(np.int32))


def _sum(values: Probabilities) -> np.float32:
    """Add in order, as llama.cpp does."""
    return np.float32(np.cumsum(values, dtype=np.float32)[-1]) if len(values) else np.float32(0)
