"""What a LoRA adapter is, read from its headers alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AdapterDetails", "describe_adapter"]

FORMATS = {"gguf": "gguf", "hf": "peft", "mlx": "mlx-lm"}


@dataclass(frozen=True, slots=True)
class AdapterDetails:
    """An adapter: pairs of matrices of a low rank.

    Attributes:
        format: gguf, peft or mlx-lm: who wrote it, and loads it as it is.
        base: the model that it says it belongs to; None if it does not say.
        pairs: how many weights it changes.
        rank: the largest of its pairs.
        alpha: the product of a pair counts alpha / rank times; of the most pairs.
        targets: the kinds of weights that it changes, by their names without the layer.
    """

    format: str
    base: str | None
    pairs: int
    rank: int
    alpha: float
    targets: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Give it for JSON."""
        return {
            "format": self.format,
            "base": self.base,
            "pairs": self.pairs,
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": list(self.targets),
        }


def describe_adapter(path: Path) -> AdapterDetails:
    """Describe a GGUF file or a folder of PEFT or mlx-lm.

    Raises:
        ConvertersError: it is damaged, or of a kind that is not supported.
    """
    from edgellm_converters.adapters import open_adapter

    opened = open_adapter(path)
    alphas = Counter(round(pair.scale * pair.rank, 6) for pair in opened.pairs)
    kinds = {re.sub(r"^.*?\.\d+\.", "", pair.module) for pair in opened.pairs}
    return AdapterDetails(
        FORMATS[opened.side.value],
        opened.base,
        len(opened.pairs),
        max(pair.rank for pair in opened.pairs),
        alphas.most_common(1)[0][0],
        tuple(sorted(kinds)),
    )
