"""What several families refuse, or note, of a config.json: windows of attention."""

from __future__ import annotations

from collections.abc import Callable

from edgellm_converters.architectures.base import Decoder, Sizes
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = [
    "check_experts",
    "four_times_in_mlx",
    "local_theta",
    "no_scaling_in_mlx",
    "no_window_in_mlx",
    "note_gelu",
    "note_window",
    "of_tokenizer",
    "period",
    "refuse_window",
    "stored_period",
]

MAX_EXPERTS = 1024  # llama.cpp's LLAMA_MAX_EXPERTS


def of_tokenizer(kind: str) -> Callable[[Values], bool]:
    """Tell families of one name apart by tokenizer.ggml.model."""
    return lambda metadata: metadata.whole().raw("tokenizer.ggml.model") == kind


def check_experts(values: Values, decoder: Decoder) -> Decoder:
    """Check that no more experts and groups are used than there are; give the decoder back.

    Raises:
        ConfigError: they are, or there are more than llama.cpp can hold.
        UnsupportedError: all groups are used, which llama.cpp refuses.
    """
    d = decoder
    if d.experts > MAX_EXPERTS or d.experts_used > d.experts:
        raise ConfigError(
            f"{values.path}: a token goes through {d.experts_used} of {d.experts} experts; there "
            f"may be {MAX_EXPERTS} of them"
        )
    if d.expert_groups > 1 and (d.experts % d.expert_groups or d.experts < 2 * d.expert_groups):
        raise ConfigError(
            f"{values.path}: {d.experts} experts make no {d.expert_groups} groups of two or more"
        )
    if d.expert_groups > 1 and not 0 < d.expert_groups_used < d.expert_groups:
        raise UnsupportedError(
            f"{values.path}: a token uses {d.expert_groups_used} of {d.expert_groups} groups of "
            "experts; llama.cpp needs fewer than all"
        )
    return d


def local_theta(config: Values, key: str, default: float) -> float:
    """Read theta of the layers with a window, in the form of transformers 4 or 5.

    `key` is the older form's.

    Raises:
        ConfigError: it is no number above 0.
        UnsupportedError: their rope is scaled.
    """
    local = config.number(key, default)
    parameters = config.section("rope_parameters")
    sliding = parameters.section("sliding_attention") if parameters else None
    if sliding is None:
        return local
    if sliding.text("rope_type", "default") != "default":
        raise UnsupportedError(f"{config.path}: llama.cpp scales no rope of layers with a window")
    return sliding.number("rope_theta", local)


def note_window(config: Values, sizes: Sizes, notes: list[str]) -> None:
    """Note a sliding window that llama.cpp does not have for this family."""
    if "sliding_window" in config and config.integer("sliding_window") < sizes.context:
        notes.append(
            f"sliding_window {config.raw('sliding_window')} is left out: llama.cpp lets every "
            "token of this architecture see the whole context"
        )


def no_scaling_in_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:  # noqa: ARG001
    """Refuse a scaling of the rotary frequencies that mlx-lm's model of the family passes over.

    Raises:
        UnsupportedError: there is one.
    """
    if decoder.scaling is not None:
        raise UnsupportedError(
            f"mlx-lm has no rope scaling for this family; the model's is {decoder.scaling.kind}",
            hint="write GGUF: -o NAME.gguf",
        )
    return {}


def four_times_in_mlx(decoder: Decoder) -> None:
    """Refuse an inner size that mlx-lm's model of the family does not read.

    Raises:
        UnsupportedError: it is not four times the hidden size.
    """
    if decoder.feed_forward != 4 * decoder.hidden:
        raise UnsupportedError(
            f"mlx-lm takes the inner size to be four times {decoder.hidden}, but it is "
            f"{decoder.feed_forward}",
            hint="write GGUF: -o NAME.gguf",
        )


def no_window_in_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:
    """Note a sliding window that mlx-lm's model of the family passes over."""
    if 0 < decoder.sliding_window < decoder.context:
        notes.append(
            f"mlx-lm lets every token see the whole context: the sliding window of "
            f"{decoder.sliding_window} tokens has no effect there"
        )
    return {}


def refuse_window(config: Values, sizes: Sizes, notes: list[str]) -> None:  # noqa: ARG001
    """Refuse a sliding window that is switched on and shorter than the context.

    Raises:
        UnsupportedError: llama.cpp would let every token see the whole context.
    """
    types = config.raw("layer_types")
    slides = isinstance(types, list) and any(kind != "full_attention" for kind in types)
    if not slides and not config.flag("use_sliding_window", False):
        return
    if "sliding_window" in config and config.integer("sliding_window") < sizes.context:
        raise UnsupportedError(
            f"{config.path}: sliding_window {config.raw('sliding_window')} is in use, but "
            "llama.cpp lets every token of this architecture see the whole context"
        )


def period(config: Values, layers: int, default: int) -> int:
    """Read which layers see the whole context: every n-th, or a list of types that says so.

    Raises:
        ConfigError: there is no list of as many names as layers.
        UnsupportedError: the list does not follow one period.
    """
    pattern = config.integer("sliding_window_pattern", default)
    types = config.raw("layer_types")
    if types is None:
        return pattern
    if not isinstance(types, list) or len(types) != layers:
        raise config.wrong("layer_types", f"a list of {layers} names")
    whole = [index + 1 for index, kind in enumerate(types) if kind == "full_attention"]
    # Without a whole layer, the first one would come after the last of them.
    pattern = whole[0] if whole else max(pattern, layers + 1)
    if whole != list(range(pattern, layers + 1, pattern)):
        raise UnsupportedError(f"{config.path}: layer_types do not follow one period")
    return pattern


def stored_period(metadata: Values, default: int) -> int:
    """Read the same from metadata.

    Raises:
        UnsupportedError: it is a list by layer.
    """
    if isinstance(metadata.raw("attention.sliding_window_pattern"), list):
        raise UnsupportedError(
            f"{metadata.path}: a list of sliding windows by layer is not known here"
        )
    return metadata.integer("attention.sliding_window_pattern", default)


def note_gelu(config: Values, sizes: Sizes, notes: list[str]) -> None:  # noqa: ARG001
    """Note that GELU comes out as its approximation with tanh, whatever the file says."""
    # The families that have this check take it where the file names none.
    if (config.raw("activation") or config.raw("hidden_act") or "gelu") == "gelu":
        notes.append("GELU is computed by its approximation with tanh in llama.cpp and mlx-lm")
