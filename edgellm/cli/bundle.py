"""`edgellm bundle`: all that a machine without network needs, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellm.cli.main import printable
from edgellm.cli.options import SectionedCommand, echo_json, json_option, option
from edgellm.cli.progress import StageBar, StatusLine, terminated_like_interrupted
from edgellm.cli.sizes import human_bytes, size_option

__all__ = ["command"]


@click.command("bundle", cls=SectionedCommand)
@click.argument("model", required=False)
@option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The archive to write: .tar, .tar.gz or .tar.zst.",
)
@option(
    "--target",
    default="this",
    show_default=True,
    metavar="NAME",
    help="What it is for: rpi5, rpi4, linux-arm64, linux-x86_64, linux-x86_64-sse42, or `this` for "
    "machines like the one at hand.",
)
@option("--name", metavar="NAME", help="What the model is called there.  [default: its file's]")
@option(
    "--ctx",
    type=click.IntRange(1),
    help="Tokens of context that the target's memory has to hold.  [default: 4096, or less if the "
    "model was trained on less]",
)
@option(
    "--lora",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="A LoRA adapter that applies there; may be given more than once.",
)
@option(
    "--library",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A library of documents (see `edgellm rag`), which `edgellm rag ask` takes there; its "
    "embedding model comes along.",
)
@option(
    "--type",
    "type_name",
    envvar="EDGELLM_TYPE",
    metavar="NAME",
    section="Quantizing",
    help="Quantize the model on the way, to this type, such as Q4_K_M.",
)
@option(
    "--bits",
    type=click.IntRange(2, 8),
    section="Quantizing",
    help="Quantize to about so many bits a weight.",
)
@option(
    "--size",
    callback=size_option,
    metavar="SIZE",
    section="Quantizing",
    help="Quantize to a file of at most SIZE, such as 250MB.",
)
@option(
    "--fit",
    metavar="DEVICE",
    section="Quantizing",
    help="Quantize to what leaves room for the context on a device, such as rpi5-8gb.",
)
@option(
    "--effort",
    type=click.Choice(["fast", "balanced", "best"]),
    default="balanced",
    show_default=True,
    section="Quantizing",
    help="How much work goes into that.",
)
@option(
    "--requantize",
    is_flag=True,
    section="Quantizing",
    help="Quantize a model that is quantized already.",
)
@option("--force", is_flag=True, help="Replace the output if it exists.")
@json_option  # fmt: skip
def command(
    model: str | None,
    output: Path,
    target: str,
    name: str | None,
    ctx: int | None,
    lora: tuple[str, ...],
    library: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Write a bundle: edgellm, a model and a script that installs both without network.

    MODEL is a GGUF file or a name in the store; with --type, --bits, --size or --fit, whatever
    `edgellm quantize` takes. Without it, the default model is bundled. For another kind of machine
    llama.cpp is compiled here, once, with that machine's kernels: it needs no compiler itself. The
    same inputs give the same bytes.

    On the other machine: unpack the archive, and run `sh install.sh`. It checks the machine and the
    sha256 of every file before it touches anything. `edgellm verify FILE` checks a bundle here.

    \b
    edgellm bundle --target rpi5 -o assistant.tar
    edgellm bundle mine.gguf --target rpi5 --fit rpi5-8gb --ctx 8192 -o assistant.tar.zst
    edgellm bundle mine-q4.gguf -o for-a-machine-like-this.tar
    """
    from edgellm.api.bundle import FOLDER, bundle
    from edgellm.models.catalogue import DEFAULT_MODEL
    from edgellm.quantization.job import Watcher

    wishes = {key: given[key] for key in ("bits", "size", "fit")} | {"type": given["type_name"]}
    quantization = None
    if any(value is not None for value in wishes.values()):
        rest = {"effort": given["effort"], "requantize": given["requantize"]}
        quantization = {key: value for key, value in wishes.items() if value is not None} | rest
    line, bar = StatusLine(), StageBar()
    with terminated_like_interrupted():
        try:
            done = bundle(
                model or DEFAULT_MODEL,
                output,
                target,
                name=name,
                context=ctx,
                lora=lora,
                library=library,
                force=force,
                quantization=quantization,
                progress=line.show,
                watcher=Watcher(stage=bar, estimate=bar.estimate),
            )
        finally:
            bar.clear()
            line.clear()
    if as_json:
        echo_json(
            {
                "output": str(done.path),
                "bytes": done.bytes,
                "fingerprint": done.fingerprint,
                "target": done.target,
                "model": done.model,
                "files": done.files,
                "memory_bytes": done.memory,
            }
        )
        return
    click.echo(
        printable(
            f"{done.path}: {human_bytes(done.bytes)} for {done.target}, {done.files} files, "
            f"version {done.fingerprint[:12]}\n"
            f"  {done.model} takes {human_bytes(done.memory)} of memory there\n"
            f"  there: tar -xf {done.path.name} && sh {FOLDER}/install.sh"
        )
    )
