"""From a model and a wish to a quantized model with its receipt.

The source is made a GGUF file of floats if it is none, since that is what can be run; calibration
tokens go through it, a few layers at a time; each tensor is encoded and laid aside; the target is
put together and measured against the source; and it is put together once more, with its receipt.
What is laid aside survives an interruption.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.errors import DoesNotFitError
from edgellm.quantization.effort import Effort, seconds_for
from edgellm.quantization.encoding import Encoding, Task
from edgellm.quantization.measure import ALL, data_sha256, measure, size_of, source_facts
from edgellm.quantization.receipt import RECEIPT_FILE, RECEIPT_KEY, Calibrated, Receipt
from edgellm.quantization.report import Point
from edgellm.quantization.running import calibration_chunks, runnable
from edgellm.quantization.tensors import sources_of
from edgellm.quantization.work import Work, job_key
from edgellm_converters.architectures.base import TEXT, Side

if TYPE_CHECKING:
    from edgellm.evaluate.texts import Text
    from edgellm.quantization.budget import Choice as Chosen
    from edgellm.quantization.calibration import Calibration
    from edgellm.quantization.goal import Goal
    from edgellm_converters.pipeline import ConversionResult
    from edgellm_converters.sources import Plan, Source
    from edgellm_converters.targets import Choice, Wish
    from edgellm_quant.statistics import TensorStatistics

__all__ = ["Outcome", "Request", "Stage", "Watcher", "run"]

Stage = Callable[[str, float, float], None]
"""Called with what is being done ("calibrating"), and how much of it in how much."""

Blocks = Mapping[str, Path]

# What a receipt takes at most: for each tensor, for each text, and the rest.
RECEIPT_TENSOR, RECEIPT_TEXT, RECEIPT_REST = 130, 420, 1500
# What a folder of MLX takes for each tensor beside its data: names, shapes, types of three parts.
NAMES = 900

MOST_CANDIDATES = 4  # that are encoded and measured to meet a limit of divergence


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done.

    Attributes:
        source: a folder or GGUF file.
        output: the file or folder to write.
        side: what it becomes.
        wish: the type, or nothing where a budget decides.
        asked: what people asked for, for the receipt: {"type": "Q4_K_M"}.
        method: rtn, importance or gptq.
        effort: how much work it may be.
        budget: chooses the formats; None where `wish` does.
        calibration: texts to choose values by.
        measured: texts to measure on; empty for a receipt without quality.
        imatrix: a file of importance, in place of a calibration.
        save_imatrix: where to write the importance that was gathered.
        seed: of all samples.
        memory: bytes for the Hessians; None takes half of what is free.
        threads: cores to use; None for all.
        allow_nan, split_size, force: as in `edgellm_converters.pipeline.convert`.
    """

    source: Path
    output: Path
    side: Side
    wish: Wish
    asked: Mapping[str, Any]
    method: str
    effort: Effort
    budget: Goal | None = None
    calibration: Sequence[Text] = ()
    measured: Sequence[Text] = ()
    imatrix: Path | None = None
    save_imatrix: Path | None = None
    seed: int = 0
    memory: int | None = None
    threads: int | None = None
    allow_nan: bool = False
    split_size: int | None = None
    force: bool = False


