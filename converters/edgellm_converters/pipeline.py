"""The one way from a checkpoint to another: plan, choose formats, stream, write.

Nothing is written before the plan is complete, and nothing half-written ever has the final name.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm_converters.checked import CheckedTensors
from edgellm_converters.errors import ConvertersError, SourceNotFoundError
from edgellm_converters.sources import Source, open_source
from edgellm_converters.streams import stream
from edgellm_converters.targets import Choice, choose_dtypes, choose_formats
from edgellm_converters.writers.atomic import (
    atomic_files,
    atomic_folder,
    check_place,
    check_target,
    require_space,
)
from edgellm_converters.writers.gguf import TensorSpec
from edgellm_converters.writers.gguf_split import gguf_parts, plan_parts
from edgellm_converters.writers.huggingface import (
    HuggingFaceSpec,
    huggingface_folder,
    write_json,
)
from edgellm_quant.formats import FORMATS

__all__ = [
    "DTYPES",
    "ConversionResult",
    "Fallback",
    "Progress",
    "WrittenPart",
    "convert",
    "target_kind",
]

DTYPES = ("auto", "f32", "f16", "bf16", "q8_0")

Progress = Callable[[int, int], None]
"""Called with the bytes of tensor data written so far, and those of the whole."""

# JSON files beside the tensors of a folder, beyond what is estimated for the vocabulary.
MARGIN = 1 << 20


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that did not get the format of the recipe, and why."""

    tensor: str
    wanted: str
    used: str
    reason: str


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """One file of a split model."""

    output: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What was written.

    `bytes` and `sha256` are those of the file; of a folder, the sum of its files and the digest of
    what `sha256sum *` prints in it. Of a split model, `output` is the first part, and the two are
    those of all `parts`; of others, `parts` is empty. `bits_per_weight` is 0 where there are no
    weights. `types` counts tensors by format. `notes` are sentences on what the target cannot say.
    """

    source: Path
    output: Path
    bytes: int
    sha256: str
    architecture: str
    tensors: int
    parameters: int
    bits_per_weight: float
    types: Mapping[str, int]
    recipe: str | None
    fallbacks: tuple[Fallback, ...]
    notes: tuple[str, ...]
    seconds: float
    parts: tuple[WrittenPart, ...] = ()


def convert(
    source: Path,
    target: Path,
    *,
    to: str | None = None,
    dtype: str = "auto",
    recipe: str | None = None,
    requantize: bool = False,
    allow_nan: bool = False,
    split_size: int | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint.

    Args:
        source: a Hugging Face folder or a GGUF file.
        target: the file or folder to write.
        to: "gguf" or "hf"; None tells by the suffix .gguf of the target.
        dtype: one of `DTYPES`; "auto" keeps the source's (quantized ones become f32 in a folder).
        recipe: a quantization recipe of `edgellm_quant.recipes`, in place of `dtype`; only to GGUF.
        requantize: quantize a source that is quantized already.
        allow_nan: convert NaN and infinity as they are, where the format can hold them.
        split_size: write GGUF in parts of at most so many bytes, if it is larger.
        force: replace a target that exists.
        threads: cores to use, None for all.
        progress: called as the data is written.

    Raises:
        ConvertersError: see the subclasses; nothing is left at `target` that was not there before.
        QuantError: a recipe that is unknown or needs importance, or values it cannot hold.
    """
    started = time.monotonic()
    to = target_kind(target, to)
    if to not in ("gguf", "hf"):
        raise ConvertersError(f"{to!r} is no target format", hint="known are: gguf, hf")
    if dtype not in DTYPES:
        raise ConvertersError(f"{dtype!r} is no dtype", hint=f"known are: {', '.join(DTYPES)}")
    if to == "hf" and (recipe is not None or dtype == "q8_0"):
        raise ConvertersError(
            "a Hugging Face folder holds no quantized tensors",
            hint="choose f32, f16 or bf16, or write GGUF",
        )
    if split_size is not None and (to == "hf" or split_size < 1):
        raise ConvertersError(
            f"parts of {split_size} bytes cannot be written",
            hint="only GGUF is split by size, into parts of at least a byte",
        )
    if not source.exists():
        raise SourceNotFoundError(f"{source}: there is no such file or folder")
    if split_size is not None:
        check_place(target)  # which parts there will be says the plan
    else:
        check_target(target, folder=to == "hf", force=force, source=source)
    with open_source(source) as opened:
        if to == "hf":
            return _to_folder(opened, target, dtype, allow_nan, force, threads, progress, started)
        name = recipe if recipe is not None else ("Q8_0" if dtype == "q8_0" else None)
        return _to_gguf(
            opened,
            target,
            dtype,
            name,
            requantize,
            allow_nan,
            split_size,
            force,
            threads,
            progress,
            started,
        )


