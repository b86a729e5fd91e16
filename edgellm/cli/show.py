"""`edgellm show`: what a model is, from its headers alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.receipts import quality_lines
from edgellm.cli.sizes import human_bytes, human_count

if TYPE_CHECKING:
    from edgellm.api.show import Memory, ModelDetails
    from edgellm.quantization.receipt import Receipt

__all__ = ["command"]

# Longer arrays (tokens, merges) are shown by their beginning, unless --full asks for all.
LONGEST_ARRAY = 16
SHOWN_OF_ARRAY = 6
LONGEST_TEXT = 160
RECEIPT_KEY = "edgellm.receipt"  # shown by itself


@click.command("show")
@click.argument("model", required=False, envvar="EDGELLM_MODEL")
@option("--tensors", is_flag=True, help="List every tensor with its type and shape.")
@option("--full", is_flag=True, help="Write long values of the metadata in full.")
@option(
    "--ctx",
    metavar="TOKENS",
    type=int,
    help="Context for which memory is estimated.  [default: the model's, at most 4096]",
)
@option(
    "--cache-type",
    type=click.Choice(["f16", "q8_0", "q4_0"]),
    default="f16",
    show_default=True,
    help="How the context keeps keys and values.",
)
@json_option
def command(
    model: str | None, tensors: bool, full: bool, ctx: int | None, cache_type: str, as_json: bool
) -> None:
    """Show what a model is, and what it needs in memory.

    MODEL is a GGUF file, a name in the store, or a Hugging Face or MLX folder, also one of a LoRA
    adapter; without it,
    EDGELLM_MODEL or the default model. Its metadata, tensors and chat template are listed. Only
    headers are read. Arrays of more than 16 values are abbreviated; in JSON they become
    {"length": N, "first": [...]}.

    \b
    edgellm show
    edgellm show mine.gguf --tensors
    edgellm show mine.gguf --json | jq .bits_per_weight
    """
    from edgellm.api.show import show

    details = show(model, context=ctx, cache_type=cache_type)
    if as_json:
        echo_json(_as_json(details, full=full))
        return
    for line in _lines(details, all_tensors=tensors, full=full):
        click.echo(line)


def _as_json(details: ModelDetails, *, full: bool) -> dict[str, Any]:
    memory = details.memory
    stored = details.stored
    manifest = stored.manifest if stored else None
    return {
        "name": stored.name if stored else None,
        "path": str(details.path),
        "source": None
        if manifest is None
        else {
            "from": manifest.source,
            "licence": manifest.licence,
            "sha256": manifest.sha256,
            "repo": manifest.repo,
            "revision": manifest.revision,
        },
        "format": details.format,
        "architecture": details.architecture,
        "type": details.type,
        "parameters": details.parameters,
        "bytes": details.bytes,
        "bits_per_weight": details.bits_per_weight,
        "context_length": details.context_length,
        "tensors": [
            {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape)}
            for tensor in details.tensors
        ],
        "metadata": {key: _plain(value) for key, value in _values(details, full)},
        "chat_template": details.chat_template,
        "adapter": None if details.adapter is None else details.adapter.as_dict(),
        "receipt": None if details.receipt is None else details.receipt.as_dict(),
        "memory": {
            "context": memory.context,
            "cache_type": memory.cache_type,
            "weights": memory.weights,
            "kv_cache": memory.kv_cache,
            "compute": memory.compute,
            "process": memory.process,
            "total": memory.total,
            "available": memory.available,
            "fits": memory.fits,
            "largest_context": memory.largest_context,
        },
    }


@dataclass(frozen=True, slots=True)
class _LongArray:
    """What is shown of an array that is too long to be shown whole."""

    first: list[object]
    length: int


def _values(details: ModelDetails, full: bool) -> Iterator[tuple[str, object]]:
    """Give the metadata, long arrays cut unless `full`.

    Only what is shown is decoded: a vocabulary as Python strings is many times its bytes.
    """
    from edgellm_converters.checkpoints.gguf_values import Metadata

    metadata = details.metadata
    for key in metadata:
        if isinstance(metadata, Metadata) and not full:
            stored = metadata.stored(key)
            if stored.type.element is not None and stored.length > LONGEST_ARRAY:
                first = metadata.first(key, SHOWN_OF_ARRAY)
                yield key, _LongArray(list(first) if isinstance(first, list) else [], stored.length)
                continue
        value = metadata[key]
        if isinstance(value, list) and len(value) > LONGEST_ARRAY and not full:
            value = _LongArray(value[:SHOWN_OF_ARRAY], len(value))
        yield key, value


def _plain(value: object) -> object:
    """Make a metadata value fit for JSON, which knows neither NaN nor infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, _LongArray):
        return {"length": value.length, "first": [_plain(inner) for inner in value.first]}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _lines(details: ModelDetails, *, all_tensors: bool, full: bool) -> list[str]:
    bits = details.bits_per_weight
    memory = details.memory
    facts = {
        "path": str(details.path),
        "format": details.format,
        "architecture": details.architecture or "unknown",
        "type": details.type or "unknown",
        "parameters": f"{human_count(details.parameters)} ({details.parameters})",
        "size": f"{human_bytes(details.bytes)} ({details.bytes} bytes)",
        "bits per weight": "unknown" if bits is None else f"{bits:.2f}",
        "context length": str(details.context_length or "unknown"),
        "memory": _memory(memory),
        "fits this device": _fits(memory),
    }
    number, count = (details.metadata.get(key) for key in ("split.no", "split.count"))
    if isinstance(number, int) and isinstance(count, int) and count > 1:
        every = details.bytes > details.path.stat().st_size
        of = "all parts" if every else "this file alone"
        facts["part"] = f"{number + 1} of {count}; the figures are those of {of}"
    adapter = details.adapter
    if adapter is not None:
        for name in ("context length", "memory", "fits this device"):
            del facts[name]
        facts["adapter"] = f"LoRA ({adapter.format}) of {adapter.pairs} weights"
        facts["base"] = adapter.base or "unknown"
        facts["rank, alpha"] = f"{adapter.rank}, {adapter.alpha:g}"
        facts["targets"] = ", ".join(adapter.targets)
    manifest = details.stored.manifest if details.stored else None
    if manifest is not None:
        facts["source"] = f"{manifest.source}, licence {manifest.licence}"
    lines = [f"{name:<16} {_line(text)}" for name, text in facts.items()]
    if details.receipt is not None:
        lines += ["", *map(_line, _receipt(details.receipt))]
    lines += ["", "metadata"]
    lines += [
        f"  {_line(key)} = {_line(_brief(value, full))}"
        for key, value in _values(details, full)
        if key not in ("tokenizer.chat_template", RECEIPT_KEY)
    ]
    lines += ["", f"tensors: {len(details.tensors)}"]
    counts = Counter(tensor.type for tensor in details.tensors)
    for name, count in counts.most_common():
        size = sum(tensor.nbytes for tensor in details.tensors if tensor.type == name)
        lines.append(f"  {name:<8} {count:>5}  {human_bytes(size)}")
    if all_tensors:
        lines.append("")
        lines += [
            f"  {tensor.type:<8} {' x '.join(map(str, tensor.shape)):>16}  {_line(tensor.name)}"
            for tensor in details.tensors
        ]
    lines += ["", "chat template" if details.chat_template else "chat template: none"]
    if details.chat_template:
        lines += [f"  {_line(line)}" for line in details.chat_template.split("\n")]
    return lines


