"""How a token is chosen: the options, which are the same for every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.errors import UsageError

__all__ = ["BREAKERS", "INT_LIMIT", "SEED_LIMIT", "Sampling"]

SEED_LIMIT = 2**32 - 1  # llama.cpp gives 2^32-1 itself the meaning "any seed"
INT_LIMIT = 2**31
BREAKERS = ("\n", ":", '"', "*")
MAX_BREAKERS, MAX_BREAKER_BYTES = 64, 40  # llama.cpp cuts longer ones off
MAX_RECENT = 1_000_000

# field -> the least and the greatest value
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (-100, 100),
    "frequency_penalty": (-100, 100),
    "presence_penalty": (-100, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "top_n_sigma": (0, 100),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "repeat_penalty": (0.01, 100),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 100),
    "dry_allowed_length": (0, MAX_RECENT),
    "dry_last_n": (0, MAX_RECENT),
    "repeat_last_n": (0, MAX_RECENT),
    "mirostat": (0, 2),
    "mirostat_tau": (0, 20),
    "mirostat_eta": (0, 10),
    "seed": (0, SEED_LIMIT - 1),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; names and defaults as in llama.cpp's command line tools.

    Attributes:
        temperature: 0 or less takes the likeliest token every time.
        top_k: keep the k likeliest tokens; 0 or less keeps all.
        top_p: keep the likeliest tokens that have this probability together; 1 keeps all.
        min_p: drop tokens below this share of the likeliest one's probability; 0 drops none.
        typical_p: locally typical sampling (Meister et al. 2022); 1 keeps all.
        top_n_sigma: keep tokens whose logit is at most so many standard deviations below the
            largest (Tang et al. 2024); 0 keeps all.
        xtc_probability: how often, before the draw, the likeliest tokens are left out but the last
            one that reaches `xtc_threshold`; 0 never.
        xtc_threshold: the probability that makes a token one of those; above 0.5 there are none.
        repeat_penalty: divides the logit of a recent token; 1 changes nothing.
        frequency_penalty: taken from the logit for each recent occurrence.
        presence_penalty: taken once from the logit of a token that occurred recently.
        repeat_last_n: how many tokens count as recent; 0 turns the three penalties off.
        dry_multiplier: how much is taken from the logit of a token that would go on with a
            repetition ("don't repeat yourself"); 0 turns it off.
        dry_base: what that is multiplied by for each token that the repetition is longer.
        dry_allowed_length: the longest repetition without a penalty, in tokens.
        dry_last_n: how many tokens are searched for repetitions; 0 turns it off.
        dry_breakers: texts across which nothing counts as a repetition.
        mirostat: 1 or 2 keeps the surprise of the text near `mirostat_tau` in place of all cuts
            (Basu et al. 2021); 0 is off.
        mirostat_tau: that surprise, in bits for each token.
        mirostat_eta: how fast it is corrected.
        seed: 0 .. 2^32-2; the same seed gives the same text.

    Raises:
        UsageError: a value out of its range, or two that exclude each other.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = 64
    dry_breakers: Sequence[str] = BREAKERS
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise UsageError(f"{name} is {value}, and must lie between {least} and {most}")
        if not -INT_LIMIT <= self.top_k < INT_LIMIT:
            raise UsageError(f"top_k is {self.top_k}, and must be a 32-bit number")
        if self.typical_p < 1 and self.top_n_sigma > 0:
            # llama.cpp's typical cut takes the logarithm of the probability 0 that the other leaves
            raise UsageError("typical_p and top_n_sigma exclude each other")
        if isinstance(self.dry_breakers, str):
            raise UsageError(f"dry_breakers is a list, and not the string {self.dry_breakers!r}")
        object.__setattr__(self, "dry_breakers", tuple(self.dry_breakers))
        if len(self.dry_breakers) > MAX_BREAKERS:
            raise UsageError(
                f"{len(self.dry_breakers)} dry_breakers, at most {MAX_BREAKERS} can be"
            )
        for text in self.dry_breakers:
            length = len(text.encode("utf-8", "surrogatepass"))
            if not 0 < length <= MAX_BREAKER_BYTES or "\0" in text or not _is_utf8(text):
                raise UsageError(
                    f"each of dry_breakers is a text of 1 to {MAX_BREAKER_BYTES} bytes, without a "
                    f"byte 0 or half a character: {text!r}"
                )

    @property
    def penalizes(self) -> bool:
        """Whether any of the three penalties changes a logit."""
        return self.repeat_last_n > 0 and (
            self.repeat_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )

    @property
    def breaks_repetitions(self) -> bool:
        """Whether DRY changes a logit."""
        return self.dry_multiplier != 0.0 and self.dry_last_n > 0

    @property
    def recent(self) -> int:
        """How many tokens before the next one its choice depends on."""
        return max(
            self.repeat_last_n if self.penalizes else 0,
            self.dry_last_n if self.breaks_repetitions else 0,
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
