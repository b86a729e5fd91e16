"""`edgellm quantize`: fewer bits a weight."""

from __future__ import annotations

from pathlib import Path

import click

from edgellm.cli.convert import quantization_options, show
from edgellm.cli.options import option
from edgellm.cli.progress import ProgressBar, terminated_like_interrupted

__all__ = ["command"]


def file_path(_ctx: click.Context, _param: click.Parameter, value: str) -> Path:
    """Refuse a name that means a folder; pathlib would drop a slash at its end."""
    if value.endswith("/"):
        raise click.BadParameter(f"{value} is a folder; a file is written")
    if value.lower().endswith((".mlx", "-mlx")):
        raise click.BadParameter(
            f"{value} would be an MLX folder; a GGUF file is written (for MLX: edgellm convert)"
        )
    return Path(value)


@click.command("quantize")
@click.argument("source")
@option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    callback=file_path,
    help="The GGUF file to write.",
)
@quantization_options("Quantize to this type, such as Q4_K_M or IQ4_XS.")
def command(
    source: str,
    output: Path,
    bits: int | None,
    type_name: str | None,
    requantize: bool,
    allow_nan: bool,
    split_size: int | None,
    force: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Quantize a model to a GGUF file, by ggml's own encoders.

    SOURCE is a GGUF file, a Hugging Face or MLX folder, or a name in the store. The types are those
    of llama.cpp's quantizer, and the bytes are the same. Tensors whose rows a type cannot hold get
    one that can, and are listed. For MLX there is `edgellm convert --to mlx --bits`.

    \b
    edgellm quantize mine.gguf --bits 4 -o mine-q4.gguf
    edgellm quantize ./my-finetune --type Q5_K_M -o mine-q5.gguf
    """
    if (bits is None) == (type_name is None):
        raise click.UsageError("give either --bits or --type", ctx=click.get_current_context())
    from edgellm.api.quantize import METHOD, quantize

    bar = ProgressBar("quantizing")
    with terminated_like_interrupted():
        try:
            result = quantize(
                source,
                output,
                type_name,
                bits=bits,
                requantize=requantize,
                allow_nan=allow_nan,
                split_size=split_size,
                force=force,
                threads=threads,
                progress=bar,
            )
        finally:
            bar.clear()
    show(result, as_json=as_json, bits=bits, method=METHOD)
