"""What config.json of an MLX folder says of its quantized tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgellm_converters.plan import Step
from edgellm_quant.formats import Format, MLXFormat

__all__ = ["quantization_config"]


def quantization_config(steps: Sequence[Step], formats: Sequence[Format]) -> dict[str, object]:
    """Give the keys `quantization` and `quantization_config`, none if nothing is quantized.

    What most tensors have stands first; every module that has another format is named with its own,
    every matrix that stays dense with false. mlx-lm reads the first key, transformers the second
    (mlx-lm's `utils.py`, `load_model`).
    """
    chosen = {
        step.target.removesuffix(".weight"): fmt
        for step, fmt in zip(steps, formats, strict=True)
        if len(step.shape) > 1
    }
    counts = Counter(fmt for fmt in chosen.values() if isinstance(fmt, MLXFormat))
    if not counts:
        return {}
    usual = counts.most_common(1)[0][0]
    found: dict[str, object] = _settings(usual)
    for module, fmt in chosen.items():
        if not isinstance(fmt, MLXFormat):
            found[module] = False
        elif _settings(fmt) != _settings(usual):
            found[module] = _settings(fmt)
    return {"quantization": found, "quantization_config": found}


def _settings(fmt: MLXFormat) -> dict[str, object]:
    return {"group_size": fmt.group_size, "bits": fmt.bits, "mode": fmt.mode}
