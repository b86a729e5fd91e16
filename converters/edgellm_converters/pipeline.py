"""The one way from a checkpoint to another: plan, choose formats, stream, write.

Nothing is written before the plan is complete, and nothing half-written ever has the final name.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import TEXT, Keys, Side
from edgellm_converters.checked import CheckedTensors
from edgellm_converters.errors import ConvertersError, SourceNotFoundError
from edgellm_converters.plan import Step
from edgellm_converters.sources import Plan, Source, open_source
from edgellm_converters.streams import Recoder, quantized_formats, stream
from edgellm_converters.targets import Choice, Wish, choose_formats
from edgellm_converters.writers.atomic import (
    atomic_files,
    atomic_folder,
    check_place,
    check_target,
    require_space,
)
from edgellm_converters.writers.folder import FolderSpec, tensor_folder, write_json
from edgellm_converters.writers.gguf import TensorSpec, pack
from edgellm_converters.writers.gguf_split import gguf_parts, plan_parts
from edgellm_quant.formats import FORMATS, BlockFormat, Format
from edgellm_quant.mlx_recipes import MLXRecipe

__all__ = [
    "DTYPES",
    "KINDS",
    "Adapted",
    "ConversionResult",
    "Fallback",
    "Prepared",
    "Progress",
    "Repack",
    "WrittenPart",
    "convert",
    "target_kind",
]

KINDS = tuple(side.value for side in Side)
"""What `to` may say."""

DTYPES = ("auto", "f32", "f16", "bf16", "q8_0")

Progress = Callable[[int, int], None]
"""Called with the bytes of tensor data written so far, and those of the whole."""

STORED_BYTES = 1 << 23  # read at a time of a tensor that was encoded before

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
class Repack:
    """What became of a quantized tensor in another quantized format.

    `how` is "exact" (every value is what it was), "near" (up to `error`, the largest difference of
    a value) or "requantized". Where the tensor has parts in several formats, `source` names all.
    """

    tensor: str
    source: str
    used: str
    how: str
    error: float


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """One file of a split model."""

    output: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Formats that were chosen before, and tensors that were encoded in them.

    `choice` is for the plan of the same source and target. `blocks` are files by the tensor's name
    in the target: its rows of blocks, one after the other. `keys` go into the metadata of a GGUF
    file, `files` (JSON by name) into a folder.
    """

    choice: Choice
    blocks: Mapping[str, Path]
    keys: Keys = field(default_factory=dict)
    files: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapted:
    """What an adapter was in a conversion: `pairs` of matrices, `rank` being the largest.

    `merged` tells that it went into the weights of a model.
    """

    adapter: Path
    pairs: int
    rank: int
    merged: bool


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What was written.

    `bytes` and `sha256` are those of the file; of a folder, the sum of its files and the digest of
    what `sha256sum` prints for its files by their names. Of a split model, `output` is the first
    part, and the two are those of all `parts`; of others, `parts` is empty. `bits_per_weight` is 0
    where there are no weights. `types` counts tensors by format. `notes` are sentences on what the
    target cannot say.
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
    repacks: tuple[Repack, ...]
    notes: tuple[str, ...]
    seconds: float
    parts: tuple[WrittenPart, ...] = ()
    adapted: Adapted | None = None


