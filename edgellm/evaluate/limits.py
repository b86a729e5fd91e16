"""What a model's quality must not fall short of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgellm.errors import UsageError
from edgellm.evaluate.quality import Quality

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what is measured against a reference; None for no limit.

    Attributes:
        max_kld: the largest mean KL divergence, in nats a token.
        max_perplexity_ratio: the largest perplexity as a multiple of the reference's.
        min_top1: the smallest top-1 agreement, in percent.

    Raises:
        UsageError: a value out of its range.
    """

    max_kld: float | None = None
    max_perplexity_ratio: float | None = None
    min_top1: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("max_kld", 1e6), ("max_perplexity_ratio", 1e6), ("min_top1", 100.0)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 <= value <= most):
                raise UsageError(f"{name} is {value}, and must lie between 0 and {most:g}")

    @property
    def given(self) -> bool:
        """Whether there is any limit."""
        return self != Limits()

    def broken(self, quality: Quality) -> list[str]:
        """Give a sentence for each limit that does not hold; a value at its limit holds.

        Raises:
            ValueError: the quality was measured without a reference.
        """
        kld, ratio, top1 = quality.kld, quality.perplexity_ratio, quality.top1_agreement
        if kld is None or ratio is None or top1 is None:
            raise ValueError("limits hold for what is measured against a reference")
        found = []
        if self.max_kld is not None and kld.mean > self.max_kld:
            found.append(f"the mean KL divergence is {kld.mean:.6g}, over {self.max_kld:g}")
        if self.max_perplexity_ratio is not None and ratio > self.max_perplexity_ratio:
            found.append(f"the perplexity ratio is {ratio:.6g}, over {self.max_perplexity_ratio:g}")
        if self.min_top1 is not None and top1 < self.min_top1:
            found.append(f"the top-1 agreement is {top1:.5g} %, under {self.min_top1:g} %")
        return found
