"""How much work a quantization may be: what is gathered, chosen from and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.errors import UsageError
from edgellm_quant.parallel import default_threads

if TYPE_CHECKING:
    from edgellm.quantization.calibration import Calibration

__all__ = ["EFFORTS", "METHODS", "Effort", "get_effort", "seconds_for"]

METHODS = ("auto", "rtn", "importance", "gptq")


@dataclass(frozen=True, slots=True)
class Effort:
    """A preset.

    Attributes:
        name: as people type it.
        method: what "auto" means.
        tokens: calibration tokens at most.
        attention_tokens: of these, for the Hessians of attention values.
        measured_tokens: tokens of each text that quality is measured on, scored or not.
        microseconds: what encoding a weight takes on one core by gptq; measured on a server of
            2023, for the estimate before the work begins.
    """

    name: str
    method: str
    tokens: int
    attention_tokens: int
    measured_tokens: int
    microseconds: float


EFFORTS: Mapping[str, Effort] = {
    effort.name: effort
    for effort in (
        Effort("fast", "rtn", 16 * 1024, 4 * 1024, 4096, 1.0),
        Effort("balanced", "gptq", 48 * 1024, 12 * 1024, 4096, 3.0),
        Effort("best", "gptq", 128 * 1024, 32 * 1024, 8192, 6.0),
    )
}


def get_effort(name: str) -> Effort:
    """Give the effort of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return EFFORTS[name]
    except KeyError:
        raise UsageError(
            f"{name!r} is no effort", hint=f"known are: {', '.join(EFFORTS)}"
        ) from None


# Nanoseconds on one core, measured as above: for a weight rounded by ggml with importance; for a
# weight that a calibration token meets, with Hessians and without.
ROUNDING, MEETING_HESSIAN, MEETING = 150.0, 0.09, 0.05


def seconds_for(
    effort: Effort, method: str, weights: int, calibration: Calibration | None
) -> float:
    """Estimate how long calibrating and encoding take on this machine's cores.

    A guess within a factor of two or three: processors differ, and so do formats.

    Args:
        effort: the preset.
        method: rtn, importance or gptq.
        weights: to encode.
        calibration: the tokens to read; None where nothing is run.
    """
    each = effort.microseconds * 1e-6 if method == "gptq" else ROUNDING * 1e-9
    tokens = 0 if calibration is None else calibration.tokens
    meeting = (MEETING_HESSIAN if method == "gptq" else MEETING) * 1e-9
    return weights * (each + tokens * meeting) / default_threads()