def _memory(memory: Memory) -> str:
    cache, compute = (
        "unknown" if size is None else human_bytes(size)
        for size in (memory.kv_cache, memory.compute)
    )
    return (
        f"{human_bytes(memory.total)} at {memory.context} tokens: weights "
        f"{human_bytes(memory.weights)}, KV cache ({memory.cache_type}) {cache}, compute buffers "
        f"{compute}, program {human_bytes(memory.process)}"
    )


def _fits(memory: Memory) -> str:
    if memory.available is None or memory.fits is None:
        return "unknown"
    free = f"{human_bytes(memory.available)} of memory are free"
    if not memory.largest_context:
        return f"{'yes' if memory.fits else 'no'}: {free}"
    return f"{'yes' if memory.fits else 'no'}, up to {memory.largest_context} tokens: {free}"


def _receipt(receipt: Receipt) -> list[str]:
    """Say how the model was quantized, and what that cost."""
    asked = ", ".join(f"{key} {value}" for key, value in receipt.request.items())
    lines = [
        "receipt",
        f"  made from {receipt.source.name} ({human_bytes(receipt.source.bytes)}, sha256 "
        f"{receipt.source.sha256})",
        f"  asked for {asked}; method {receipt.method}, effort {receipt.effort}, seed "
        f"{receipt.seed}",
    ]
    if (calibration := receipt.calibration) is not None:
        lines.append(
            f"  calibrated on {calibration.tokens} tokens of {', '.join(calibration.texts)}"
        )
    methods = Counter(made.method for made in receipt.tensors.values())
    lines.append("  tensors: " + ", ".join(f"{n} by {name}" for name, n in methods.most_common()))
    return [*lines, *(f"  {line}" for line in quality_lines(receipt))]


def _brief(value: object, full: bool) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value if full or len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}..."
    if isinstance(value, _LongArray | list):
        shown = value.first if isinstance(value, _LongArray) else value
        texts = [repr(v) if isinstance(v, str) else _brief(v, full) for v in shown]
        rest = f", ... {value.length} in all" if isinstance(value, _LongArray) else ""
        return f"[{', '.join(texts)}{rest}]"
    text = str(value)
    if isinstance(value, dict) and len(text) > LONGEST_TEXT and not full:
        return f"{text[:LONGEST_TEXT]}..."
    return text


def _line(text: str) -> str:
    """Keep text of a file on its line and harmless for the terminal."""
    return printable(text).replace("\n", "\\n")
