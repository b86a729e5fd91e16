"""How the rows of a tensor are encoded: each method's settings, and which one is kept.

Error compensation fits weights to the inputs that calibration saw, and it can fit them too well: a
loss that fell by half on these falls by a fifth on others. So what it shall be damped with, and
whether it is used at all, is chosen by inputs that were held out, on a sample of rows; the rows
are then encoded under the Hessian of all inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgellm_quant import ggml, mlx
from edgellm_quant.blas import one_thread
from edgellm_quant.codes import layout_of
from edgellm_quant.errors import ShapeError
from edgellm_quant.formats import BlockFormat, Format
from edgellm_quant.formats.mlx import MLXFormat
from edgellm_quant.methods import gptq
from edgellm_quant.methods.hessian import Factors, factor, row_losses
from edgellm_quant.statistics import RowStatistics, TensorStatistics

__all__ = ["EFFORTS", "GroupReport", "How", "Method", "Settings", "TensorEncoder", "TensorReport"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

Method = Literal["rtn", "importance", "gptq"]
How = Literal["rtn", "importance", "searched", "gptq"]
"""What a method comes to: "searched" is rounding under an importance with scales of our own."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much work error compensation does.

    Attributes:
        sweeps: how often codes and scales are improved after the first pass.
        searched: whether scales are searched for (`scales`), or taken from ggml's encoder.
        dampings: what may be tried, as a share of the diagonal; see `hessian.factor`.
        sample: rows that it is tried on.
        thorough: whether a damping is judged by all that follows, or by the first pass alone.
        fewest: with fewer input vectors than this, importance alone is used.
    """

    sweeps: int = 3
    searched: bool = True
    dampings: tuple[float, ...] = (0.01, 0.06, 0.25, 0.8)
    sample: int = 64
    thorough: bool = False
    fewest: int = 256


EFFORTS: Mapping[str, Settings] = MappingProxyType(
    {
        "fast": Settings(sweeps=0, searched=False, dampings=(0.3,), sample=32),
        "balanced": Settings(),
        "best": Settings(
            sweeps=8, dampings=(0.01, 0.03, 0.1, 0.25, 0.5, 1.0), sample=128, thorough=True
        ),
    }
)
"""Settings by the name of an effort."""


# The damping where no inputs are held out to judge by.
_UNJUDGED = 0.3


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What was chosen for a group of rows, and what it loses, on a sample of them.

    Attributes:
        start, stop: the rows.
        method: how they are encoded.
        damping: of the Hessian; None without one.
        error: w' H w of the errors as a share of w' H w of the weights, H being that of held-out
            inputs (or of all, or the importance, where there is none).
        importance_error: the same for rounding with importance alone.
        power: w' H w of the weights, all rows together; errors of groups add up weighted by it.
    """

    start: int
    stop: int
    method: How
    damping: float | None
    error: float
    importance_error: float
    power: float


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What was chosen for the groups of a tensor."""

    groups: tuple[GroupReport, ...]

    @property
    def error(self) -> float:
        """The relative error of the tensor's outputs on held-out inputs."""
        return _mean([(group.error, group.power) for group in self.groups])

    @property
    def importance_error(self) -> float:
        """The same for rounding with importance alone."""
        return _mean([(group.importance_error, group.power) for group in self.groups])


def _mean(pairs: list[tuple[float, float]]) -> float:
    total = sum(power for _, power in pairs)
    return sum(error * power for error, power in pairs) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class _Choice:
    """How the rows of a group are encoded."""

    method: How
    factors: Factors | None = None