def convert(
    source: Path,
    target: Path,
    *,
    to: str | None = None,
    dtype: str = "auto",
    recipe: str | None = None,
    mlx: MLXRecipe | None = None,
    prepared: Prepared | None = None,
    lora: Path | None = None,
    lora_scale: float = 1.0,
    requantize: bool = False,
    allow_nan: bool = False,
    split_size: int | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint.

    Args:
        source: a Hugging Face or MLX folder, or a GGUF file.
        target: the file or folder to write.
        to: one of `KINDS`; None tells by the suffix of the target: see `target_kind`.
        dtype: one of `DTYPES`; "auto" keeps the source's. Quantized tensors become f32 in a
            Hugging Face folder; between GGUF and MLX they are repacked where the formats allow it.
        recipe: a quantization recipe of `edgellm_quant.recipes`, in place of `dtype`; only to GGUF.
        mlx: the same for MLX; `dtype` is then that of scales and of what stays dense.
        prepared: formats and tensors that are there already, in place of `dtype`, `recipe` and
            `mlx`.
        lora: the folder of an adapter that is merged into the weights.
        lora_scale: how many times it is added.
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
    if to not in KINDS:
        raise ConvertersError(f"{to!r} is no target format", hint=f"known are: {', '.join(KINDS)}")
    side = Side(to)
    if dtype not in DTYPES:
        raise ConvertersError(f"{dtype!r} is no dtype", hint=f"known are: {', '.join(DTYPES)}")
    if side is not Side.GGUF and (recipe is not None or dtype == "q8_0"):
        raise ConvertersError(
            f"{recipe or dtype} is a type of GGUF, which a folder cannot hold",
            hint="choose f32, f16 or bf16, or write GGUF",
        )
    if side is not Side.MLX and mlx is not None:
        raise ConvertersError(f"{mlx.name} is a format of MLX", hint="write an MLX folder")
    if split_size is not None and (side is not Side.GGUF or split_size < 1):
        raise ConvertersError(
            f"parts of {split_size} bytes cannot be written",
            hint="only GGUF is split by size, into parts of at least a byte",
        )
    if not source.exists():
        raise SourceNotFoundError(f"{source}: there is no such file or folder")
    if split_size is not None:
        check_place(target)  # which parts there will be says the plan
    else:
        check_target(target, folder=side is not Side.GGUF, force=force, source=source)
    with open_source(source) as opened:
        plan = opened.plan(side)
        if prepared is None:
            choice = choose_formats(opened, plan, Wish(dtype, recipe, mlx, requantize))
            prepared = Prepared(choice, {})
        job = _Job(
            opened, plan, prepared, target, allow_nan, split_size, force, threads, progress, started
        )
        if lora is not None:
            job.merge(lora, lora_scale)
        return job.write_gguf() if side is Side.GGUF else job.write_folder()


def target_kind(target: Path, to: str | None) -> str:
    """Give what is asked for, else what the target's name says.

    A name that ends in .gguf means GGUF, one in .mlx or -mlx MLX, any other a Hugging Face folder.
    """
    name = target.name.lower()
    if to is not None:
        return to
    if name.endswith(".gguf"):
        return Side.GGUF.value
    return Side.MLX.value if name.endswith((".mlx", "-mlx")) else Side.HF.value


@dataclass(slots=True)
class _Job:
    """One conversion, planned and about to be written."""

    source: Source
    plan: Plan
    prepared: Prepared
    target: Path
    allow_nan: bool
    split_size: int | None
    force: bool
    threads: int | None
    progress: Progress | None
    started: float
    adapted: Adapted | None = None
    repacks: list[Repack] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def choice(self) -> Choice:
        """The format of each tensor."""
        return self.prepared.choice

    def merge(self, lora: Path, scale: float) -> None:
        """Let the source give its tensors with what an adapter adds to them.

        The formats stay as they were chosen by the base's own.
        """
        from edgellm_converters.adapters import open_adapter
        from edgellm_converters.adapters.base import BaseModel
        from edgellm_converters.adapters.carry import carry
        from edgellm_converters.adapters.merge import MergedTensors

        source, adapter = self.source, open_adapter(lora)
        deltas = carry(adapter, BaseModel(source.path, *source.model()), source.side)
        source.tensors = MergedTensors(source.tensors, deltas, scale)
        rank = max(pair.rank for pair in adapter.pairs)
        self.adapted = Adapted(lora, len(adapter.pairs), rank, merged=True)

    def write_gguf(self) -> ConversionResult:
        """Write a GGUF file, or the parts of one."""
        source, plan = self.source, self.plan
        entries = source.entries(plan, self.choice)
        if self.adapted is not None:
            entries["edgellm.adapter"] = pack(TEXT, self.adapted.adapter.resolve().name)
        entries |= {key: pack(*typed) for key, typed in self.prepared.keys.items()}
        specs = [
            TensorSpec(step.target, step.shape, _block(fmt))
            for step, fmt in zip(plan.steps, self.choice.formats, strict=True)
        ]
        made = [
            TensorSpec(name, array.shape, FORMATS["F32"]) for name, array in plan.generated.items()
        ]
        everything = [*made, *specs]
        total = sum(spec.nbytes for spec in everything)
        parts = plan_parts(self.target, entries, everything, source.alignment, self.split_size)
        outputs = [part.path for part in parts]
        for output in outputs:
            for file in source.files:
                check_target(output, folder=False, force=self.force, source=file)
        require_space(self.target, total + sum(len(packed.data) for packed in entries.values()))
        with (
            atomic_files(outputs, force=self.force) as temporaries,
            gguf_parts(parts, temporaries, source.alignment) as writer,
        ):
            # What was written is not kept: a vocabulary can be larger than a slab of weights.
            entries.clear()
            parts.clear()
            for array in plan.generated.values():
                writer.begin()
                writer.write(array)
            self._stream(writer, total)
            files = [
                WrittenPart(output, size, digest)
                for output, (digest, size) in zip(outputs, writer.finish(), strict=True)
            ]
        written = sum(file.bytes for file in files)
        digest = files[0].sha256 if len(files) == 1 else _digest(files)
        result = self._result(digest, written, written, everything, specs)
        if len(files) == 1:
            return result
        return replace(result, output=outputs[0], parts=tuple(files))

    def write_folder(self) -> ConversionResult:
        """Write a folder of Hugging Face or MLX."""
        plan, target = self.plan, self.target
        specs = [
            FolderSpec(step.target, step.shape, fmt)
            for step, fmt in zip(plan.steps, self.choice.formats, strict=True)
        ]
        total = sum(spec.nbytes for spec in specs)
        files = self.source.files_for(plan, self.choice)
        beside = sum(file.stat().st_size for file in files.copies.values())
        require_space(target, total + beside + MARGIN)
        mark = "mlx" if plan.target is Side.MLX else "pt"
        with (
            atomic_folder(target, force=self.force) as folder,
            tensor_folder(folder, specs, mark) as writer,
        ):
            for name, file in files.copies.items():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name)
            for name, content in (files.json | dict(self.prepared.files)).items():
                write_json(folder / name, content)
            files.json.clear()
            self._stream(writer, total)
            digest, written = writer.finish()
        return self._result(digest, written, total, specs, specs)

    def _stream(self, writer: Writer, total: int) -> None:
        """Write the tensors of all steps in order."""
        report = _Report(self.progress, total)
        tensors = CheckedTensors(self.source.tensors, allow=self.allow_nan)
        for step, fmt in zip(self.plan.steps, self.choice.formats, strict=True):
            writer.begin()
            if step.target in self.prepared.blocks:
                for slab in _stored(self.prepared.blocks[step.target], step, fmt):
                    writer.write(slab)
                    report(slab.nbytes)
                continue
            recode = Recoder(fmt, self.threads, self.allow_nan)
            for slab in stream(tensors, step, recode):
                writer.write(slab)
                report(slab.nbytes)
            before = quantized_formats(tensors, step)
            if before and fmt.is_quantized and before != [fmt]:
                how, error = recode.outcome.how or "copied", recode.outcome.max_abs_error
                # What had to be decoded on its way to an encoder came to it as plain numbers.
                how = "requantized" if how == "encoded" else how
                names = ", ".join(each.name for each in before)
                self.repacks.append(Repack(step.target, names, fmt.name, how, error))
        self.notes = tensors.notes

    def _result(
        self,
        digest: str,
        written: int,
        weighed: int,
        everything: Sequence[TensorSpec | FolderSpec],
        specs: Sequence[TensorSpec | FolderSpec],
    ) -> ConversionResult:
        """Sum up; `weighed` are the bytes that count as the model's size."""
        parameters = sum(spec.parameters for spec in specs)
        return ConversionResult(
            source=self.source.path,
            output=self.target,
            bytes=written,
            sha256=digest,
            architecture=self.plan.architecture,
            tensors=len(everything),
            parameters=parameters,
            bits_per_weight=8 * weighed / parameters if parameters else 0.0,
            types=_count([spec.format.name for spec in everything]),
            recipe=self.choice.recipe,
            fallbacks=tuple(Fallback(*each) for each in self.choice.fallbacks),
            repacks=tuple(self.repacks),
            notes=(*self.plan.notes, *self.notes),
            seconds=time.monotonic() - self.started,
            adapted=self.adapted,
        )


