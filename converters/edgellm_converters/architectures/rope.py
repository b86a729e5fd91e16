"""Rotary position embeddings: theta and scaling in config.json, in metadata, in rope_freqs.weight.

transformers 4 writes `rope_theta` and `rope_scaling` at the top level, transformers 5 both inside
of `rope_parameters`; every reader here takes either form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = [
    "FREQS",
    "LONG",
    "SCALING_KEYS",
    "SHORT",
    "RopeScaling",
    "attention_factor",
    "factors",
    "from_factors",
    "from_metadata",
    "mlx_scaling",
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

    `kind` is "linear", "dynamic", "yarn", "llama3" or "longrope". `low` and `high` are llama3's
    frequency factors, `long` and `short` longrope's divisors; `attention_factor` is what cosine and
    sine are multiplied by, 0 for the usual one of the kind; `slope` is that of latent attention's
    products over the logarithm of the factor. What the file left open is 0.
    """

    kind: str
    factor: float
    original_context: int = 0
    low: float = 0.0
    high: float = 0.0
    attention_factor: float = 0.0
    slope: float = 0.0
    beta_fast: float = 0.0
    beta_slow: float = 0.0
    long: tuple[float, ...] = ()
    short: tuple[float, ...] = ()

    @property
    def usual_attention(self) -> float:
        """The attention factor of yarn that goes with its factor (the YaRN paper, 3.4)."""
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def config(self) -> dict[str, object]:
        """Give it as `rope_scaling` of config.json."""
        found: dict[str, object] = {"rope_type": self.kind, "factor": self.factor}
        optional = {
            "original_max_position_embeddings": self.original_context,
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "attention_factor": self.attention_factor,
            "mscale": self.slope,
            "mscale_all_dim": self.slope,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "long_factor": list(self.long),
            "short_factor": list(self.short),
        }
        if self.kind == "longrope":
            # The factor is what the contexts give.
            del found["factor"]
        return found | {key: value for key, value in optional.items() if value}


def mlx_scaling(scaling: RopeScaling | None) -> dict[str, object] | None:
    """Give `rope_scaling` as mlx-lm reads it (`models/rope_utils.py`).

    The kind goes by its older name too, and yarn's attention factor is the slope that gives it.
    """
    if scaling is None:
        return None
    found = scaling.config() | {"type": scaling.kind}
    if scaling.attention_factor and scaling.kind == "yarn" and scaling.factor > 1:
        found["mscale"] = (scaling.attention_factor - 1) / (0.1 * math.log(scaling.factor))
    return found


def read_rope(
    config: Values, default_theta: float, key: str = "rope_theta"
) -> tuple[float, RopeScaling | None]:
    """Read theta and scaling from config.json in the form of transformers 4 or 5.

    `key` is the older form's for theta.

    Raises:
        ConfigError: a value is missing or of a wrong kind, or the two forms contradict each other.
        UnsupportedError: the scaling is of a kind that is not known here.
    """
    new, old = config.section("rope_parameters"), config.section("rope_scaling")
    if new is not None and "full_attention" in new:
        new = new.section("full_attention")
    theta = config.number(key, default_theta)
    if new is not None:
        theta = new.number("rope_theta", theta)
    scalings = {_read_scaling(section, config) for section in (new, old) if section is not None}
    if len(scalings) > 1:
        raise ConfigError(f"{config.path}: rope_parameters and rope_scaling are not the same")
    return theta, next(iter(scalings), None)


def read_partial(config: Values, default: float, key: str = "partial_rotary_factor") -> float:
    """Read the share of each head that is rotated, in the form of transformers 4 or 5.

    `key` is the older form's.

    Raises:
        ConfigError: it is no number above 0.
    """
    share = config.number(key, default)
    for section in (config.section("rope_scaling"), config.section("rope_parameters")):
        if section is not None:
            share = section.number("partial_rotary_factor", share)
    return share


