"""What a GGUF file's vectors of rope factors say: llama3's scaling, or longrope's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import Decoder
from edgellm_converters.architectures.common import shortest
from edgellm_converters.architectures.rope import (
    FREQS,
    LONG,
    SHORT,
    RopeScaling,
    attention_factor,
    from_factors,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["VECTORS", "restore_scaling"]

VECTORS = (FREQS, LONG, SHORT)


def restore_scaling(
    metadata: Values, decoder: Decoder, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> Decoder:
    """Give the decoder with the scaling that its vectors hold, each (rotated / 2,).

    Raises:
        UnsupportedError: config.json has no scaling with these factors.
    """
    if LONG in vectors or SHORT in vectors:
        return replace(decoder, scaling=_longrope(metadata, decoder, vectors))
    if FREQS not in vectors:
        return decoder
    if decoder.scaling is not None:
        raise UnsupportedError(
            f"{metadata.path}: {FREQS} beside a rope scaling of type {decoder.scaling.kind}"
        )
    scaling = from_factors(vectors[FREQS], decoder.rope_theta, decoder.rotary)
    if scaling is None:
        raise UnsupportedError(
            f"{metadata.path}: {FREQS} holds factors that are not those of Llama 3's scaling"
        )
    return replace(decoder, scaling=scaling)


def _longrope(
    metadata: Values, decoder: Decoder, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> RopeScaling:
    if set(vectors) != {LONG, SHORT}:
        raise UnsupportedError(f"{metadata.path}: {LONG} and {SHORT} do not stand alone together")
    keys = metadata.under("rope.scaling.")
    original = keys.integer("original_context_length", least=2)
    found = RopeScaling(
        "longrope",
        decoder.context / original,
        original,
        long=_numbers(metadata, LONG, vectors),
        short=_numbers(metadata, SHORT, vectors),
    )
    stored = keys.number("attn_factor", 1.0)
    if np.float32(stored) == np.float32(attention_factor(found)):
        return found
    return replace(found, attention_factor=shortest(stored))


def _numbers(
    metadata: Values, name: str, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[float, ...]:
    vector = vectors[name]
    if not np.isfinite(vector).all() or (vector <= 0).any():
        raise ConfigError(f"{metadata.path}: {name} holds numbers that are no divisors")
    return tuple(shortest(float(value)) for value in vector)
