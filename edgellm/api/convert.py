"""Convert checkpoints between Hugging Face folders and GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm_converters.pipeline import ConversionResult, Progress

__all__ = ["convert", "pick_recipe", "source_path"]


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str | None = None,
    dtype: str = "auto",
    bits: int | None = None,
    type: str | None = None,
    requantize: bool = False,
    allow_nan: bool = False,
    split_size: int | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint; nothing half-written ever stands at `output`.

    Args:
        source: a Hugging Face folder, a GGUF file, or the name of a model in the store.
        output: the file or folder to write; a name that ends in .gguf means GGUF.
        to: "gguf" or "hf", where the name does not say it.
        dtype: "auto" (as the source), "f32", "f16", "bf16" or "q8_0".
        bits: quantize to about so many bits, 2 to 8; excludes `type` and `dtype`.
        type: quantize to this type ("Q4_K_M", in any case); excludes `bits` and `dtype`.
        requantize: quantize a source that is quantized already.
        allow_nan: convert NaN and infinity as they are, where the type can hold them.
        split_size: write a larger GGUF file in parts of at most so many bytes.
        force: replace `output` if it exists.
        threads: cores to use; None for all.
        progress: called with bytes written and bytes in all.

    Raises:
        UsageError: options that exclude each other.
        NotFoundError: there is no such source.
        ConvertersError, QuantError: see their subclasses.
    """
    from edgellm_converters.pipeline import DTYPES, target_kind
    from edgellm_converters.pipeline import convert as run

    recipe = pick_recipe(bits, type) if bits is not None or type is not None else None
    dtype = dtype.lower()
    if recipe is not None and dtype != "auto":
        raise UsageError(f"dtype {dtype} and a quantization type exclude each other")
    if dtype not in DTYPES:
        raise UsageError(f"{dtype!r} is no dtype", hint=f"known are: {', '.join(DTYPES)}")
    if to not in (None, "gguf", "hf"):
        raise UsageError(f"{to!r} is no target format", hint="known are: gguf, hf")
    if target_kind(Path(output), to) == "hf" and (recipe or dtype == "q8_0"):
        raise UsageError(
            "a Hugging Face folder holds no quantized tensors",
            hint="choose f32, f16 or bf16, or write GGUF: -o NAME.gguf",
        )
    if split_size is not None and target_kind(Path(output), to) != "gguf":
        raise UsageError("only GGUF is split by size", hint="write GGUF: -o NAME.gguf")
    check_threads(threads)
    check_split(split_size)
    return run(
        source_path(source),
        Path(output),
        to=to,
        dtype=dtype,
        recipe=recipe,
        requantize=requantize,
        allow_nan=allow_nan,
        split_size=split_size,
        force=force,
        threads=threads,
        progress=progress,
    )


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads below 1.

    Raises:
        UsageError: it is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot work; give at least 1")


def check_split(split_size: int | None) -> None:
    """Refuse parts of less than a byte.

    Raises:
        UsageError: it is below 1.
    """
    if split_size is not None and split_size < 1:
        raise UsageError(f"parts of {split_size} bytes hold nothing", hint="for example: 2GB")


def source_path(source: str | Path) -> Path:
    """Find the source: a path is taken as it is, text may be a name in the store.

    Raises:
        NotFoundError: there is no such model.
    """
    if isinstance(source, Path):
        return source
    from edgellm.models.resolve import resolve

    return resolve(source, folders=True)


def pick_recipe(bits: int | None, type_name: str | None) -> str:
    """Give the name of the recipe that a number of bits or a type name asks for.

    Raises:
        UsageError: neither or both are given, or there is nothing for that many bits.
        UnknownTypeError: there is no such type.
    """
    from edgellm_quant.recipes import BITS, get_recipe

    if (bits is None) == (type_name is None):
        raise UsageError("give either a number of bits or a type", hint="for example: --bits 4")
    if type_name is not None:
        return get_recipe(type_name).name
    if bits is None or bits not in BITS:
        raise UsageError(f"{bits} bits are not possible", hint=f"from {min(BITS)} to {max(BITS)}")
    return BITS[bits]
