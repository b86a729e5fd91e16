"""`edgellm quantize`: fewer bits a weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.convert import conversion_json, conversion_lines, quantization_options
from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, option
from edgellm.cli.progress import StageBar, terminated_like_interrupted
from edgellm.cli.receipts import quality_lines
from edgellm.cli.sizes import size_option

if TYPE_CHECKING:
    from edgellm.quantization.job import Outcome

__all__ = ["command"]


def output_path(_ctx: click.Context, _param: click.Parameter, value: str) -> Path:
    """Refuse a name that means a folder, but one of MLX; pathlib would drop a slash at its end."""
    if value.endswith("/"):
        raise click.BadParameter(f"{value} is a folder; a GGUF file is written, or NAME.mlx")
    return Path(value)


@click.command("quantize")
@click.argument("source")
@option(
    "-o",
    "--output",
    required=True,
    metavar="PATH",
    callback=output_path,
    help="The GGUF file or MLX folder to write.",
)
@option(
    "--to",
    type=click.Choice(["gguf", "mlx"]),
    help="What to write.  [default: mlx if PATH ends in .mlx or -mlx, else gguf]",
)
@option("--bpw", type=float, metavar="X", help="Quantize to X bits a weight, freely allocated.")
@option(
    "--size",
    callback=size_option,
    metavar="SIZE",
    help="Quantize to a file of at most SIZE, such as 250MB.",
)
@option(
    "--fit", metavar="DEVICE", help="Quantize to what fits a device, such as rpi5-8gb, or `this`."
)
@option("--ctx", type=click.IntRange(1), help="Context for --fit.  [default: 4096]")
@option(
    "--max-kld",
    type=float,
    metavar="X",
    help="Quantize as far as the mean KL divergence stays within X nats a token.",
)
@option(
    "--group-size",
    type=click.Choice(["32", "64", "128"]),
    help="For MLX with --bits: how many weights share a scale.",
)
@option(
    "--method",
    type=click.Choice(["auto", "rtn", "importance", "gptq"]),
    default="auto",
    show_default=True,
    help="How values are chosen: rtn rounds to nearest as llama.cpp does without a calibration, "
    "importance weighs errors by what activations meet them, gptq lets later columns make up for "
    "errors; auto takes what the effort allows.",
)
@option(
    "--effort",
    type=click.Choice(["fast", "balanced", "best"]),
    default="balanced",
    show_default=True,
    help="fast takes seconds and runs nothing; balanced and best run the model on text.",
)
@option(
    "--calibration",
    multiple=True,
    metavar="FILE",
    default=("builtin",),
    help="Text to choose values by: UTF-8, or conversations in .jsonl. Repeat for several; "
    "`builtin` names the package's own.  [default: builtin]",
)
@option(
    "--imatrix",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Importance from a file of llama-imatrix, in place of a calibration.",
)
@option(
    "--save-imatrix",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the importance that was gathered, as llama.cpp reads it.",
)
@option(
    "--receipt/--no-receipt",
    default=None,
    help="Measure the result against the source and store the figures in it.  "
    "[default: but for rtn]",
)
@option(
    "--text",
    multiple=True,
    metavar="FILE",
    default=("builtin",),
    help="Text to measure on, as in --calibration.  [default: builtin]",
)
@option(
    "--report",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Draw size against quality and the error of each layer there.",
)
@option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all samples.")
@option(
    "--memory",
    callback=size_option,
    metavar="SIZE",
    help="What statistics may take; more layers are gathered at once.  [default: half of what "
    "is free]",
)
@quantization_options("Quantize to this type: llama.cpp's, such as Q4_K_M; for MLX mxfp4.")
def command(
    source: str, output: Path, type_name: str | None, ctx: int | None, as_json: bool, **given: Any
) -> None:
    """Quantize a model to GGUF or MLX, and measure what that cost.

    SOURCE is a GGUF file, a Hugging Face or MLX folder, or a name in the store. Exactly one option
    says how far: --type gives every tensor the type that llama.cpp's quantizer would; --bits,
    --bpw, --size, --fit and --max-kld are budgets, and each tensor gets the type that serves the
    whole best. Values are chosen by a calibration, for unmodified kernels of llama.cpp and MLX. The
    receipt in the output says how it was made and what it lost; `edgellm show` prints it.

    An interrupted run goes on where it was when the same command is given again.

    \b
    edgellm quantize mine.gguf --bits 4 -o mine-q4.gguf
    edgellm quantize ./my-finetune --type Q5_K_M -o mine-q5.gguf --text my-own.txt
    edgellm quantize mine.gguf --fit rpi5-8gb --ctx 8192 -o mine-pi.gguf --report ./report
    edgellm quantize mine.gguf --bits 4 --effort fast -o mine-q4.gguf
    """
    from edgellm.api.quantize import quantize
    from edgellm.quantization.job import Watcher

    if given["group_size"] is not None:
        given["group_size"] = int(given["group_size"])
    bar = StageBar()
    with terminated_like_interrupted():
        try:
            outcome = quantize(
                source,
                output,
                type_name,
                context=ctx,
                watcher=Watcher(stage=bar, estimate=bar.estimate),
                **given,
            )
        finally:
            bar.clear()
    receipt = outcome.receipt
    if as_json:
        echo_json(
            conversion_json(outcome.conversion)
            | {
                "method": "rtn" if receipt is None else receipt.method,
                "receipt": None if receipt is None else receipt.as_dict(),
                "candidates": [
                    {"name": point.name, "bytes": point.bytes, "kld": point.kld}
                    for point in outcome.points
                ],
            }
        )
        return
    for line in _summary(outcome, given["bits"]):
        click.echo(printable(line))


def _summary(outcome: Outcome, bits: int | None) -> list[str]:
    receipt = outcome.receipt
    lines = conversion_lines(outcome.conversion, bits)
    if receipt is None:
        return lines
    how = f"  method {receipt.method}"
    if receipt.calibration is not None:
        how += f", calibrated on {receipt.calibration.tokens:,} tokens"
    return [*lines, how, *(f"  {line}" for line in quality_lines(receipt))]
