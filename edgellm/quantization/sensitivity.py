"""How much a model's predictions suffer from an error in each of its weights.

To second order the KL divergence between a model and the same with changed weights is a quadratic
form of the change, so that it grows in proportion to the squared error of a layer's output. The
sensitivity alpha of a tensor is that proportion: KL divergence (nats a token) per unit of relative
error E (see `edgellm_quant.distortion`).

It is measured for groups of tensors that play the same part in the same third of the layers: their
weights are replaced in the loaded model by coarsely rounded ones, the divergence on some text is
taken, and the weights are put back. Each tensor of a group is taken to have an equal share in it,
and its error to tell how that changes with the format. For a share in proportion to errors is wrong
where it matters: one token that every text begins with can outweigh all others in the inputs of a
layer, so that next to nothing of its output seems lost in any format. A tied embedding is looked up
and multiplied with in the same change, so that its sensitivity is of both. In front of the logits
errors are no measure: one input outweighs all others in them and hardly moves a probability. There
each format is measured itself.

Divergences of groups add up: on SmolLM2-135M their sum was 0.385 where all together had 0.348, on
Gemma 3 270M 0.260 and 0.295 (each with a standard error of 0.018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.backends.llama_cpp.swap import SwapModel
from edgellm.errors import BackendError, UsageError
from edgellm.evaluate.divergence import divergence
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_quant.distortion import relative_error, round_values
from edgellm_quant.facts import Role, layer_of, role_of
from edgellm_quant.formats import FORMATS, Format
from edgellm_quant.ggml import dequantize_rows, quantize_rows
from edgellm_quant.statistics import TensorStatistics

__all__ = [
    "Group",
    "Measured",
    "alphas_of",
    "default_alphas",
    "divergences",
    "groups_of",
    "measure",
    "measure_formats",
    "references",
]

Pairs = Sequence[tuple[Sequence[int], NDArray[np.float32]]]

# Reference logits that are kept, in bytes: longer texts are cut.
LOGITS_BYTES = 256 << 20
# Coarse enough to stand far above what rounding in float16 does, fine enough that the divergence
# still grows with the square; and rounded under importance as all formats are. It is quick.
COARSE = FORMATS["Q4_0"]
# A divergence above this no longer grows with the square: a finer rounding tells more then.
SATURATED = 0.1
FINE = FORMATS["Q5_0"]

_ALPHAS: Mapping[Role, tuple[float, float, float]] = {
    Role.QUERY: (0.056, 0.069, 0.035),
    Role.KEY: (0.091, 0.107, 0.066),
    Role.VALUE: (0.235, 0.189, 0.160),
    Role.ATTENTION_OUTPUT: (0.126, 0.151, 0.064),
    Role.GATE: (0.221, 0.141, 0.157),
    Role.UP: (0.278, 0.169, 0.218),
    Role.DOWN: (0.374, 0.418, 0.491),
    Role.EMBEDDING: (0.25, 0.25, 0.25),
}
_OTHER = 0.15
_LOGITS = 47.0
_LOGITS_PLAIN = 6.0  # of SmolLM2 alone

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are changed together: their part, and their third of the layers (or -1)."""

    role: Role
    third: int
    tensors: tuple[str, ...]

    @property
    def name(self) -> str:
        """What people see."""
        places = ("first", "middle", "last")
        return self.role.value + (f", {places[self.third]} third" if self.third >= 0 else "")


@dataclass(frozen=True, slots=True)
class Measured:
    """A group's measurement.

    Attributes:
        group: what was changed.
        errors: the relative error of each of its tensors, in the group's order.
        kld: mean KL divergence, nats a token.
        standard_error: of the mean, over tokens.
    """

    group: Group
    errors: tuple[float, ...]
    kld: float
    standard_error: float

    @property
    def alphas(self) -> dict[str, float]:
        """Nats a token for each unit of relative error of a tensor, by name.

        A tensor that the rounding cannot store has no error, and gets what the others have in the
        mean.
        """
        share = self.kld / len(self.errors)
        mean = sum(self.errors) / len(self.errors)
        return {
            name: share / (error or mean) if mean > 0 else 0.0
            for name, error in zip(self.group.tensors, self.errors, strict=True)
        }


