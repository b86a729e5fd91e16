"""Rotary position embeddings: theta and scaling in config.json, in metadata, in rope_freqs.weight.

transformers 4 writes `rope_theta` and `rope_scaling` at the top level, transformers 5 both inside
of `rope_parameters`; every reader here takes either form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = [
    "FREQS",
    "LONG",
    "SHORT",
    "RopeScaling",
    "attention_factor",
    "factors",
    "from_factors",
    "from_metadata",
    "original_context",
    "read_partial",
    "read_rope",
]

FREQS = "rope_freqs.weight"
"""The tensor of llama3's divisors: (rotated / 2,)."""
LONG = "rope_factors_long.weight"
SHORT = "rope_factors_short.weight"
"""Tensors of longrope's divisors, beyond the trained context and within it: (rotated / 2,)."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the frequencies are stretched beyond the trained context; contexts in tokens.

    `kind` is "linear", "yarn", "llama3" or "longrope". `low` and `high` are llama3's frequency
    factors, `long` and `short` longrope's divisors. What the file left open is 0.
    """

    kind: str
    factor: float
    original_context: int = 0
    low: float = 0.0
    high: float = 0.0
    attention_factor: float = 0.0
    beta_fast: float = 0.0
    beta_slow: float = 0.0
    long: tuple[float, ...] = ()
    short: tuple[float, ...] = ()

    def config(self) -> dict[str, object]:
        """Give it as `rope_scaling` of config.json."""
        found: dict[str, object] = {"rope_type": self.kind, "factor": self.factor}
        optional = {
            "original_max_position_embeddings": self.original_context,
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "attention_factor": self.attention_factor,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "long_factor": list(self.long),
            "short_factor": list(self.short),
        }
        if self.kind == "longrope":
            # The factor is what the contexts give.
            del found["factor"]
        return found | {key: value for key, value in optional.items() if value}


def read_rope(config: Values, default_theta: float) -> tuple[float, RopeScaling | None]:
    """Read theta and scaling from config.json in the form of transformers 4 or 5.

    Raises:
        ConfigError: a value is missing or of a wrong kind.
        UnsupportedError: the scaling is of a kind that is not known here.
    """
    section = config.section("rope_parameters")
    if section is not None and "full_attention" in section:
        section = section.section("full_attention")
    theta = config.number("rope_theta", default_theta)
    if section is not None:
        theta = section.number("rope_theta", theta)
    else:
        section = config.section("rope_scaling")
    return theta, None if section is None else _read_scaling(section, config)


def read_partial(config: Values, default: float) -> float:
    """Read the share of each head that is rotated, in the form of transformers 4 or 5.

    Raises:
        ConfigError: it is no number above 0.
    """
    section = config.section("rope_parameters")
    share = config.number("partial_rotary_factor", default)
    return share if section is None else section.number("partial_rotary_factor", share)


def _read_scaling(section: Values, config: Values) -> RopeScaling | None:
    # "type" is the key of transformers before 4.43.
    kind = section.text("rope_type", section.text("type", "default")).lower()
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind, section.number("factor"))
    if kind == "llama3":
        low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
        if low == high:
            raise ConfigError(f"{config.path}: low_freq_factor and high_freq_factor are both {low}")
        return RopeScaling(
            kind,
            section.number("factor"),
            section.integer("original_max_position_embeddings"),
            low,
            high,
        )
    if kind == "yarn":
        default = config.integer("max_position_embeddings")
        attention, fast, slow = (
            section.number(name) if name in section else 0.0
            for name in ("attention_factor", "beta_fast", "beta_slow")
        )
        return RopeScaling(
            kind,
            section.number("factor"),
            section.integer("original_max_position_embeddings", default),
            attention_factor=attention,
            beta_fast=fast,
            beta_slow=slow,
        )
    if kind in ("longrope", "su"):
        return _read_longrope(section, config)
    raise UnsupportedError(
        f"{config.path}: rope scaling of type {kind!r} is not known here",
        hint="known are: default, linear, llama3, longrope, yarn",
    )


def original_context(config: Values) -> int:
    """Read the context that was trained before it was stretched, 0 if the file does not say.

    Phi names it beside the scaling, transformers 5 inside.

    Raises:
        ConfigError: it is no such number.
    """
    key = "original_max_position_embeddings"
    for values in (config, config.section("rope_parameters"), config.section("rope_scaling")):
        if values is not None and key in values:
            return values.integer(key)
    return 0


