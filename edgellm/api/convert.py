"""Convert checkpoints between Hugging Face folders, GGUF files and MLX folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm_converters.pipeline import ConversionResult, Progress
    from edgellm_quant.mlx_recipes import MLXRecipe

__all__ = ["convert", "pick_mlx", "pick_recipe", "source_path"]


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str | None = None,
    dtype: str = "auto",
    bits: int | None = None,
    type: str | None = None,
    group_size: int | None = None,
    lora: str | Path | None = None,
    lora_scale: float | None = None,
    base: str | Path | None = None,
    requantize: bool = False,
    allow_nan: bool = False,
    split_size: int | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint or an adapter; nothing half-written ever stands at `output`.

    Args:
        source: a Hugging Face or MLX folder, a GGUF file, or the name of a model in the store; or
            the folder of a LoRA adapter, which becomes one of llama.cpp (GGUF) or mlx-lm.
        output: the file or folder to write; a name that ends in .gguf means GGUF, one in .mlx or
            -mlx MLX, any other Hugging Face.
        to: "gguf", "hf" or "mlx", where the name does not say it.
        dtype: "auto" (as the source), "f32", "f16", "bf16" or "q8_0".
        bits: quantize to about so many bits, 2 to 8; excludes `type`.
        type: quantize to this type ("Q4_K_M", for MLX "mxfp4", in any case); excludes `bits`.
        group_size: how many weights share a scale in MLX: 32, 64 or 128.
        lora: the folder of an adapter to merge into the weights, which are floats.
        lora_scale: how many times it is added; None for once.
        base: the model that the adapter `source` belongs to, which names its tensors.
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
    from edgellm_converters.adapters import is_adapter
    from edgellm_converters.pipeline import DTYPES, KINDS, target_kind
    from edgellm_converters.pipeline import convert as run

    dtype = dtype.lower()
    if dtype not in DTYPES:
        raise UsageError(f"{dtype!r} is no dtype", hint=f"known are: {', '.join(DTYPES)}")
    if to not in (None, *KINDS):
        raise UsageError(f"{to!r} is no target format", hint=f"known are: {', '.join(KINDS)}")
    kind = target_kind(Path(output), to)
    path = source_path(source)
    check_lora(lora, lora_scale)
    if is_adapter(path):
        others = (bits, type, group_size, lora, split_size)
        if any(each is not None for each in others) or requantize or dtype == "q8_0":
            raise UsageError(
                f"{path} is an adapter, which is converted in a float type and alone",
                hint="to merge it into a model: edgellm convert MODEL --lora ADAPTER -o OUT",
            )
        return _convert_adapter(path, base, Path(output), kind, dtype, force=force)
    if base is not None:
        raise UsageError(
            f"a base goes with an adapter, but {path} is none",
            hint="to merge an adapter into a model: edgellm convert MODEL --lora ADAPTER -o OUT",
        )
    quantizes = bits is not None or type is not None
    recipe = pick_recipe(bits, type) if quantizes and kind == "gguf" else None
    if kind == "hf" and (quantizes or dtype == "q8_0"):
        raise UsageError(
            "a Hugging Face folder holds no quantized tensors",
            hint="choose f32, f16 or bf16, or write GGUF: -o NAME.gguf",
        )
    if recipe is not None and dtype != "auto":
        raise UsageError(
            f"dtype {dtype} and quantizing to GGUF exclude each other",
            hint="leave the dtype out: the type says what every tensor gets",
        )
    if kind == "mlx" and dtype == "q8_0":
        raise UsageError("q8_0 is a type of GGUF", hint="for MLX: --bits 8")
    if group_size is not None and (kind != "mlx" or not quantizes):
        raise UsageError(
            "a group size goes with quantizing for MLX", hint="for example: --to mlx --bits 4"
        )
    if split_size is not None and kind != "gguf":
        raise UsageError("only GGUF is split by size", hint="write GGUF: -o NAME.gguf")
    check_threads(threads)
    check_split(split_size)
    return run(
        path,
        Path(output),
        to=kind,
        dtype=dtype,
        recipe=recipe,
        mlx=pick_mlx(bits, type, group_size) if quantizes and kind == "mlx" else None,
        lora=None if lora is None else Path(lora),
        lora_scale=1.0 if lora_scale is None else lora_scale,
        requantize=requantize,
        allow_nan=allow_nan,
        split_size=split_size,
        force=force,
        threads=threads,
        progress=progress,
    )


def _convert_adapter(
    source: Path, base: str | Path | None, output: Path, kind: str, dtype: str, *, force: bool
) -> ConversionResult:
    from edgellm_converters.adapters import open_adapter
    from edgellm_converters.adapters.convert import convert_adapter
    from edgellm_converters.architectures.base import Side

    if kind == "hf":
        raise UsageError(
            f"{source} is an adapter, which is written as GGUF or for mlx-lm",
            hint="-o NAME.gguf, or --to mlx",
        )
    if base is None:
        said = open_adapter(source).base
        belongs = f"; it says it belongs to {said!r:.200}" if said else ""
        raise UsageError(
            f"{source} is an adapter, and its base model is needed to name its tensors{belongs}",
            hint="--base MODEL (a folder, a GGUF file or a name in the store)",
        )
    return convert_adapter(
        source, source_path(base), output, to=Side(kind), dtype=dtype, force=force
    )


def check_lora(lora: str | Path | None, scale: float | None) -> None:
    """Refuse a scale without an adapter, or one that says nothing.

    Raises:
        UsageError: see above.
    """
    if scale is None:
        return
    if lora is None:
        raise UsageError("a LoRA scale goes with an adapter to merge", hint="--lora ADAPTER")
    if not math.isfinite(scale) or scale == 0:
        raise UsageError(f"a LoRA scale of {scale} adds nothing", hint="for example: 1 or 0.5")


def pick_mlx(bits: int | None, type_name: str | None, group_size: int | None) -> MLXRecipe:
    """Give the MLX recipe that a number of bits or a type name asks for.

    Raises:
        UsageError: both are given, or MLX has nothing of that kind.
    """
    from edgellm_quant.errors import UnknownTypeError
    from edgellm_quant.mlx_recipes import MLX_BITS, MLXRecipe

    if (bits is None) == (type_name is None):
        raise UsageError("give either a number of bits or a type", hint="for example: --bits 4")
    if type_name is not None:
        if type_name.lower() == "mxfp4" and group_size not in (None, 32):
            raise UsageError(
                f"mxfp4 has groups of 32, not of {group_size}", hint="leave the group size out"
            )
        if type_name.lower() != "mxfp4":
            raise UsageError(
                f"{type_name} is no type of MLX",
                hint="for MLX: --bits with --group-size, or --type mxfp4",
            )
        return MLXRecipe(mode="mxfp4")
    if bits not in MLX_BITS:
        raise UsageError(f"MLX has no {bits} bits", hint=f"it has {', '.join(map(str, MLX_BITS))}")
    try:
        return MLXRecipe(bits, group_size or 64)
    except UnknownTypeError as error:
        raise UsageError(str(error), hint=error.hint) from None


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