def default_alphas(names: Sequence[str], weighed: Collection[str] = ()) -> dict[str, float]:
    """Give sensitivities without a measurement: those of other models.

    They are geometric means of what `measure` found on 768 and 512 tokens of the calibration texts
    for SmolLM2-135M-Instruct (30 layers of 576) and Gemma 3 270M (18 of 640), where the two lie
    within a factor of 3 of each other. What neither has is assumed: an output matrix counts as a
    tied embedding does, an embedding of its own as what the first layers compute with, and fused or
    unknown matrices as the middle of the others.

    Args:
        names: of the tensors.
        weighed: those whose errors are weighed by statistics of their inputs. In front of the
            logits one input outweighs all others, so that the same rounding has a far smaller
            weighed error than a plain one.
    """
    tied = all(role_of(name) is not Role.OUTPUT for name in names)
    found = {}
    for group in groups_of(names):
        logits = group.role is Role.OUTPUT or (group.role is Role.EMBEDDING and tied)
        for name in group.tensors:
            if logits:
                found[name] = _LOGITS if name in weighed else _LOGITS_PLAIN
            else:
                alphas = _ALPHAS.get(group.role, (_OTHER,) * 3)
                found[name] = alphas[max(0, group.third)]
    return found


def alphas_of(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, float]:
    """Give the sensitivity of each tensor: its group's, or what other models let expect.

    Expected ones are scaled by how this model compares with those on the layers that were measured.

    Args:
        measured: what `measure` gave.
        names: the tensors in question.
    """
    known = {name: alpha for each in measured for name, alpha in each.alphas.items()}
    expected = default_alphas(names, known.keys())
    ratios = [
        math.log(known[name] / expected[name])
        for name in names
        if layer_of(name) >= 0 and known.get(name, 0.0) > 0
    ]
    scale = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
    return {name: known.get(name, scale * expected[name]) for name in names}


