"""`edgellm convert`: between Hugging Face folders, GGUF files and MLX folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import ProgressBar, terminated_like_interrupted
from edgellm.cli.sizes import human_bytes, human_count, size_option

if TYPE_CHECKING:
    from edgellm_converters.pipeline import ConversionResult, Repack

__all__ = ["command", "conversion_json", "conversion_lines", "quantization_options"]

SHOWN_FALLBACKS = 3
F = TypeVar("F", bound=Callable[..., Any])


def quantization_options(type_help: str) -> Callable[[F], F]:
    """Add what `convert` and `quantize` share: the type, what may be replaced, threads, --json."""
    options = (
        json_option,
        option("-t", "--threads", type=click.IntRange(1), help="Cores to use.  [default: all]"),
        option("--force", is_flag=True, help="Replace the output if it exists."),
        option(
            "--split-size",
            callback=size_option,
            metavar="SIZE",
            help="Write a larger GGUF file in parts of at most SIZE, such as 2GB or 500MB.",
        ),
        option(
            "--allow-nan", is_flag=True, help="Convert weights with NaN or infinity as they are."
        ),
        option("--requantize", is_flag=True, help="Quantize a source that is quantized already."),
        option(
            "--type",
            "type_name",
            envvar="EDGELLM_TYPE",
            metavar="NAME",
            help=type_help,
        ),
        option(
            "--bits", type=click.IntRange(2, 8), help="Quantize to about so many bits a weight."
        ),
    )

    def add(function: F) -> F:
        for decorate in options:
            function = decorate(function)
        return function

    return add


@click.command("convert")
@click.argument("source")
@option(
    "-o",
    "--output",
    required=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The GGUF file or the folder to write.",
)
@option(
    "--to",
    type=click.Choice(["gguf", "hf", "mlx"]),
    help="What to write.  [default: gguf if PATH ends in .gguf, mlx if in .mlx or -mlx, else hf]",
)
@option(
    "--dtype",
    type=click.Choice(["auto", "f32", "f16", "bf16", "q8_0"], case_sensitive=False),
    default="auto",
    show_default=True,
    help="How to store the weights; auto keeps them as they are. q8_0 is for GGUF. For MLX "
    "it is the type of what is not quantized, and quantized tensors stay so.",
)
@option(
    "--group-size",
    type=click.Choice(["32", "64", "128"]),
    help="For MLX with --bits: how many weights share a scale.  [default: 64]",
)
@option(
    "--lora",
    metavar="ADAPTER",
    help="Merge this LoRA adapter, a folder of PEFT or mlx-lm, into the weights.",
)
@option("--lora-scale", type=float, help="How many times to add it.  [default: 1]")
@option(
    "--base",
    metavar="MODEL",
    help="The model that SOURCE belongs to, where SOURCE is an adapter.",
)
@quantization_options(
    "Quantize to this type: for GGUF one of llama.cpp's, such as Q4_K_M or IQ4_XS; for MLX mxfp4."
)
def command(
    source: str,
    output: Path,
    to: str | None,
    dtype: str,
    group_size: str | None,
    lora: str | None,
    lora_scale: float | None,
    base: str | None,
    bits: int | None,
    type_name: str | None,
    requantize: bool,
    allow_nan: bool,
    split_size: int | None,
    force: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Convert between Hugging Face folders, GGUF files and MLX folders.

    SOURCE is a folder with config.json, safetensors and tokenizer.json, an MLX folder, a GGUF file
    (any part of a split one), a name in the store, or the folder of a LoRA adapter. Quantized
    tensors are taken over between GGUF and MLX as they are where the formats allow it, and the
    summary says where they do not; a Hugging Face folder gets the values that the quantized ones
    stand for. So does GGUF from a folder in 8-bit floats, GPTQ or AWQ.

    --bits and --type quantize for GGUF and MLX; MLX has 2, 3, 4, 5, 6 and 8 bits. The summary lists
    tensors whose rows do not divide and therefore got another type.

    A LoRA adapter, the folder that PEFT or mlx-lm trained, is converted for llama.cpp (GGUF) or
    mlx-lm with --base, in a float type, or merged into the float weights of a model with --lora.

    \b
    edgellm convert ./my-finetune -o mine.gguf
    edgellm convert ./my-finetune -o mine-q4.gguf --bits 4
    edgellm convert ./my-finetune -o ./mine-mlx --to mlx --bits 4
    edgellm convert mine-q4.gguf -o ./mine-mlx --to mlx
    edgellm convert mine.gguf -o ./folder --to hf
    edgellm convert large-00001-of-00003.gguf -o whole.gguf
    edgellm convert ./adapter -o adapter.gguf --base ./base-model
    edgellm convert ./base-model --lora ./adapter -o merged-q4.gguf --bits 4
    """
    from edgellm.api.convert import convert

    bar = ProgressBar("converting")
    with terminated_like_interrupted():
        try:
            result = convert(
                source,
                output,
                to=to,
                dtype=dtype,
                bits=bits,
                type=type_name,
                group_size=None if group_size is None else int(group_size),
                lora=lora,
                lora_scale=lora_scale,
                base=base,
                requantize=requantize,
                allow_nan=allow_nan,
                split_size=split_size,
                force=force,
                threads=threads,
                progress=bar,
            )
        finally:
            bar.clear()
    if as_json:
        echo_json(conversion_json(result))
        return
    for line in conversion_lines(result, bits):
        click.echo(printable(line))


