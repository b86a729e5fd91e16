"""`edgellm quantize`: fewer bits a weight."""

from __future__ import annotations

from pathlib import Path

import click

from edgellm.cli.convert import show
from edgellm.cli.options import json_option, option
from edgellm.cli.progress import ProgressBar, terminated_like_interrupted

__all__ = ["command"]


@click.command("quantize")
@click.argument("source")
@option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The GGUF file to write.",
)
@option("--bits", type=click.IntRange(2, 8), help="About so many bits a weight.")
@option("--type", "type_name", metavar="NAME", help="The type, such as Q4_K_M or IQ4_XS.")
@option("--requantize", is_flag=True, help="Quantize a source that is quantized already.")
@option("--force", is_flag=True, help="Replace FILE if it exists.")
@option("--threads", type=click.IntRange(1), help="Cores to use.  [default: all]")
@json_option
def command(
    source: str,
    output: Path,
    bits: int | None,
    type_name: str | None,
    requantize: bool,
    force: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Quantize a model to a GGUF file, by ggml's own encoders.

    SOURCE is a GGUF file, a Hugging Face folder, or a name in the store. The types are those of
    llama.cpp's quantizer, and the bytes are the same. Tensors whose rows a type cannot hold get
    one that can, and are listed.

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
                force=force,
                threads=threads,
                progress=bar,
            )
        finally:
            bar.clear()
    show(result, as_json=as_json, bits=bits, method=METHOD)