@dataclass(slots=True)
class TensorEncoder:
    """Encodes the rows of a tensor, slab by slab.

    A group's damping is chosen when the first of its rows come, on a sample of those in that slab.

    Attributes:
        fmt: what to encode to.
        statistics: of the tensor's inputs; None rounds plainly.
        method: "gptq" uses importance alone where there is no Hessian, or where that does better
            on held-out inputs. "importance" gives ggml's bytes; MLX has no such encoder, and its
            scales are searched for.
        settings: how much work to do.
        threads: how many cores to use; None for all.
    """

    fmt: Format
    statistics: TensorStatistics | None
    method: Method = "gptq"
    settings: Settings = field(default_factory=Settings)
    threads: int | None = None
    _choices: dict[int, _Choice] = field(default_factory=dict)
    _reports: list[GroupReport] = field(default_factory=list)

    def encode(self, weights: Floats, start: int = 0) -> Bytes:
        """Encode the next rows.

        Args:
            weights: float32 (rows, columns), C-contiguous.
            start: which row of the tensor the first of them is.

        Returns:
            uint8 (rows, fmt.row_bytes(columns)).

        Raises:
            ShapeError: statistics of other columns, or that do not reach so many rows; or
                weights of another shape or dtype.
            ValueRangeError, ImportanceRequiredError, UnknownTypeError: as in
                `edgellm_quant.ggml.quantize_rows`.
        """
        if self.statistics is None or self.method == "rtn":
            return _round(weights, self.fmt, None, self.threads)
        groups = self._groups(weights, start)
        out = np.empty((len(weights), self.fmt.row_bytes(weights.shape[1])), np.uint8)
        with one_thread():
            for first, last, group in groups:
                part = np.ascontiguousarray(weights[first - start : last - start])
                if group.start not in self._choices:
                    self._choose(group, part)
                choice = self._choices[group.start]
                out[first - start : last - start] = self._encode(part, group, choice)
                if last == group.stop:  # its matrices are done with
                    self._choices[group.start] = _Choice(choice.method)
        return out

    def look(self, weights: Floats, start: int = 0) -> None:
        """Choose for the groups of some rows, without encoding them: `report` has what was found.

        Args:
            weights: float32 (rows, columns), C-contiguous.
            start: which row of the tensor the first of them is.

        Raises:
            ShapeError, ValueRangeError, UnknownTypeError: as `encode`.
        """
        for first, last, group in self._groups(weights, start):
            if group.start not in self._choices:
                with one_thread():
                    self._choose(group, weights[first - start : last - start])

    def report(self) -> TensorReport:
        """Tell what was chosen for the groups whose rows have come."""
        return TensorReport(tuple(self._reports))

    def _groups(self, weights: Floats, start: int) -> Sequence[tuple[int, int, RowStatistics]]:
        statistics = self.statistics
        if statistics is None or self.method == "rtn":
            return ()
        rows, columns = weights.shape
        if columns != statistics.columns or start + rows > statistics.rows:
            raise ShapeError(
                f"statistics of {statistics.rows} rows of {statistics.columns} values for the "
                f"rows {start} to {start + rows - 1} of {columns} values"
            )
        return statistics.of_rows(start, start + rows)

    def _encode(self, weights: Floats, group: RowStatistics, choice: _Choice) -> Bytes:
        if choice.factors is None:
            if choice.method == "searched" or not isinstance(self.fmt, BlockFormat):
                return gptq.search(weights, self.fmt, group.importance, self.threads)
            return _round(weights, self.fmt, group.importance, self.threads)
        return gptq.encode(
            weights,
            self.fmt,
            choice.factors,
            group.importance,
            self.settings.sweeps,
            self.settings.searched,
            self.threads,
        )

    def _choose(self, group: RowStatistics, rows: Floats) -> None:
        """Choose how a group's rows are encoded, by a sample of them."""
        count = min(self.settings.sample, len(rows))
        sample = np.ascontiguousarray(rows[np.linspace(0, len(rows) - 1, count).astype(np.intp)])
        judge = _judge(group)
        choice = _Choice("importance")
        plain = self._encode(sample, group, choice)
        baseline = lowest = self._loss(sample, plain, judge)
        damping: float | None = None
        if self._fits(group):
            tried = self._damped(group, sample, judge)
            loss = self._loss(sample, self._encode(sample, group, tried), judge)
            if loss < baseline or group.held_out is None:
                lowest, choice = loss, tried
        if self._searches():
            tried = _Choice("searched")
            loss = self._loss(sample, self._encode(sample, group, tried), judge)
            if loss < lowest:
                lowest, choice = loss, tried
        if choice.factors is not None:
            damping = choice.factors.damping
            if group.held_out is not None:
                choice = _Choice("gptq", factor(_combined(group), damping, gptq.block_of(self.fmt)))
        self._choices[group.start] = choice
        power = _total(sample, judge)
        self._reports.append(
            GroupReport(
                group.start,
                group.stop,
                choice.method,
                damping,
                lowest / (power or 1.0),
                baseline / (power or 1.0),
                power * (group.stop - group.start) / count,
            )
        )

    def _damped(self, group: RowStatistics, sample: Floats, judge: Floats) -> _Choice:
        """Choose a damping, by the first pass alone where that is told to do."""
        settings, block = self.settings, gptq.block_of(self.fmt)
        assert group.hessian is not None
        if group.held_out is None:
            return _Choice("gptq", factor(group.hessian, _UNJUDGED, block))
        sweeps = settings.sweeps if settings.thorough else 0
        searched = settings.searched and settings.thorough

        def loss_of(factors: Factors) -> float:
            blocks = gptq.encode(
                sample, self.fmt, factors, group.importance, sweeps, searched, self.threads
            )
            return self._loss(sample, blocks, judge)

        # Losses fall towards the best damping from both sides: go up from the middle one, or down.
        dampings = sorted(settings.dampings)
        at = len(dampings) // 2
        best = factor(group.hessian, dampings[at], block)
        above, below = dampings[at + 1 :], dampings[:at][::-1]
        if not above and not below:
            return _Choice("gptq", best)
        lowest = loss_of(best)
        for way in (above, below):
            moved = False
            for damping in way:
                factors = factor(group.hessian, damping, block)
                loss = loss_of(factors)
                if loss >= lowest:
                    break
                best, lowest, moved = factors, loss, True
            if moved:
                break
        return _Choice("gptq", best)

    def _searches(self) -> bool:
        """Tell whether our own scales under an importance alone are a choice."""
        return (
            self.method == "gptq"
            and self.settings.searched
            and isinstance(self.fmt, BlockFormat)
            and layout_of(self.fmt) is not None
        )

    def _fits(self, group: RowStatistics) -> bool:
        return (
            self.method == "gptq"
            and group.hessian is not None
            and group.tokens >= self.settings.fewest
            and gptq.can_compensate(self.fmt)
        )

    def _loss(self, rows: Floats, blocks: Bytes, judge: Floats) -> float:
        values = _decode(blocks, self.fmt, rows.shape[1])
        return _total(rows - values, judge)