def _read_scaling(section: Values, config: Values) -> RopeScaling | None:
    # "type" is the key of transformers before 4.43.
    kind = section.text("rope_type", section.text("type", "default")).lower()
    if kind not in _PARAMETERS:
        raise UnsupportedError(
            f"{config.path}: rope scaling of type {kind!r:.60} is not known here",
            hint=f"known are: {', '.join(_PARAMETERS)}",
        )
    for name in section:
        if name not in _PARAMETERS[kind] and name not in _ANY_KIND and section.raw(name):
            raise UnsupportedError(
                f"{config.path}: rope scaling of type {kind!r} has a {name!r:.60}, which is not "
                "known here"
            )
    if kind == "default":
        return None
    if kind in ("longrope", "su"):
        return _read_longrope(section, config)
    factor = section.number("factor")
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind, factor)
    # The key at the top is that of a few models, for which it counts before the one in the section.
    default = config.integer("max_position_embeddings")
    original = section.integer("original_max_position_embeddings", default)
    original = config.integer("original_max_position_embeddings", original)
    if kind == "llama3":
        low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
        if low >= high:
            raise ConfigError(
                f"{config.path}: low_freq_factor {low:g} is not below high_freq_factor {high:g}"
            )
        return RopeScaling(kind, factor, original, low, high)
    return _read_yarn(section, config, RopeScaling(kind, factor, original))


_LONGROPE = frozenset(
    {
        *("factor", "original_max_position_embeddings", "attention_factor"),
        *("long_factor", "short_factor", "long_mscale", "short_mscale"),
    }
)
# rope type -> the parameters that are read.
_PARAMETERS: Mapping[str, frozenset[str]] = {
    "default": frozenset({"factor"}),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset(
        {
            *("factor", "low_freq_factor", "high_freq_factor"),
            "original_max_position_embeddings",
        }
    ),
    "longrope": _LONGROPE,
    "su": _LONGROPE,
    "yarn": frozenset(
        {
            *("factor", "original_max_position_embeddings", "attention_factor"),
            *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        }
    ),
}
_ANY_KIND = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"})
# The numbers of rotations between which yarn's ramp lies. llama.cpp takes these two for Llama and
# Gemma 3, and reads no keys for them.
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def _read_yarn(section: Values, config: Values, found: RopeScaling) -> RopeScaling:
    """Read what is yarn's own; see transformers' `_compute_yarn_parameters`."""
    for name, beta in BETAS.items():
        if section.number(name, beta) != beta:
            raise UnsupportedError(
                f"{config.path}: rope scaling has {name} {section.raw(name)!r:.60}, but llama.cpp "
                f"takes {beta:g}"
            )
    if not section.flag("truncate", True):
        raise UnsupportedError(f"{config.path}: rope scaling without truncate is not known here")
    attention = 0.0
    if "attention_factor" in section:
        attention = section.number("attention_factor")
    elif section.raw("mscale") and section.raw("mscale_all_dim"):
        above, below = (
            (found.usual_attention - 1) * section.number(name) + 1
            for name in ("mscale", "mscale_all_dim")
        )
        attention = above / below
    if math.isclose(attention, found.usual_attention, rel_tol=1e-6):
        attention = 0.0
    return replace(found, attention_factor=attention)


SCALING_KEYS = (
    *("rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor"),
    *("rope.scaling.original_context_length", "rope.scaling.yarn_attn_factor"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
)
"""The keys of GGUF metadata that `from_metadata` reads."""


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
        UnsupportedError: the scaling is of a kind, or of values, that are not known here.
    """
    keys = metadata.under("rope.scaling.")
    kind = keys.text("type", "linear")
    # An older name of the factor; 0 stands for none.
    old = metadata.number("rope.scale_linear") if metadata.raw("rope.scale_linear") else 1.0
    factor = keys.number("factor", old) if keys.raw("factor") != 0 else 1.0
    attention = keys.number("attn_factor", 1.0)
    if kind != "yarn" and attention != 1:
        raise UnsupportedError(f"{metadata.path}: an attn_factor without yarn is not known here")
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind == "linear":
        return RopeScaling(kind, factor)
    if kind == "yarn":
        original = keys.integer("original_context_length", metadata.integer("context_length"))
        found = RopeScaling(
            kind,
            factor,
            original,
            # Written from config.json by llama.cpp's converter, though its Llama runs without them.
            beta_fast=keys.number("yarn_beta_fast") if "yarn_beta_fast" in keys else 0.0,
            beta_slow=keys.number("yarn_beta_slow") if "yarn_beta_slow" in keys else 0.0,
        )
        if "attn_factor" in keys:
            attention = float(f"{attention * found.usual_attention:.7g}")
        else:
            attention = keys.number("yarn_attn_factor") if "yarn_attn_factor" in keys else 0.0
        return replace(found, attention_factor=attention)
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