def conversion_json(result: ConversionResult) -> dict[str, Any]:
    """Give the object that `--json` writes."""
    adapted = result.adapted
    return {
        "output": str(result.output),
        "bytes": result.bytes,
        "sha256": result.sha256,
        "parts": [
            {"output": str(part.output), "bytes": part.bytes, "sha256": part.sha256}
            for part in result.parts
        ],
        "architecture": result.architecture,
        "tensors": result.tensors,
        "parameters": result.parameters,
        "seconds": round(result.seconds, 3),
        "bits_per_weight": round(result.bits_per_weight, 4),
        "types": dict(result.types),
        "type": result.recipe,
        "fallbacks": [
            {
                "tensor": fallback.tensor,
                "wanted": fallback.wanted,
                "used": fallback.used,
                "reason": fallback.reason,
            }
            for fallback in result.fallbacks
        ],
        "repacks": [
            {
                "tensor": repack.tensor,
                "source": repack.source,
                "used": repack.used,
                "how": repack.how,
                "error": repack.error,
            }
            for repack in result.repacks
        ],
        "notes": list(result.notes),
        "adapter": None
        if adapted is None
        else {
            "path": str(adapted.adapter),
            "pairs": adapted.pairs,
            "rank": adapted.rank,
            "merged": adapted.merged,
        },
    }


def conversion_lines(result: ConversionResult, bits: int | None) -> list[str]:
    """Give the lines that a person reads."""
    lines = []
    if bits is not None and result.recipe is not None:
        lines.append(f"--bits {bits} is the type {result.recipe}")
    types = ", ".join(f"{count} {name}" for name, count in result.types.items())
    lines.append(
        f"{result.output}: {result.architecture}, {human_count(result.parameters)} weights, "
        f"{human_bytes(result.bytes)}, {result.bits_per_weight:.2f} bits a weight"
    )
    lines.append(f"  {result.tensors} tensors: {types}; {result.seconds:.1f} s")
    if result.parts:
        lines.append(f"  {len(result.parts)} parts; the first one opens them all")
        lines.extend(
            f"  sha256 {part.sha256}  {part.output.name}, {human_bytes(part.bytes)}"
            for part in result.parts
        )
    else:
        lines.append(f"  sha256 {result.sha256}")
    if (adapted := result.adapted) is not None:
        what = "merged with" if adapted.merged else "from"
        lines.append(
            f"  {what} the adapter {adapted.adapter}: {adapted.pairs} pairs of matrices, "
            f"rank {adapted.rank}"
        )
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for fallback in result.fallbacks:
        key = (fallback.wanted, fallback.used, fallback.reason)
        reasons.setdefault(key, []).append(fallback.tensor)
    for (wanted, used, reason), names in reasons.items():
        shown = ", ".join(names[:SHOWN_FALLBACKS])
        shown += ", ..." if len(names) > SHOWN_FALLBACKS else ""
        one = len(names) == 1
        what = "1 tensor is" if one else f"{len(names)} tensors are"
        lines.append(f"  {what} {used}, not {wanted}: {reason} ({shown})")
    lines.extend(_repacks(result))
    lines.extend(f"  note: {note}" for note in result.notes)
    return lines


HOW = {
    "exact": "taken over exactly",
    "near": "taken over nearly",
    "requantized": "quantized a second time",
}


def _repacks(result: ConversionResult) -> list[str]:
    """Say what became of quantized tensors, a line for each way."""
    groups: dict[tuple[str, str, str], list[Repack]] = {}
    for repack in result.repacks:
        groups.setdefault((repack.how, repack.source, repack.used), []).append(repack)
    lines = []
    for (how, source, used), repacks in groups.items():
        one = len(repacks) == 1
        what = "1 tensor" if one else f"{len(repacks)} tensors"
        line = f"  {what} {HOW[how]}: {source} as {used}"
        if how == "near":
            worst = max(repacks, key=lambda repack: repack.error)
            line += f"; the largest error is {worst.error:.1e} ({worst.tensor})"
        lines.append(line)
    return lines
