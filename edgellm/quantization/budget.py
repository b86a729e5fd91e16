"""Bytes for a model, and the formats of its tensors that lose least under them.

What a tensor loses in a format is predicted as its sensitivity times its relative error there, and
predictions of tensors add up (see `sensitivity` and `edgellm_quant.distortion`). A budget counts
tensor data with its padding, as it lies in the file; what else the file holds is its overhead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgellm.device.memory import Runtime, weight_budget
from edgellm.device.profiles import get_profile
from edgellm.errors import DoesNotFitError, UsageError
from edgellm.quantization.sensitivity import default_alphas
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_quant.allocate import Allocation, Option, allocate, padded_bytes, smallest_within
from edgellm_quant.candidates import Effort, candidates, mlx_candidates
from edgellm_quant.distortion import Encode, round_values, sampled_errors, sampled_rows
from edgellm_quant.errors import BudgetError, QuantError
from edgellm_quant.facts import ModelFacts, TensorFacts, is_quantizable
from edgellm_quant.formats import FORMATS, Format, get_format
from edgellm_quant.recipes import BITS, RECIPES, choose_types
from edgellm_quant.statistics import TensorStatistics

__all__ = [
    "ALIGNMENT",
    "Choice",
    "Losses",
    "choose",
    "choose_within",
    "compensated",
    "from_bits",
    "from_bpw",
    "from_fit",
    "from_size",
    "largest_recipe",
    "losses_of",
    "measured_in",
    "next_limit",
]

ALIGNMENT = 32  # of tensors in a GGUF file that does not say otherwise
MAX_BPW = 64.0
# A file is near enough to a limit of divergence if it uses this much of it.
NEAR = 0.95
# The most that one step of the search moves a prediction.
STEP = 4.0

# Bases of recipes for models that were trained that way, or that lose too much to be offered.
BY_NAME_ALONE = frozenset({"Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "IQ1_S", "IQ1_M"})

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Losses:
    """What there is to choose from: all tensors of a file.

    Attributes:
        tensors: every tensor; `source` is the format of those that keep theirs.
        errors: by name, the relative error in each format that the tensor may get. A tensor that is
            not here keeps its format and costs nothing.
        alphas: by name, the sensitivity: nats a token for each unit of relative error.
        measured: whether sensitivities were measured on this model.
        alignment: of tensors in the file.
    """

    tensors: tuple[TensorFacts, ...]
    errors: Mapping[str, Mapping[Format, float]]
    alphas: Mapping[str, float]
    measured: bool = False
    alignment: int = ALIGNMENT

    def options(self) -> list[list[Option]]:
        """Give the options of each tensor, in order."""
        return [
            [
                Option(fmt, padded_bytes(fmt, each.shape, self.alignment), loss)
                for fmt, loss in self._losses(each)
            ]
            for each in self.tensors
        ]

    def _losses(self, tensor: TensorFacts) -> list[tuple[Format, float]]:
        errors = self.errors.get(tensor.name)
        if errors is None:
            return [(get_format(tensor.source), 0.0)]
        alpha = self.alphas[tensor.name]
        return [(fmt, alpha * error) for fmt, error in errors.items()]


@dataclass(frozen=True, slots=True)
class Choice:
    """The format of every tensor.

    Attributes:
        formats: by name, those of tensors that keep their format among them.
        nbytes: of tensor data, padding included.
        kld: mean KL divergence that is predicted, nats a token.
        gap: how much better any other choice can be at most, as a share of `kld` (or of `nbytes`,
            for `choose_within`); 0 where this one is proved to be the best.
        notes: sentences for people.
    """

    formats: Mapping[str, Format]
    nbytes: int
    kld: float
    gap: float
    notes: tuple[str, ...] = ()


def losses_of(
    reference: Path,
    statistics: Mapping[str, TensorStatistics],
    *,
    alphas: Mapping[str, float] | None = None,
    effort: Effort = "balanced",
    also: Sequence[str] = (),
    mlx: str | None = None,
    encode: Encode = round_values,
    progress: Progress | None = None,
) -> Losses:
    """Measure what each tensor of a GGUF file loses in each format that it may get.

    Args:
        reference: a GGUF file with the weights to quantize, which has passed the safety check.
        statistics: of the inputs of tensors, by name; those without any get no format that needs
            importance.
        alphas: measured sensitivities by name (see `sensitivity.measure`); None takes those of
            other models.
        effort: how many formats are tried.
        also: formats of GGUF to try beyond those, by name.
        mlx: the type of scales and of what stays dense (F16, BF16 or F32) for a folder of MLX,
            whose formats are tried then; None for a GGUF file.
        encode: how values will be chosen.
        progress: called with tensors measured and tensors in all.

    Raises:
        CorruptFileError: the file changed since it was checked.
        QuantError: values that no format holds.
    """
    with GGUFCheckpoint(reference) as checkpoint:
        metadata = checkpoint.header.metadata
        architecture = str(metadata.get("general.architecture"))
        given = metadata.get("general.alignment")
        alignment = given if isinstance(given, int) else ALIGNMENT
        infos = [checkpoint.info(name) for name in checkpoint.names]
        facts = tuple(TensorFacts(info.name, info.shape, mlx or info.format.name) for info in infos)
        changing = [each for each in facts if is_quantizable(each, architecture)]
        errors: dict[str, dict[Format, float]] = {}
        for number, fact in enumerate(changing):
            if progress is not None:
                progress(number, len(changing))
            known = statistics.get(fact.name)
            rows = checkpoint.info(fact.name).rows
            sample = [
                (_rows(checkpoint, fact.name, chosen), group)
                for chosen, group in sampled_rows(rows, fact.columns, known)
            ]
            weighed = known is not None and all(
                group is not None and bool(group.importance.any()) for _, group in sample
            )
            tried: Sequence[Format] = (
                candidates(fact, effort, importance=weighed, also=also)
                if mlx is None
                else mlx_candidates(fact, effort, dense=mlx)
            )
            errors[fact.name] = sampled_errors(sample, tried, encode)
    if progress is not None:
        progress(len(changing), len(changing))
    names = [each.name for each in changing]
    felt = (
        default_alphas(names, statistics.keys())
        if alphas is None
        else {name: alphas[name] for name in names}
    )
    return Losses(facts, errors, felt, alphas is not None, alignment if mlx is None else 1)


def _rows(
    checkpoint: GGUFCheckpoint, name: str, chosen: np.ndarray[tuple[int], np.dtype[np.intp]]
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.concatenate(
        [checkpoint.load_rows(name, int(at), int(at) + 1) for at in chosen]
    )  # (rows, columns)


def measured_in(losses: Losses, klds: Mapping[str, Mapping[Format, float]]) -> Losses:
    """Give losses in which those of some tensors are measured divergences, not predictions."""
    return replace(
        losses,
        errors={**losses.errors, **klds},
        alphas={**losses.alphas, **dict.fromkeys(klds, 1.0)},
    )


def compensated(losses: Losses, share: float, names: Collection[str]) -> Losses:
    """Give losses where error compensation leaves a share of those of some tensors.

    Args:
        losses: of rounding with importance.
        share: what is left, from 0 to 1.
        names: the tensors whose inputs are known.
    """
    errors = {
        name: {fmt: error * (share if name in names else 1.0) for fmt, error in each.items()}
        for name, each in losses.errors.items()
    }
    return replace(losses, errors=errors)


def choose(losses: Losses, budget: int) -> Choice:
    """Choose the formats that lose least in `budget` bytes of tensor data.

    Raises:
        DoesNotFitError: the smallest formats take more.
    """
    options = losses.options()
    smallest = sum(min(option.nbytes for option in each) for each in options)
    try:
        found = allocate(options, budget)
    except BudgetError as error:
        raise DoesNotFitError(
            f"the budget is {max(0, budget)} bytes for tensors, and the smallest formats take "
            f"{smallest}",
            hint="give more bytes, or a smaller model",
        ) from error
    choice = _choice(losses, options, found, found.cost)
    best = sum(min(option.cost for option in each) for each in options)
    if found.cost <= best and found.nbytes < budget:
        names = ", ".join(sorted({_best(each).format.name for each in options if len(each) > 1}))
        note = (
            f"{budget - found.nbytes} of {budget} bytes are left: every tensor has the best format "
            f"({names})"
        )
        return _noted(choice, note)
    return choice


def choose_within(losses: Losses, kld: float) -> Choice:
    """Choose the formats of the fewest bytes whose predicted divergence is `kld` at most.

    A prediction is not a measurement: see `next_limit` for what to ask for next.

    Raises:
        UsageError: the limit is not positive.
        DoesNotFitError: the best formats lose more.
    """
    if not (math.isfinite(kld) and kld > 0):
        raise UsageError(f"a mean KL divergence of {kld} nats is no limit")
    options = losses.options()
    best = sum(min(option.cost for option in each) for each in options)
    try:
        found = smallest_within(options, kld)
    except BudgetError as error:
        raise DoesNotFitError(
            f"a mean KL divergence of {kld:g} nats is asked for, and the best formats are "
            f"predicted to have {best:.3g}",
            hint="allow more, or convert to F16",
        ) from error
    return _choice(losses, options, found, float(found.nbytes))


def _best(options: Sequence[Option]) -> Option:
    return min(options, key=lambda option: (option.cost, option.nbytes))


def _choice(
    losses: Losses, options: Sequence[Sequence[Option]], found: Allocation, reached: float
) -> Choice:
    formats = {
        tensor.name: each[at].format
        for tensor, each, at in zip(losses.tensors, options, found.choices, strict=True)
    }
    gap = 0.0 if found.optimal or reached <= 0 else (reached - found.bound) / reached
    return Choice(formats, found.nbytes, found.cost, gap)


def _noted(choice: Choice, note: str) -> Choice:
    return Choice(choice.formats, choice.nbytes, choice.kld, choice.gap, (*choice.notes, note))


def largest_recipe(losses: Losses, budget: int, model: ModelFacts) -> Choice | None:
    """Give the formats of the largest named recipe that fits in `budget` bytes of tensor data.

    What was not measured counts as nothing in the prediction. None where no recipe is so small.
    """
    found: Choice | None = None
    for name, recipe in RECIPES.items():
        if not FORMATS[recipe.base].is_quantized or recipe.base in BY_NAME_ALONE:
            continue
        try:
            chosen = choose_types(name, losses.tensors, model, has_importance=True)
        except QuantError:  # rows that it cannot hold
            continue
        formats: dict[str, Format] = {
            tensor.name: choice.format
            for tensor, choice in zip(losses.tensors, chosen, strict=True)
        }
        nbytes = sum(
            padded_bytes(formats[tensor.name], tensor.shape, losses.alignment)
            for tensor in losses.tensors
        )
        if nbytes <= budget and (found is None or nbytes > found.nbytes):
            kld = sum(
                losses.alphas[tensor] * errors.get(formats[tensor], 0.0)
                for tensor, errors in losses.errors.items()
            )
            found = Choice(formats, nbytes, kld, 0.0)
    return found


def from_bits(
    bits: int, tensors: Sequence[TensorFacts], model: ModelFacts, *, alignment: int = ALIGNMENT
) -> int:
    """Give the bytes of tensor data that the named recipe for so many bits takes for this model.

    Args:
        bits: 2 to 8; see `edgellm_quant.recipes.BITS`.
        tensors: all tensors of the file.
        model: what the recipe's rules ask for.
        alignment: of tensors in the file.

    Raises:
        UsageError: there is no recipe for so many bits.
        QuantError: the recipe does not fit the tensors.
    """
    if bits not in BITS:
        raise UsageError(f"{bits} bits are not offered", hint=f"known: {', '.join(map(str, BITS))}")
    chosen = choose_types(BITS[bits], tensors, model)
    return sum(
        padded_bytes(choice.format, tensor.shape, alignment)
        for tensor, choice in zip(tensors, chosen, strict=True)
    )


def from_bpw(bits_per_weight: float, tensors: Sequence[TensorFacts], overhead: int = 0) -> int:
    """Give the bytes of tensor data in a file of so many bits a weight.

    Args:
        bits_per_weight: of the whole file, as `edgellm show` counts them.
        tensors: all tensors of the file.
        overhead: bytes of the file that are no tensor data.

    Raises:
        UsageError: a number out of its range.
        DoesNotFitError: the overhead alone is larger.
    """
    if not 0 < bits_per_weight <= MAX_BPW:  # NaN fails too
        raise UsageError(f"{bits_per_weight} bits a weight are out of range")
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    return from_size(int(weights * bits_per_weight / 8), overhead)


def from_size(size: int, overhead: int = 0) -> int:
    """Give the bytes of tensor data in a file of `size` bytes.

    Args:
        size: bytes of the whole file.
        overhead: bytes of it that are no tensor data: metadata, names and shapes.

    Raises:
        DoesNotFitError: the overhead alone is larger.
    """
    if size <= overhead:
        raise DoesNotFitError(
            f"a file of {size} bytes is asked for, and what it holds beside tensors takes "
            f"{overhead}"
        )
    return size - overhead


def from_fit(device: str, metadata: Mapping[str, object], runtime: Runtime) -> int:
    """Give the bytes of tensor data that a device has room for.

    Args:
        device: a name of `edgellm.device.profiles`.
        metadata: of the model's GGUF file.
        runtime: the context, the type of its cache, and how it is run.

    Raises:
        UsageError: no such device, or metadata that do not tell the size of the cache.
        DoesNotFitError: cache and buffers alone do not fit.
    """
    profile = get_profile(device)
    return weight_budget(profile.available, metadata, runtime, profile.name)


def next_limit(limit: float, tried: Sequence[tuple[float, float]]) -> float | None:
    """Give the prediction to ask for next, so that what is measured comes just below a limit.

    The first step scales by measured / predicted; further ones draw a line through the last two
    points in logarithms (a secant). A step moves the prediction by a factor of 4 at most.

    Args:
        limit: of the measured mean KL divergence, nats a token.
        tried: (predicted, measured) of each file so far, in order; both positive.

    Returns:
        What to give `choose_within`; None where the last file is near enough below the limit.
    """
    if not tried:
        return limit
    predicted, measured = tried[-1]
    if NEAR * limit <= measured <= limit:
        return None
    slope = 1.0
    if len(tried) > 1:
        before, reached = tried[-2]
        if before != predicted and reached != measured:
            slope = math.log(measured / reached) / math.log(predicted / before)
            slope = min(2.0, max(0.5, slope))
    aim = limit * (1 + NEAR) / 2
    factor = math.exp(math.log(aim / measured) / slope)
    return predicted * min(STEP, max(1 / STEP, factor))
