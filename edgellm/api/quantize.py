"""Quantize a model to a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.api.convert import check_split, check_threads, pick_recipe, source_path

if TYPE_CHECKING:
    from edgellm_converters.pipeline import ConversionResult, Progress

__all__ = ["METHOD", "quantize"]

METHOD = "rtn"
"""How values are chosen: each row by itself, nearest to the weights (round to nearest)."""


def quantize(
    source: str | Path,
    output: str | Path,
    type: str | None = None,
    *,
    bits: int | None = None,
    requantize: bool = False,
    allow_nan: bool = False,
    split_size: int | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Quantize with ggml's own encoders, as llama.cpp's quantizer does.

    Args:
        source: a GGUF file, a Hugging Face folder, or the name of a model in the store.
        output: the GGUF file to write.
        type: what to quantize to ("Q4_K_M", in any case); excludes `bits`.
        bits: about so many bits, 2 to 8; excludes `type`.
        requantize: accept a source that is quantized already.
        allow_nan: convert NaN and infinity as they are, where the type can hold them.
        split_size: write a larger GGUF file in parts of at most so many bytes.
        force: replace `output` if it exists.
        threads: cores to use; None for all.
        progress: called with bytes written and bytes in all.

    Raises:
        UsageError: not exactly one of `type` and `bits`, or a value out of range.
        NotFoundError: there is no such source.
        RequantizeError: the source is quantized already.
        ConvertersError, QuantError: see their subclasses.
    """
    from edgellm_converters.pipeline import convert as run

    check_threads(threads)
    check_split(split_size)
    return run(
        source_path(source),
        Path(output),
        to="gguf",
        recipe=pick_recipe(bits, type),
        requantize=requantize,
        allow_nan=allow_nan,
        split_size=split_size,
        force=force,
        threads=threads,
        progress=progress,
    )