@dataclass(slots=True)
class Watcher:
    """Who wants to know how it goes.

    Attributes:
        stage: gets the progress.
        estimate: gets the seconds that the work will take, once they can be told.
        cancelled: asked often.
    """

    stage: Stage = lambda _what, _done, _total: None
    estimate: Callable[[float], None] = lambda _seconds: None
    cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was made.

    Attributes:
        conversion: the file or folder.
        receipt: as it was written; None for plain rounding that nobody wanted measured.
        points: what was measured on the way, the result last.
        notes: sentences on what could not be done as usual.
    """

    conversion: ConversionResult
    receipt: Receipt | None
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()


def run(request: Request, watcher: Watcher) -> Outcome:
    """Quantize.

    Raises:
        EdgellmError, ConvertersError, QuantError: see their subclasses; what was encoded before
            stays in the cache, and the same request goes on from it.
    """
    from edgellm.backends.llama_cpp.library import let_threads_sleep
    from edgellm_converters.writers.atomic import check_target

    let_threads_sleep()
    folder = request.side is not Side.GGUF
    check_target(request.output, folder=folder, force=request.force, source=request.source)
    if request.method == "rtn" and not request.measured and request.budget is None:
        return _plain(request, watcher)
    with Work.open(_key(request)) as work:
        outcome = _Job(request, work, watcher).run()
        work.remove()
    return outcome


def _plain(request: Request, watcher: Watcher) -> Outcome:
    """Round to nearest in one go, as `edgellm convert` does; nothing is run or measured."""
    from edgellm_converters.pipeline import convert

    conversion = convert(
        request.source,
        request.output,
        to=request.side.value,
        recipe=request.wish.recipe,
        mlx=request.wish.mlx,
        requantize=request.wish.requantize,
        allow_nan=request.allow_nan,
        split_size=request.split_size,
        force=request.force,
        threads=request.threads,
        progress=lambda done, total: watcher.stage("quantizing", done, total),
    )
    return Outcome(conversion, None)


def _key(request: Request) -> str:
    """Name the job by all that its results depend on; files by their size and time."""
    source = request.source
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    stats = [(str(file), file.stat()) for file in files]
    return job_key(
        {
            "source": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
            "side": request.side.value,
            "asked": dict(request.asked),
            "wish": repr(request.wish),
            "method": request.method,
            "effort": asdict(request.effort),
            "calibration": [text.sha256 for text in request.calibration],
            "imatrix": None if request.imatrix is None else source_facts(request.imatrix).sha256,
            "seed": request.seed,
            "versions": _versions(),
        }
    )


class _Job:
    """One request at work."""

    def __init__(self, request: Request, work: Work, watcher: Watcher) -> None:
        self.request = request
        self.work = work
        self.watcher = watcher
        self.started = time.monotonic()
        self.reference = Path()
        self.calibration: Calibration | None = None
        self.points: list[Point] = []
        self.notes: list[str] = []
        self.facts = source_facts(request.source)
        self.estimated = False

    def run(self) -> Outcome:
        """Do everything."""
        from edgellm.models.check import check_model_file
        from edgellm_converters.sources import open_source
        from edgellm_converters.targets import refuse_requantizing
        from edgellm_quant.formats import FORMATS

        request = self.request
        self.reference = runnable(
            request.source,
            self.work.path("reference.gguf"),
            allow_nan=request.allow_nan,
            threads=request.threads,
            progress=lambda done, total: self.watcher.stage("converting", done, total),
        )
        if request.measured or request.method != "rtn":
            check_model_file(self.reference)
        with open_source(self.reference) as source:
            plan = source.plan(request.side)
            # A recipe's types are refused where they are chosen; a budget's would be after minutes.
            if request.budget is not None and not request.wish.requantize:
                quantizable = {step.target for step, _ in self._quantizable(plan)}
                plain = FORMATS["F32"]
                refuse_requantizing(
                    source,
                    plan,
                    [None if step.target in quantizable else plain for step in plan.steps],
                )
            if request.calibration:
                self.calibration = calibration_chunks(
                    self.reference, request.calibration, request.effort.tokens, request.seed
                )
            encoding = Encoding(request, source, self.calibration, self.work, self.watcher)
            outcome = self._by_type if request.budget is None else self._by_budget
            found = outcome(source, plan, encoding)
            if request.save_imatrix is not None:
                self._save_imatrix(request.save_imatrix, source, plan, encoding)
        return replace(found, points=tuple(self.points))

    def _by_type(self, source: Source, plan: Plan, encoding: Encoding) -> Outcome:
        """Give every tensor the type of the recipe."""
        from edgellm_converters.targets import choose_formats

        wish = replace(self.request.wish, importance=self.request.method != "rtn")
        choice = choose_formats(source, plan, wish)
        return self._finish(choice, *self._made(source, plan, choice, encoding))

    def _by_budget(self, source: Source, plan: Plan, encoding: Encoding) -> Outcome:
        """Choose the types that lose least; again, where a limit of divergence is to be met."""
        from edgellm.quantization.goal import Allocator
        from edgellm_converters.targets import choose_formats

        goal = self.request.budget
        assert goal is not None
        allocator = Allocator(
            goal,
            self.reference,
            self._importance(plan, encoding),
            self.calibration.chunks if self.calibration else (),
            self._overhead(source, plan),
            self._dense(source, plan) if self.request.side is Side.MLX else None,
            self.request.method,
            self.request.effort,
            self.request.threads,
            self.watcher.stage,
            self.watcher.cancelled,
        )
        best: tuple[float, Choice, Blocks, Receipt] | None = None
        chosen: Chosen | None = allocator.first()
        for _ in range(MOST_CANDIDATES):
            if chosen is None:
                break
            wish = replace(self.request.wish, formats=chosen.formats)
            choice = choose_formats(source, plan, wish)
            blocks, receipt = self._made(source, plan, choice, encoding)
            self.notes += [note for note in chosen.notes if note not in self.notes]
            if not self.request.measured:
                return self._finish(choice, blocks, receipt)
            receipt = self._measured(choice, blocks, receipt)
            point = self.points[-1]
            # Within a limit the smallest counts, else what loses least.
            fits = goal.max_kld is None or point.kld <= goal.max_kld
            rank = point.kld if goal.max_kld is None else point.bytes
            if fits and (best is None or rank < best[0]):
                best = (rank, choice, blocks, receipt)
            chosen = allocator.next(chosen.kld, point.kld)
        if best is None:
            raise DoesNotFitError(
                f"no candidate stays within a mean KL divergence of {goal.max_kld:g} nats; the "
                f"nearest has {min(point.kld for point in self.points):.4g}",
                hint="allow more, or convert to F16",
            )
        return self._write_final(*best[1:])

    def _dense(self, source: Source, plan: Plan) -> str:
        """Give the float type of what stays dense in a folder of MLX."""
        from edgellm_converters.targets import Wish, choose_formats

        return choose_formats(source, plan, Wish()).dense

    def _overhead(self, source: Source, plan: Plan) -> int:
        """Give the bytes of the output that are no tensor data, at most: files, names, receipt."""
        from edgellm_converters.checkpoints.gguf_header import read_header
        from edgellm_converters.targets import Wish, choose_formats

        receipt = RECEIPT_TENSOR * len(plan.steps) + RECEIPT_REST
        receipt += RECEIPT_TEXT * (len(self.request.measured) + 1)
        if self.request.side is Side.GGUF:
            return receipt + read_header(self.reference).data_offset
        files = source.files_for(plan, choose_formats(source, plan, Wish())).json.values()
        written = sum(
            len(json.dumps(each, ensure_ascii=False, indent=2).encode()) for each in files
        )
        return written + NAMES * len(plan.steps) + 2 * receipt  # the folder's is indented

    def _importance(self, plan: Plan, encoding: Encoding) -> Mapping[str, TensorStatistics]:
        """Gather the importance of all tensors that may be quantized."""
        kind = "importance" if self.request.method != "rtn" else ""
        known: dict[str, TensorStatistics] = {}
        for gathered in encoding.statistics(self._quantizable(plan), kind):
            known |= gathered
        return known

    def _quantizable(self, plan: Plan) -> list[Task]:
        """Give the tensors that recipes may quantize, with a format that stands for any."""
        from edgellm_quant.facts import TensorFacts, is_quantizable
        from edgellm_quant.formats import FORMATS

        return [
            (step, FORMATS["Q8_0"])
            for step in plan.steps
            if is_quantizable(TensorFacts(step.gguf, step.shape), plan.architecture)
        ]

    def _made(
        self, source: Source, plan: Plan, choice: Choice, encoding: Encoding
    ) -> tuple[Blocks, Receipt]:
        """Encode the tensors of a choice, and say how."""
        request, calibration = self.request, self.calibration
        tasks = [
            (step, fmt)
            for step, fmt in zip(plan.steps, choice.formats, strict=True)
            if fmt.is_quantized and source.tensors.format(step.source) != fmt
        ]
        if not self.estimated:
            weights = sum(math.prod(step.shape) for step, _ in tasks)
            self.watcher.estimate(seconds_for(request.effort, request.method, weights, calibration))
            self.estimated = True
        blocks, made = encoding.encode(tasks)
        self.notes += [note for note in encoding.notes if note not in self.notes]
        return blocks, Receipt(
            source=self.facts,
            request=dict(request.asked),
            method=request.method,
            effort=request.effort.name,
            seed=request.seed,
            versions=_versions(),
            calibration=None
            if calibration is None
            else Calibrated(
                {text.name: text.sha256 for text in request.calibration},
                calibration.tokens,
                len(calibration.chunks[0]),
                calibration.sha256,
            ),
            tensors=made,
        )

    def _finish(self, choice: Choice, blocks: Blocks, receipt: Receipt) -> Outcome:
        """Measure what was made, if it is to be measured, and write it."""
        if self.request.measured:
            receipt = self._measured(choice, blocks, receipt)
        return self._write_final(choice, blocks, receipt)

    def _measured(self, choice: Choice, blocks: Blocks, receipt: Receipt) -> Receipt:
        """Put a candidate together, and measure it against the source."""
        request = self.request
        candidate = self.work.path(f"candidate{request.output.suffix}")
        self._write(choice, blocks, receipt, candidate, force=True)
        context, quality = measure(
            self.reference,
            candidate,
            request.measured,
            request.effort.measured_tokens,
            threads=request.threads,
            watcher=self.watcher,
        )
        kld = next(each for each in quality if each.name == ALL).kld["mean"]
        name = f"candidate {len(self.points) + 1}" if request.budget else request.output.name
        self.points.append(Point(name, size_of(candidate), kld))
        receipt = replace(
            receipt, context=context, quality=quality, data_sha256=data_sha256(candidate)
        )
        _remove(candidate)
        return receipt

    def _write_final(self, choice: Choice, blocks: Blocks, receipt: Receipt) -> Outcome:
        request = self.request
        conversion = self._write(choice, blocks, receipt, request.output, force=request.force)
        conversion = replace(
            conversion,
            source=request.source,
            notes=(*conversion.notes, *self.notes),
            seconds=time.monotonic() - self.started,
        )
        return Outcome(conversion, receipt, (), tuple(self.notes))

    def _write(
        self, choice: Choice, blocks: Blocks, receipt: Receipt, output: Path, *, force: bool
    ) -> ConversionResult:
        from edgellm_converters.pipeline import Prepared, convert

        request = self.request
        prepared = Prepared(
            choice,
            blocks,
            keys={
                RECEIPT_KEY: (TEXT, receipt.to_json()),
                "edgellm.source": (TEXT, receipt.source.name),
            },
            files={RECEIPT_FILE: receipt.as_dict()},
        )
        return convert(
            self.reference,
            output,
            to=request.side.value,
            prepared=prepared,
            allow_nan=request.allow_nan,
            split_size=request.split_size if output == request.output else None,
            force=force,
            threads=request.threads,
            progress=lambda done, total: self.watcher.stage("writing", done, total),
        )

    def _save_imatrix(self, path: Path, source: Source, plan: Plan, encoding: Encoding) -> None:
        """Write the importance that was gathered, as llama.cpp reads it.

        What a run before this one encoded, it gathered too; so it is gathered once more.
        """
        from edgellm_converters.imatrix import imatrix_of, write_imatrix

        shapes, calibration = source.tensors.shapes, self.calibration
        missing = [
            each
            for each in self._quantizable(plan)
            if not all(name in encoding.importance for name in sources_of(each[0]))
        ]
        for _ in encoding.statistics(missing, "importance"):
            pass
        known = encoding.importance
        write_imatrix(
            path,
            imatrix_of(
                known,
                {name: math.prod(shapes[name][:-2]) for name in known},
                datasets=[text.name for text in self.request.calibration],
                chunk_count=0 if calibration is None else len(calibration.chunks),
                chunk_size=0 if calibration is None else len(calibration.chunks[0]),
            ),
        )


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("edgellm", "llama-cpp-python", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