def groups_of(names: Sequence[str]) -> tuple[Group, ...]:
    """Group the names of tensors by part and third of the layers."""
    layers = 1 + max((layer_of(name) for name in names), default=0)
    found: dict[tuple[Role, int], list[str]] = {}
    for name in names:
        at = layer_of(name)
        third = -1 if at < 0 else min(2, 3 * at // max(1, layers))
        found.setdefault((role_of(name), third), []).append(name)
    return tuple(Group(*key, tuple(tensors)) for key, tensors in found.items())


def measure(
    model: Path,
    names: Sequence[str],
    statistics: Mapping[str, TensorStatistics],
    chunks: Sequence[Sequence[int]],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Measured, ...]:
    """Measure the sensitivity of groups of tensors.

    The second half of each chunk is scored, and as many chunks as keep their logits in 256 MiB.

    Args:
        model: a GGUF file that has passed the safety check; its own weights are the reference.
        names: the tensors in question.
        statistics: of their inputs, by name; tensors without any count by plain squares.
        chunks: tokens of texts, all of one length, the start token included.
        threads: cores to use; None for all.
        progress: called with groups measured and groups in all.
        cancelled: asked between texts.

    Raises:
        UsageError: no text.
        BackendError: llama.cpp cannot run the model, or nothing is computed with a tensor.
        CancelledError: `cancelled` gave True.
    """
    if not chunks or min(map(len, chunks)) < 4:
        raise UsageError("there is no text to measure sensitivities on")
    groups = groups_of(names)
    with (
        GGUFCheckpoint(model) as checkpoint,
        closing(
            SwapModel(model, max(map(len, chunks)), threads=threads, cancelled=cancelled)
        ) as swapped,
    ):
        return _measure(checkpoint, swapped, groups, statistics, chunks, threads, progress)


def measure_formats(
    model: Path,
    formats: Mapping[str, Sequence[Format]],
    statistics: Mapping[str, TensorStatistics],
    chunks: Sequence[Sequence[int]],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, dict[Format, float]]:
    """Measure what the model loses with single tensors in single formats, in nats a token.

    Args:
        model: a GGUF file that has passed the safety check; its own weights are the reference.
        formats: by name, what the tensor may get.
        statistics, chunks, threads, cancelled: as for `measure`.
        progress: called with formats measured and formats in all.

    Raises:
        UsageError, BackendError, CancelledError: as for `measure`.
    """
    total = sum(map(len, formats.values()))
    found: dict[str, dict[Format, float]] = {name: {} for name in formats}
    done = 0
    with (
        GGUFCheckpoint(model) as checkpoint,
        closing(
            SwapModel(model, max(map(len, chunks)), threads=threads, cancelled=cancelled)
        ) as swapped,
    ):
        pairs = references(swapped, chunks)
        for name, each in formats.items():
            for fmt in each:
                if progress is not None:
                    progress(done, total)
                _, values = _changed(checkpoint, swapped, [name], statistics, pairs, fmt, threads)
                found[name][fmt] = max(0.0, float(values.mean(dtype=np.float64)))
                done += 1
    if progress is not None:
        progress(total, total)
    return found


def references(swapped: SwapModel, chunks: Sequence[Sequence[int]]) -> Pairs:
    """Give as many chunks as keep their logits in 256 MiB, with these: of their second halves."""
    each = 4 * swapped.vocabulary * (len(chunks[0]) - len(chunks[0]) // 2)
    chunks = chunks[: max(1, LOGITS_BYTES // each)]
    return [(chunk, np.array(swapped.logits(chunk, len(chunk) // 2))) for chunk in chunks]


def _measure(
    checkpoint: GGUFCheckpoint,
    swapped: SwapModel,
    groups: Sequence[Group],
    statistics: Mapping[str, TensorStatistics],
    chunks: Sequence[Sequence[int]],
    threads: int | None,
    progress: Progress | None,
) -> tuple[Measured, ...]:
    pairs = references(swapped, chunks)
    found = []
    for number, group in enumerate(groups):
        if progress is not None:
            progress(number, len(groups))
        errors, values = _changed(
            checkpoint, swapped, group.tensors, statistics, pairs, COARSE, threads
        )
        if values.mean() > SATURATED:
            errors, values = _changed(
                checkpoint, swapped, group.tensors, statistics, pairs, FINE, threads
            )
        deviation = float(values.std()) / len(values) ** 0.5
        found.append(Measured(group, errors, float(values.mean(dtype=np.float64)), deviation))
    if progress is not None:
        progress(len(groups), len(groups))
    return tuple(found)


def _changed(
    checkpoint: GGUFCheckpoint,
    swapped: SwapModel,
    names: Sequence[str],
    statistics: Mapping[str, TensorStatistics],
    pairs: Pairs,
    coarse: Format,
    threads: int | None,
) -> tuple[tuple[float, ...], NDArray[np.float32]]:
    """Replace tensors by rounded ones, and put them back.

    Returns:
        Their relative errors, and the KL divergence at each token.

    Raises:
        BackendError: logits that are not finite.
    """
    errors: list[float] = []
    try:
        for name in names:
            changed, lost = _coarse(checkpoint, name, statistics.get(name), coarse, threads)
            swapped.write(name, changed)
            errors.append(lost)
        values = divergences(swapped, pairs, threads)
    finally:
        for name in names:
            swapped.write(name, checkpoint.raw(name))
    return tuple(errors), values


def divergences(swapped: SwapModel, pairs: Pairs, threads: int | None) -> NDArray[np.float32]:
    """Give the KL divergence of a changed model at each token, in nats.

    Args:
        swapped: the model, with other weights than when `references` were taken.
        pairs: the references.
        threads: cores to use; None for all.

    Raises:
        BackendError: logits that are not finite.
    """
    values = np.concatenate(
        [
            _divergence(before, swapped.logits(chunk, len(chunk) // 2), chunk, threads)
            for chunk, before in pairs
        ]
    )
    if not np.isfinite(values).all():
        raise BackendError(f"{swapped.path}: logits that are not finite")
    return values


def _divergence(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    chunk: Sequence[int],
    threads: int | None,
) -> NDArray[np.float32]:
    # The last token's successor is not in the text: its own divergence needs none.
    targets = [*chunk[len(chunk) - len(before) + 1 :], chunk[0]]
    return divergence(before, after, targets, threads=threads).kld


def _coarse(
    checkpoint: GGUFCheckpoint,
    name: str,
    statistics: TensorStatistics | None,
    coarse: Format,
    threads: int | None,
) -> tuple[NDArray[np.uint8], float]:
    """Round a tensor coarsely: its blocks in its own format, and the relative error."""
    info = checkpoint.info(name)
    rows = checkpoint.load_rows(name, 0, info.rows, threads=threads or 1)
    if not coarse.holds(info.columns):
        return checkpoint.raw(name), 0.0  # nothing but floats can store it either
    pieces = [(0, info.rows, None)] if statistics is None else statistics.of_rows(0, info.rows)
    changed = np.concatenate(
        [round_values(rows[start:stop], coarse, group) for start, stop, group in pieces]
    )
    blocks = quantize_rows(changed, info.format, None, threads)
    stored = dequantize_rows(blocks, info.format, info.columns, threads)
    return blocks, relative_error(rows, stored, pieces)
