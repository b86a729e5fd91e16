"""A tied embedding serves twice: its rows are looked up, and multiplied with for the logits.

What a change D of its rows costs is c (D' H D) + a |D|^2 summed over rows: H = E[h h'] of the
hidden states before the logits, and a term without a direction for the rows that go into the first
layer. With H alone, error compensation ruins the rows themselves (Q5_1 of stories15M lost 0.33 nats
in place of 0.11); with both it serves both. Which weighs how much differs from model to model by
a factor of a hundred, so that it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.backends.llama_cpp.swap import SwapModel
from edgellm.quantization.sensitivity import divergences, references
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_quant.ggml import quantize_rows
from edgellm_quant.statistics import RowStatistics, TensorStatistics

__all__ = ["lookup_share", "with_lookup"]

Floats = NDArray[np.float32]

# Of a row's root mean square: what rounding to 4 or 5 bits does.
NOISE = 0.05
LEAST, MOST = 0.01, 10.0


def lookup_share(
    model: Path,
    name: str,
    chunks: Sequence[Sequence[int]],
    *,
    seed: int = 0,
    threads: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> float:
    """Measure what white noise on an embedding costs where it is looked up, in units of the logits.

    Args:
        model: a GGUF file that has passed the safety check.
        name: of the embedding, which is multiplied with as well.
        chunks: tokens of texts, all of one length.
        seed: of the noise.
        threads: cores to use; None for all.
        cancelled: asked between texts.

    Returns:
        The ratio a |D|^2 / c (D' H D) for white D, kept between 0.01 and 10.

    Raises:
        BackendError, CancelledError: as for `sensitivity.measure`.
    """
    longest = max(map(len, chunks))
    with (
        GGUFCheckpoint(model) as checkpoint,
        closing(SwapModel(model, longest, threads=threads, cancelled=cancelled)) as swapped,
    ):
        info = checkpoint.info(name)
        rows = checkpoint.load_rows(name, 0, info.rows, threads=threads or 1)
        noise = np.random.default_rng(seed).standard_normal(rows.shape, dtype=np.float32)
        noise *= NOISE * np.sqrt(np.mean(rows**2, axis=1, keepdims=True, dtype=np.float32))
        pairs = references(swapped, chunks)
        swapped.move_rows(name, noise)
        looked_up = float(divergences(swapped, pairs, threads).mean(dtype=np.float64))
        swapped.move_rows(name, None)
        noise += rows
        swapped.write(name, quantize_rows(noise, info.format, None, threads))
        both = float(divergences(swapped, pairs, threads).mean(dtype=np.float64))
    multiplied = both - looked_up
    return min(MOST, max(LEAST, looked_up / multiplied)) if multiplied > 0 else MOST


def with_lookup(statistics: TensorStatistics, share: float) -> TensorStatistics:
    """Add the cost of looking rows up: `share` of a Hessian's mean diagonal on its diagonal."""
    return TensorStatistics(
        statistics.columns, tuple(_with_lookup(group, share) for group in statistics.groups)
    )


def _with_lookup(group: RowStatistics, share: float) -> RowStatistics:
    added = share * float(group.importance.mean(dtype=np.float64))

    def more(matrix: Floats | None) -> Floats | None:
        if matrix is None:
            return None
        return matrix + np.float32(added) * np.eye(len(matrix), dtype=np.float32)

    return replace(
        group,
        importance=group.importance + np.float32(added),
        hessian=more(group.hessian),
        held_out=more(group.held_out),
    )