def _read_longrope(section: Values, config: Values) -> RopeScaling:
    """Read Phi's scaling: a list of divisors for each of short and long contexts."""
    original, context = original_context(config), config.integer("max_position_embeddings")
    if original < 2:
        raise ConfigError(f"{config.path}: longrope without original_max_position_embeddings")
    factor = context / original
    if "factor" in section and section.number("factor") != factor:
        raise UnsupportedError(
            f"{config.path}: the factor {section.raw('factor')} of longrope is not that of the "
            f"contexts, {factor:g}"
        )
    for key in ("short_mscale", "long_mscale"):
        if key in section:
            raise UnsupportedError(f"{config.path}: {key} of longrope has no place in GGUF")
    listed = section.raw("short_factor")
    size = len(listed) if isinstance(listed, list) else 1
    return RopeScaling(
        "longrope",
        factor,
        original,
        attention_factor=section.number("attention_factor") if "attention_factor" in section else 0,
        long=section.numbers("long_factor", size),
        short=section.numbers("short_factor", size),
    )


def attention_factor(scaling: RopeScaling) -> float:
    """Give what longrope multiplies sines and cosines by: the one named, or sqrt(1 + ln f / ln c).

    f is the factor and c the trained context (transformers, `_compute_longrope_parameters`).
    """
    if scaling.attention_factor or scaling.factor <= 1:
        return scaling.attention_factor or 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_context))


def from_metadata(metadata: Values) -> RopeScaling | None:
    """Read the scaling from the keys under `<architecture>.rope.scaling.` of a GGUF file.

    That of longrope and of llama3 is in tensors: see `edgellm_converters.architectures.scaling`.

    Raises:
        ConfigError: a value is of a wrong kind.
        UnsupportedError: the scaling is of a kind that is not known here.
    """
    keys = metadata.under("rope.scaling.")
    kind = keys.text("type", "linear" if "factor" in keys else "none")
    if kind in ("none", "longrope") or (kind == "linear" and "factor" not in keys):
        return None
    if kind == "linear":
        factor = keys.number("factor")
        return None if factor == 1 else RopeScaling(kind, factor)
    if kind == "yarn":
        attention, fast, slow = (
            keys.number(key) if key in keys else 0.0
            for key in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
        )
        return RopeScaling(
            kind,
            keys.number("factor"),
            keys.integer("original_context_length", metadata.integer("context_length")),
            attention_factor=attention,
            beta_fast=fast,
            beta_slow=slow,
        )
    raise UnsupportedError(f"{metadata.path}: rope scaling of type {kind!r} is not known here")


def factors(scaling: RopeScaling, theta: float, head_dim: int) -> npt.NDArray[np.float32]:
    """Compute the divisors of llama3's frequencies, (head_dim / 2,): the tensor rope_freqs.weight.

    Frequencies whose wavelength is short against the original context stay, long ones are divided
    by `factor`, between them the divisor is interpolated (transformers,
    `_compute_llama3_parameters`).
    """
    low_wavelength = scaling.original_context / scaling.low
    high_wavelength = scaling.original_context / scaling.high
    found = []
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    for frequency in 1.0 / np.power(np.float32(theta), exponents, dtype=np.float32):
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < high_wavelength:
            found.append(1.0)
        elif wavelength > low_wavelength:
            found.append(scaling.factor)
        else:
            smooth = (scaling.original_context / wavelength - scaling.low) / (
                scaling.high - scaling.low
            )
            found.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(found, dtype=np.float32)


def from_factors(
    values: npt.NDArray[np.float32], theta: float, head_dim: int
) -> RopeScaling | None:
    """Find the llama3 scaling that gives these divisors; None if none of the usual ones does.

    Llama 3.1 to 3.3 use low 1 and high 4; the factor is the largest divisor, and the original
    context is tried as each power of two.
    """
    factor = float(values.max())
    for exponent in range(4, 24):
        scaling = RopeScaling("llama3", factor, 2**exponent, 1.0, 4.0)
        if np.allclose(factors(scaling, theta, head_dim), values, rtol=1e-5, atol=0):
            return _prefer_8192(scaling, values, theta, head_dim)
    return None


def _prefer_8192(
    found: RopeScaling, values: npt.NDArray[np.float32], theta: float, head_dim: int
) -> RopeScaling:
    """Take Llama 3's own context where the divisors do not tell several apart."""
    usual = RopeScaling("llama3", found.factor, 8192, 1.0, 4.0)
    if np.allclose(factors(usual, theta, head_dim), values, rtol=1e-5, atol=0):
        return usual
    return found
