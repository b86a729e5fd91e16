"""What a GGUF file's vectors of rope factors say: llama3's scaling, or longrope's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import Decoder
from edgellm_converters.architectures.rope import FREQS, from_factors
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["VECTORS", "restore_scaling"]

VECTORS = (FREQS,)


def restore_scaling(
    metadata: Values, decoder: Decoder, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> Decoder:
    """Give the decoder with the scaling that its vectors hold, each (rotated / 2,).

    Raises:
        UnsupportedError: config.json has no scaling with these factors.
    """
    if FREQS not in vectors:
        return decoder
    scaling = from_factors(vectors[FREQS], decoder.rope_theta, decoder.rotary)
    if scaling is None:
        raise UnsupportedError(
            f"{metadata.path}: {FREQS} holds factors that are not those of Llama 3's scaling"
        )
    return replace(decoder, scaling=scaling)