def _digest(files: Sequence[WrittenPart]) -> str:
    """Give the sha256 of what `sha256sum` prints for the parts."""
    lines = "".join(f"{file.sha256}  {file.output.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _stored(path: Path, step: Step, fmt: Format) -> Iterator[npt.NDArray[np.uint8]]:
    """Read the rows of a tensor that was encoded before, a slab after the other.

    Raises:
        ConvertersError: the file has another size than the tensor.
    """
    width, rows = fmt.row_bytes(step.shape[-1]), math.prod(step.shape[:-1])
    if path.stat().st_size != rows * width:
        raise ConvertersError(
            f"{path}: {path.stat().st_size} bytes, but {step.target} has {rows * width}",
            hint="the file was changed or cut; remove it, and it is made again",
        )
    slab = max(1, STORED_BYTES // width)
    with path.open("rb") as file:
        for start in range(0, rows, slab):
            count = min(slab, rows - start)
            yield np.frombuffer(file.read(count * width), np.uint8).reshape(count, width)


class Writer(Protocol):
    """What takes the tensors of a target one after the other."""

    def begin(self) -> object:
        """Go to the next tensor."""
        ...

    def write(self, data: npt.NDArray[Any]) -> None:
        """Write some rows of it."""
        ...


def _block(fmt: Format) -> BlockFormat:
    if not isinstance(fmt, BlockFormat):
        raise TypeError(f"{fmt.name} is no format of GGUF")
    return fmt


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
