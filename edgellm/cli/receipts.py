"""How the quality that a receipt tells of is written for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.quantization.receipt import Receipt

__all__ = ["quality_lines"]


def quality_lines(receipt: Receipt) -> list[str]:
    """Give a line for each text of a receipt: how far the model is from its source."""
    if not receipt.quality:
        return []
    width = max(len(each.name) for each in receipt.quality)
    return [
        f"against {receipt.source.name}, in chunks of {receipt.context} tokens:",
        *(
            f"  {each.name:{width}}  KLD {each.kld['mean']:.4f} (99 %: {each.kld['p99']:.3f}), "
            f"top-1 {each.top1_agreement:.1f} %, perplexity {each.perplexity:.5g} "
            f"(source {each.reference_perplexity:.5g})"
            for each in receipt.quality
        ),
    ]