def _judge(group: RowStatistics) -> Floats:
    """Give the Hessian to judge by, or its diagonal."""
    for hessian in (group.held_out, group.hessian):
        if hessian is not None:
            return hessian
    return group.importance


def _total(errors: Floats, judge: Floats) -> float:
    if judge.ndim == 1:
        return float(np.einsum("rc,c->", errors.astype(np.float64) ** 2, judge))
    return float(row_losses(errors, judge).sum())


def _combined(group: RowStatistics) -> Floats:
    """Give the Hessian of all inputs: those to fit and those held out, one in four."""
    assert group.hessian is not None
    if group.held_out is None:
        return group.hessian
    return np.float32(0.75) * group.hessian + np.float32(0.25) * group.held_out


def _round(weights: Floats, fmt: Format, importance: Floats | None, threads: int | None) -> Bytes:
    if isinstance(fmt, MLXFormat):
        return mlx.quantize_rows(weights, fmt, threads)
    assert isinstance(fmt, BlockFormat)
    return ggml.quantize_rows(weights, fmt, importance, threads)


def _decode(blocks: Bytes, fmt: Format, columns: int) -> Floats:
    if isinstance(fmt, MLXFormat):
        return mlx.dequantize_rows(blocks, fmt, columns)
    assert isinstance(fmt, BlockFormat)
    return ggml.dequantize_rows(blocks, fmt, columns)
