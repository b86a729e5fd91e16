"""Tensors encoded one after the other, with what calibration says of them, and laid aside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgellm.backends.base import CancelledError
from edgellm.device.profiles import THIS, get_profile
from edgellm.quantization.receipt import Made
from edgellm.quantization.tensors import float_rows, sources_of, statistics_of
from edgellm_quant.statistics import RowStatistics, TensorStatistics

if TYPE_CHECKING:
    from edgellm.quantization.calibration import Calibration
    from edgellm.quantization.job import Request, Watcher
    from edgellm.quantization.work import Work
    from edgellm_converters.plan import Step
    from edgellm_converters.sources import Source
    from edgellm_quant.formats import Format
    from edgellm_quant.methods.choose import Method, TensorReport

__all__ = ["Encoding", "Task", "statistics_from_imatrix"]

Known = Mapping[str, TensorStatistics]
Task = tuple["Step", "Format"]

# Wider rows have no Hessian that would be inverted in reasonable time; importance serves them.
WIDEST = 16_384
# Multiplied with as well, where it has statistics.
EMBEDDING = "token_embd.weight"
# Changes with what is gathered of a tensor: statistics on disk of another number are not used.
GATHERED = 2
# What looking up is told from multiplying by: 1,024 scored tokens in chunks of 512.
LOOKUP_CHUNKS = 4
# Share of the memory that is free, for the Hessians.
SHARE = 0.5


class Encoding:
    """Encodes tensors of one source; what was done before is taken from the work folder.

    Args:
        request: how.
        source: the reference, open.
        calibration: the tokens that the model reads; None where nothing is run.
        work: where blocks are laid.
        watcher: told how it goes.
    """

    def __init__(
        self,
        request: Request,
        source: Source,
        calibration: Calibration | None,
        work: Work,
        watcher: Watcher,
    ) -> None:
        self.request = request
        self.source = source
        self.calibration = calibration
        self.work = work
        self.watcher = watcher
        self.notes: list[str] = []
        self.importance: dict[str, TensorStatistics] = {}

    def encode(self, tasks: Sequence[Task]) -> tuple[dict[str, Path], dict[str, Made]]:
        """Encode tensors: the files of their blocks, and how they were made, by target name.

        Raises:
            CancelledError: somebody asked to stop.
            BackendError, ConvertersError, QuantError: see their subclasses.
        """
        found = {step.target: self._known(step, fmt) for step, fmt in tasks}
        waiting = [each for each in tasks if found[each[0].target] is None]
        whole = sum(math.prod(step.shape) for step, _ in tasks)
        done = whole - sum(math.prod(step.shape) for step, _ in waiting)

        def encode(ready: Sequence[Task], known: Known) -> None:
            nonlocal done
            for step, fmt in ready:
                if self.watcher.cancelled():
                    raise CancelledError
                self.watcher.stage("encoding", done, whole)
                found[step.target] = self._encode(step, fmt, statistics_of(step, known))
                done += math.prod(step.shape)

        known: dict[str, TensorStatistics] = {}
        for gathered in self.statistics(waiting, self._kind()):
            known |= gathered
            ready = [each for each in waiting if known.keys() >= set(sources_of(each[0]))]
            encode(ready, known)
            waiting = [each for each in waiting if each not in ready]
            needed = {name for step, _ in waiting for name in sources_of(step)}
            known = {name: each for name, each in known.items() if name in needed}
        # No activations meet these, such as an embedding that rows are looked up in.
        encode(waiting, {})
        self.watcher.stage("encoding", whole, whole)
        made = {target: each for target, each in found.items() if each is not None}
        return (
            {target: path for target, (path, _) in made.items()},
            {target: how for target, (_, how) in made.items()},
        )

    def statistics(self, tasks: Sequence[Task], kind: str) -> Iterator[Known]:
        """Give what is known of the inputs of tensors, as much at a time as fits in memory.

        `kind` is "hessian" or "importance", or "" for nothing.
        """
        request = self.request
        if not kind or not tasks:
            return
        if request.imatrix is not None:
            known = statistics_from_imatrix(request.imatrix, self.source)
            self.importance |= known
            yield known
            return
        from edgellm.quantization.gathered import Gatherings
        from edgellm.quantization.statistics import Kind, collect

        assert self.calibration is not None  # the request has texts
        wanted: dict[str, Kind] = {
            piece.source: cast("Kind", kind) if piece.columns <= WIDEST else "importance"
            for step, _ in tasks
            for piece in step.pieces
        }
        kept = Gatherings(self._key())
        known = kept.load(wanted, kind)
        if known:
            self._note(known, {})
            yield self._looked_up(known)
        missing = {name: each for name, each in wanted.items() if name not in known}
        if not missing:
            return
        for gathered in collect(
            self.source.path,
            self.calibration.chunks,
            missing,
            memory=request.memory or int(SHARE * get_profile(THIS).available),
            attention_tokens=request.effort.attention_tokens,
            threads=request.threads,
            progress=lambda done, total: self.watcher.stage("calibrating", done, total),
            cancelled=self.watcher.cancelled,
        ):
            self._note(gathered.statistics, gathered.notes)
            kept.store(gathered.statistics, kind)
            yield self._looked_up(gathered.statistics)

    def _looked_up(self, known: Known) -> Known:
        """Let a Hessian of a tied embedding stand for looking its rows up as well."""
        from edgellm.quantization.lookup import lookup_share, with_lookup

        statistics = known.get(EMBEDDING)
        if statistics is None or statistics.groups[0].hessian is None:
            return known
        assert self.calibration is not None
        place = self.work.path("lookup.json")
        share = self.work.read(place)
        if share is None:
            self.watcher.stage("weighing the embedding", 0, 1)
            share = lookup_share(
                self.source.path,
                EMBEDDING,
                self.calibration.chunks[:LOOKUP_CHUNKS],
                seed=self.request.seed,
                threads=self.request.threads,
                cancelled=self.watcher.cancelled,
            )
            self.work.write(place, share)
        return {**known, EMBEDDING: with_lookup(statistics, share)}

    def _note(self, statistics: Known, notes: Mapping[str, str]) -> None:
        """Remember what was gathered, and what could not be."""
        for name, note in notes.items():
            if (told := f"{name}: {note}") not in self.notes:
                self.notes.append(told)
        self.importance |= {name: _without_matrices(each) for name, each in statistics.items()}

    def _key(self) -> str:
        """Name what statistics depend on: the model, the tokens, and how they are gathered."""
        from edgellm.quantization.work import job_key

        assert self.calibration is not None
        stat = self.source.path.stat()
        return job_key(
            {
                "model": (stat.st_size, stat.st_mtime_ns, self.source.path.resolve()),
                "tokens": self.calibration.sha256,
                "attention": self.request.effort.attention_tokens,
                "version": GATHERED,
            }
        )

    def _kind(self) -> str:
        return {"gptq": "hessian", "importance": "importance"}.get(self.request.method, "")

    def _known(self, step: Step, fmt: Format) -> tuple[Path, Made] | None:
        """Give a tensor that was encoded before."""
        path, facts = self._paths(step, fmt)
        found = self.work.read(facts)
        return (path, Made(**found)) if found is not None and path.exists() else None

    def _paths(self, step: Step, fmt: Format) -> tuple[Path, Path]:
        path = self.work.path("tensor", step.target, fmt)
        return path, path.with_suffix(".json")

    def _encode(
        self, step: Step, fmt: Format, statistics: TensorStatistics | None
    ) -> tuple[Path, Made]:
        from edgellm_converters.checked import CheckedTensors
        from edgellm_quant.methods.choose import EFFORTS, TensorEncoder

        request = self.request
        tensors = CheckedTensors(self.source.tensors, allow=request.allow_nan)
        path, facts = self._paths(step, fmt)
        encoder = TensorEncoder(
            fmt,
            statistics,
            cast("Method", request.method),
            EFFORTS[request.effort.name],
            request.threads,
        )
        at = 0
        with self.work.writing(path) as temporary, temporary.open("wb") as file:
            for rows in float_rows(tensors, step, request.threads):
                file.write(encoder.encode(rows, at).tobytes())
                at += len(rows)
        made = Made(fmt.name, *_told(encoder.report()))
        self.work.write(facts, asdict(made))
        return path, made


def statistics_from_imatrix(path: Path, source: Source) -> Known:
    """Read a file of importance for the tensors of a model.

    Raises:
        ConvertersError: it cannot be read.
        UsageError: it belongs to another model.
    """
    from edgellm.errors import UsageError
    from edgellm_converters.imatrix import read_imatrix

    entries = read_imatrix(path).entries
    found: dict[str, TensorStatistics] = {}
    for name, shape in source.tensors.shapes.items():
        entry = entries.get(name)
        if entry is None or len(shape) < 2:
            continue
        matrices, rows, columns = math.prod(shape[:-2]), shape[-2], shape[-1]
        values = entry.of_shape(matrices, columns)
        if values is None:
            raise UsageError(
                f"{path}: what it has for {name} is of another shape than {columns} columns",
                hint="it belongs to another model",
            )
        counts = np.broadcast_to(entry.counts, (matrices,))
        found[name] = TensorStatistics(
            columns,
            tuple(
                RowStatistics(at * rows, (at + 1) * rows, int(counts[at]), values[at])
                for at in range(matrices)
            ),
        )
    if not found:
        raise UsageError(
            f"{path}: it holds importance for none of the tensors of {source.path}",
            hint="it belongs to another model",
        )
    return found


def _without_matrices(each: TensorStatistics) -> TensorStatistics:
    return TensorStatistics(
        each.columns,
        tuple(
            RowStatistics(group.start, group.stop, group.tokens, group.importance)
            for group in each.groups
        ),
    )


def _told(report: TensorReport) -> tuple[str, float | None, float | None]:
    """Give the method that most rows have, and the errors with four digits."""
    if not report.groups:
        return "rtn", None, None
    rows: Counter[str] = Counter()
    for group in report.groups:
        rows[group.method] += group.stop - group.start
    error, importance = (float(f"{each:.4g}") for each in (report.error, report.importance_error))
    return rows.most_common(1)[0][0], error, importance
