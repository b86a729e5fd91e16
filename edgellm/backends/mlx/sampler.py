"""The choice of a token from logits: llama.cpp's chain of samplers in numpy.

The order is that of `edgellm.backends.llama_cpp.sampler`: bias, penalties, top-k, typical, top-p,
min-p, temperature, and the draw. The draw takes the same random numbers from the same seed, so that
equal logits give equal text on both.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import Sampling
from edgellm.errors import BackendError

__all__ = ["Candidates", "Sampler", "candidates"]

Logits = npt.NDArray[np.float32]
Candidates = tuple[npt.NDArray[np.int64], Logits]


class Sampler:
    """Chooses the tokens of one text.

    Args:
        sampling: how.
        suppressed: tokens that are never chosen.
        prompt: the tokens before the text, which the penalties see.
    """

    def __init__(
        self, sampling: Sampling, suppressed: Sequence[int], prompt: Iterable[int]
    ) -> None:
        self._sampling = sampling
        self._suppressed = np.array(suppressed, np.int64)
        recent = sampling.repeat_last_n if sampling.penalizes else 0
        self._recent = deque(prompt, maxlen=recent)
        # The generator and its seeding are those of std::mt19937.
        self._random = np.random.RandomState(sampling.seed)

    def choose(self, logits: Logits) -> int:
        """Choose a token by its logits (vocabulary,), which are changed.

        Raises:
            BackendError: they hold a NaN, or no number at all.
        """
        logits[self._suppressed] = -np.inf
        self._penalize(logits)
        if not np.isfinite(logits.max()):
            raise BackendError("the model gives logits that are no numbers")
        if self._sampling.temperature <= 0:
            token = int(logits.argmax())
        else:
            tokens, kept = candidates(logits, self._sampling)
            token = int(tokens[self._draw(kept)])
        self._recent.append(token)
        return token

    def _penalize(self, logits: Logits) -> None:
        """Lower the logits of recent tokens.

        The first penalty is that of CTRL (Keskar et al. 2019), the others are OpenAI's.
        """
        if not self._recent:
            return
        counts = Counter(self._recent)
        tokens = np.fromiter(counts.keys(), np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        sampling = self._sampling
        values = logits[tokens]
        factor = np.float32(sampling.repeat_penalty)
        values = np.where(values <= 0, values * factor, values / factor)
        values -= times * np.float32(sampling.frequency_penalty)
        values -= np.float32(sampling.presence_penalty)
        logits[tokens] = values

    def _draw(self, logits: Logits) -> int:
        """Draw a place among the candidates' logits, each by its probability."""
        # std::uniform_real_distribution makes a double of two numbers, the lower half first.
        low, high = self._random.randint(0, 1 << 32, size=2, dtype=np.uint32).tolist()
        scaled = logits / np.float32(self._sampling.temperature)
        runs = np.cumsum(np.exp(scaled - scaled.max()), dtype=np.float64)
        place = np.searchsorted(runs, runs[-1] * ((low + high * 2.0**32) / 2.0**64))
        return min(int(place), len(logits) - 1)


def candidates(logits: Logits, sampling: Sampling) -> Candidates:
    """Give the tokens that may be drawn and their logits, in llama.cpp's order.

    The order matters, since a draw goes along it: by falling logit after top-k or top-p, by
    typicality after that cut, by number otherwise.
    """
    # What is suppressed or not allowed is no candidate: no cut counts it, and no draw ends on it.
    tokens = np.flatnonzero(logits > -np.inf)
    logits = logits[tokens]
    in_order = False
    if sampling.top_k > 0:
        tokens, logits = _largest(tokens, logits, min(sampling.top_k, len(logits)))
        in_order = True
    if sampling.typical_p < 1:
        if not in_order:
            tokens, logits = _largest(tokens, logits, len(logits))
        tokens, logits = _typical(tokens, logits, np.float32(sampling.typical_p))
        in_order = False
    if sampling.top_p < 1:
        if not in_order:
            tokens, logits = _largest(tokens, logits, len(logits))
        # The fewest that have this probability together.
        together = np.cumsum(_probabilities(logits))
        count = int(np.searchsorted(together, np.float32(sampling.top_p))) + 1
        tokens, logits = tokens[:count], logits[:count]
    if sampling.min_p > 0:
        kept = logits >= logits.max() + np.log(np.float32(sampling.min_p))
        tokens, logits = tokens[kept], logits[kept]
    return tokens, logits


def _largest(tokens: npt.NDArray[np.int64], logits: Logits, count: int) -> Candidates:
    """Keep the `count` largest logits, by falling logit."""
    if count < len(logits):
        chosen = np.argpartition(-logits, count - 1)[:count]
        tokens, logits = tokens[chosen], logits[chosen]
    order = np.argsort(-logits, kind="stable")
    return tokens[order], logits[order]


def _typical(tokens: npt.NDArray[np.int64], logits: Logits, share: np.float32) -> Candidates:
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2022).

    As many as have more than `share` of the probability together.
    """
    probabilities = _probabilities(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = np.nansum(probabilities * surprise, dtype=np.float32)
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    together = np.cumsum(probabilities[order])
    count = int(np.searchsorted(together, share, side="right")) + 1
    return tokens[order[:count]], logits[order[:count]]


def _probabilities(logits: Logits) -> Logits:
    """Softmax, (candidates,)."""
    found: Logits = np.exp(logits - logits.max())
    found /= found.sum()
    return found