def target_kind(target: Path, to: str | None) -> str:
    """Give what is asked for, else what the target's name says: "gguf" or "hf"."""
    return to or ("gguf" if target.suffix.lower() == ".gguf" else "hf")


def _to_gguf(
    source: Source,
    target: Path,
    dtype: str,
    recipe: str | None,
    requantize: bool,
    allow_nan: bool,
    split_size: int | None,
    force: bool,
    threads: int | None,
    progress: Progress | None,
    started: float,
) -> ConversionResult:
    plan = source.plan_gguf()
    choice: Choice = choose_formats(source, plan, dtype, recipe, requantize=requantize)
    entries = source.entries(plan, choice)
    specs = [
        TensorSpec(step.target, step.shape, fmt)
        for step, fmt in zip(plan.steps, choice.formats, strict=True)
    ]
    made = [TensorSpec(name, array.shape, FORMATS["F32"]) for name, array in plan.generated.items()]
    everything = [*made, *specs]
    total = sum(spec.nbytes for spec in everything)
    parts = plan_parts(target, entries, everything, source.alignment, split_size)
    outputs = [part.path for part in parts]
    for output in outputs:
        for file in source.files:
            check_target(output, folder=False, force=force, source=file)
    require_space(target, total + sum(len(packed.data) for packed in entries.values()))
    report = _Report(progress, total)
    tensors = CheckedTensors(source.tensors, allow=allow_nan)
    with (
        atomic_files(outputs, force=force) as temporaries,
        gguf_parts(parts, temporaries, source.alignment) as writer,
    ):
        # What was written is not kept: a vocabulary can be larger than a slab of weights.
        entries.clear()
        parts.clear()
        for array in plan.generated.values():
            writer.begin()
            writer.write(array)
        for step, fmt in zip(plan.steps, choice.formats, strict=True):
            writer.begin()
            for slab in stream(tensors, step, fmt, threads=threads, allow_nan=allow_nan):
                writer.write(slab)
                report(slab.nbytes)
        files = [
            WrittenPart(output, size, digest)
            for output, (digest, size) in zip(outputs, writer.finish(), strict=True)
        ]
    parameters = sum(spec.parameters for spec in specs)
    written = sum(file.bytes for file in files)
    return ConversionResult(
        source=source.path,
        output=outputs[0],
        bytes=written,
        sha256=files[0].sha256 if len(files) == 1 else _digest(files),
        architecture=plan.architecture,
        tensors=len(everything),
        parameters=parameters,
        bits_per_weight=8 * written / parameters if parameters else 0.0,
        types=_count([spec.format.name for spec in everything]),
        recipe=choice.recipe,
        fallbacks=tuple(
            Fallback(name, wanted, used, reason) for name, wanted, used, reason in choice.fallbacks
        ),
        notes=(*plan.notes, *tensors.notes),
        seconds=time.monotonic() - started,
        parts=tuple(files) if len(files) > 1 else (),
    )


def _digest(files: Sequence[WrittenPart]) -> str:
    """Give the sha256 of what `sha256sum` prints for the parts."""
    lines = "".join(f"{file.sha256}  {file.output.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _to_folder(
    source: Source,
    target: Path,
    dtype: str,
    allow_nan: bool,
    force: bool,
    threads: int | None,
    progress: Progress | None,
    started: float,
) -> ConversionResult:
    plan = source.plan_folder()
    dtypes = choose_dtypes(source, plan, dtype)
    specs = [
        HuggingFaceSpec(step.target, step.shape, each)
        for step, each in zip(plan.steps, dtypes, strict=True)
    ]
    total = sum(spec.nbytes for spec in specs)
    require_space(target, total + MARGIN)
    report = _Report(progress, total)
    tensors = CheckedTensors(source.tensors, allow=allow_nan)
    files = source.folder_files(plan, dtypes)
    with (
        atomic_folder(target, force=force) as folder,
        huggingface_folder(folder, specs) as writer,
    ):
        for name, content in files.items():
            write_json(folder / name, content)
        files.clear()
        for step, each in zip(plan.steps, dtypes, strict=True):
            writer.begin()
            fmt = FORMATS[each]
            for slab in stream(tensors, step, fmt, threads=threads, allow_nan=allow_nan):
                writer.write(slab)
                report(slab.nbytes)
        digest, written = writer.finish()
    parameters = sum(spec.nbytes // FORMATS[spec.dtype].type_size for spec in specs)
    return ConversionResult(
        source=source.path,
        output=target,
        bytes=written,
        sha256=digest,
        architecture=plan.architecture,
        tensors=len(specs),
        parameters=parameters,
        bits_per_weight=8 * total / parameters if parameters else 0.0,
        types=_count([spec.dtype for spec in specs]),
        recipe=None,
        fallbacks=(),
        notes=(*plan.notes, *tensors.notes),
        seconds=time.monotonic() - started,
    )


class _Report:
    """Adds up what was written, and says so."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self(0)

    def __call__(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)


def _count(names: Sequence[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
