"""What mlx-lm computes from a folder, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["logits"]


def logits(folder: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    """The logits at every position: float32 (ids, vocabulary)."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))
