"""The choice of a token from logits: llama.cpp's chain of samplers in numpy.

The order is that of `edgellm.backends.llama_cpp.sampler`. The draw takes the same random numbers
from the same seed, so that equal logits give equal text on both.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import Sampling
from edgellm.backends.mlx.dry import Breakers, Repetitions
from edgellm.backends.mlx.mirostat import Mirostat
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
        breakers: of DRY, by `edgellm.backends.mlx.dry.breaker_tokens`.
    """

    def __init__(
        self,
        sampling: Sampling,
        suppressed: Sequence[int],
        prompt: Sequence[int],
        breakers: Breakers | None = None,
    ) -> None:
        self._sampling = sampling
        self._suppressed = np.array(suppressed, np.int64)
        recent = sampling.repeat_last_n if sampling.penalizes else 0
        self._recent = deque(prompt, maxlen=recent)
        self._repetitions: Repetitions | None = None
        if sampling.breaks_repetitions:
            self._repetitions = Repetitions(sampling, prompt, breakers or {})
        self._mirostat = Mirostat(sampling) if sampling.mirostat else None
        # The generator and its seeding are those of std::mt19937; XTC has one of its own.
        self._random = np.random.RandomState(sampling.seed)
        self._xtc_random = np.random.RandomState(sampling.seed)

    def choose(self, logits: Logits) -> int:
        """Choose a token by its logits (vocabulary,), which are changed.

        Raises:
            BackendError: they hold a NaN, or no number at all.
        """
        sampling = self._sampling
        logits[self._suppressed] = -np.inf
        if not np.isfinite(logits.max()):
            raise BackendError("the model gives logits that are no numbers")
        if self._mirostat is not None and sampling.temperature > 0:
            return self._choose_by_surprise(logits, self._mirostat)
        self._penalize(logits)
        if self._repetitions is not None:
            self._repetitions.penalize(logits)
        if sampling.temperature <= 0:
            token = int(logits.argmax())
        else:
            tokens, kept = candidates(logits, sampling)
            if sampling.xtc_probability > 0:
                tokens, kept = self._without_likeliest(tokens, kept)
            token = int(tokens[self._draw(kept)])
        self.take(token)
        return token

    def take(self, token: int) -> None:
        """Take a token of the text, which penalties see from now on."""
        self._recent.append(token)
        if self._repetitions is not None:
            self._repetitions.take(token)

    def _choose_by_surprise(self, logits: Logits, mirostat: Mirostat) -> int:
        """Choose by Mirostat, which stands in place of penalties and cuts."""
        tokens = np.flatnonzero(logits > -np.inf)
        kept = logits[tokens] / np.float32(self._sampling.temperature)
        tokens, kept = _largest(tokens, kept, len(kept))
        count = mirostat.count(_probabilities(kept), len(logits))
        probabilities = _probabilities(kept[:count])
        at = 0
        if count > 1:  # std::discrete_distribution takes no random number for one
            shares = np.cumsum(probabilities, dtype=np.float64)
            shares /= shares[-1]
            at = int(np.searchsorted(shares, self._uniform()))
        mirostat.observe(probabilities[at])
        return int(tokens[at])

    def _without_likeliest(self, tokens: npt.NDArray[np.int64], logits: Logits) -> Candidates:
        """Leave out, now and then, all likely tokens but the last of them ("exclude top choices").

        By p-e-w, 2024.
        """
        sampling = self._sampling
        if sampling.xtc_threshold > 0.5 or len(logits) < 2:
            return tokens, logits
        low = self._xtc_random.randint(0, 1 << 32, dtype=np.uint32)
        if np.float32(low) / np.float32(2**32) > np.float32(sampling.xtc_probability):
            return tokens, logits
        tokens, logits = _largest(tokens, logits, len(logits))
        likely = _probabilities(logits) >= np.float32(sampling.xtc_threshold)
        last = max(int(likely.sum()) - 1, 0)
        return tokens[last:], logits[last:]

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
        scaled = logits / np.float32(self._sampling.temperature)
        runs = np.cumsum(np.exp(scaled - scaled.max()), dtype=np.float64)
        place = np.searchsorted(runs, runs[-1] * self._uniform())
        return min(int(place), len(logits) - 1)

    def _uniform(self) -> float:
        """Draw a number from 0 to 1."""
        # std::uniform_real_distribution makes a double of two numbers, the lower half first.
        low, high = self._random.randint(0, 1 << 32, size=2, dtype=np.uint32).tolist()
        return float((low + high * 2.0**32) / 2.0**64)


def candidates(logits: Logits, sampling: Sampling) -> Candidates:
    """Give the tokens that may be drawn and their logits, in llama.cpp's order.

    The order matters, since a draw goes along it: by falling logit after top-k or top-p, by
    typicality after that cut, by number otherwise.
    """
    # What is suppressed or not allowed is no candidate: no cut counts it, and no draw ends on it.
    tokens = np.flatnonzero(logits > -np.inf)
    logits = logits[tokens]
    in_order = False
    if sampling.top_n_sigma > 0:
        logits = _near_largest(logits, np.float32(sampling.top_n_sigma))
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


def _near_largest(logits: Logits, deviations: np.float32) -> Logits:
    """Make logits -inf that are more standard deviations than that below the largest one."""
    if len(logits) < 2:
        return logits
    count = np.float32(len(logits))
    mean = _total(logits) / count
    deviation = np.sqrt(_total((logits - mean) ** 2) / count)
    return np.where(logits < logits.max() - deviations * deviation, np.float32(-np.inf), logits)


def _total(values: Logits) -> np.float32:
    """Add in order, as llama.cpp does."""
    return np.float32(np.cumsum(values, dtype=np.float32)[-1])


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
