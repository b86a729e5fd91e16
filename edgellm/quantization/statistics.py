"""Statistics of what a model's weights meet on calibration text, gathered from the running model.

Importance is the mean of x_j^2 over the inputs x of a weight, as llama-imatrix gathers it; a
Hessian is the mean of x x' (see `edgellm_quant.statistics`). The rows of attention values are
judged by what is left of their errors after attention has averaged them: for the query heads h
that share a key-value head,

    H = 1/tokens * sum over h of (A_h X)' (A_h X)

with A_h the probabilities (tokens, tokens) and X the inputs (tokens, columns). With plain X'X the
divergence of a model with such values grows rather than shrinks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgellm.backends.llama_cpp.observe import ObservedModel
from edgellm.errors import UsageError
from edgellm.quantization.inputs import Input, find_inputs
from edgellm.quantization.watch import Unit, Watch, Watched
from edgellm_quant.statistics import TensorStatistics

__all__ = ["ATTENTION_TOKENS", "HELD_OUT", "Gathered", "Kind", "collect"]

Kind = Literal["importance", "hessian"]

HELD_OUT = 4  # every so many-th chunk is held out
ATTENTION_TOKENS = 12_288  # what the values' Hessians are gathered from: they cost much
LOOKED_AT = 32  # tokens that are evaluated to see the graph


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one pass over the calibration text gave.

    Attributes:
        statistics: by the names of tensors; those that share an input share the arrays.
        notes: by the names of tensors: what could not be gathered, and what stands in its place.
        tokens: how many were evaluated.
        seconds: how long that took.
        passed: number of this pass, from 1.
        passes: how many there are.
    """

    statistics: dict[str, TensorStatistics]
    notes: dict[str, str]
    tokens: int
    seconds: float
    passed: int
    passes: int


def collect(
    model: Path,
    chunks: Sequence[Sequence[int]],
    wanted: Mapping[str, Kind],
    *,
    memory: int,
    held_out: int = HELD_OUT,
    attention_tokens: int = ATTENTION_TOKENS,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Gathered]:
    """Run a model on text and gather the statistics of its weights, some layers at a time.

    Tensors come in the order in which the model computes with them, as many in one pass as have
    their matrices in `memory`; a pass stops each text after its last layer. Who has the statistics
    of some tensors already (or has used them) leaves those out of `wanted`: passes and layers that
    only they need are not computed.

    Of an expert that fewer tokens came to than it has columns only the importance is given; see
    `edgellm.quantization.sums.means_of_experts`.

    Args:
        model: a GGUF file with float weights that has passed the safety check.
        chunks: tokens of each text, which is a sequence of its own: what the model wants around a
            text (a beginning-of-sequence token, say) is added where it is not there. The first
            token counts as others do. An encoder sees each as a whole, without a causal mask.
        wanted: what to gather, by the names of tensors: "importance" alone, or "hessian" too.
        memory: bytes that the matrices may take. The model itself and what llama.cpp needs to
            evaluate it are not counted.
        held_out: every so many-th chunk is kept apart, to judge by; 0 for none.
        attention_tokens: how many tokens the values' Hessians are gathered from at least, chunks
            taken evenly from all.
        threads: how many to evaluate with; None for one on each physical core.
        progress: called with tokens evaluated and tokens in all, over all passes.
        cancelled: asked often; CancelledError where it says yes.

    Yields:
        The statistics of a pass. They are not kept here: the next pass uses the memory again.

    Raises:
        UsageError: no text, or tokens beyond the vocabulary.
        ContextOverflowError: a chunk is longer than the model's context.
        BackendError: llama.cpp cannot run the model, or inputs are not finite.
        CancelledError: `cancelled` said so.
    """
    if not chunks:
        raise UsageError("no calibration text")
    longest = max(len(chunk) for chunk in chunks)
    with closing(
        ObservedModel(model, longest=longest, threads=threads, cancelled=cancelled)
    ) as observed:
        texts = [observed.sequence(chunk) for chunk in chunks]
        total = sum(len(text) for text in texts)
        held = _held(len(texts), held_out)
        inputs, notes = find_inputs(observed.graph(texts[0][:LOOKED_AT]), wanted)
        plan = _plan(inputs, wanted, memory, bool(held), notes)
        work = _Work(observed, texts, held, _chosen(texts, held, attention_tokens))
        for number, units in enumerate(plan):
            began = time.monotonic()

            def report(done: int, before: int = number * total) -> None:
                if progress is not None:
                    progress(before + done, len(plan) * total)

            statistics = work.run(units, report)
            seconds = time.monotonic() - began
            told = {name: notes[name] for name in statistics if name in notes}
            if number == 0:  # and of those that no pass has
                told |= {name: note for name, note in notes.items() if _unmet(name, inputs)}
            yield Gathered(statistics, told, total, seconds, number + 1, len(plan))
            del statistics


def _unmet(name: str, inputs: Sequence[Input]) -> bool:
    return all(weight.name != name for each in inputs for weight in each.weights)


def _held(count: int, held_out: int) -> frozenset[int]:
    """Number the chunks that are held out: every so many-th."""
    return frozenset(range(held_out - 1, count, held_out)) if held_out else frozenset()


def _chosen(texts: Sequence[Sequence[int]], held: frozenset[int], tokens: int) -> frozenset[int]:
    """Number the chunks for attention: evenly from those to fit and from those held out."""
    total = sum(len(text) for text in texts)
    share = min(1.0, tokens / total)
    found: set[int] = set()
    for numbers in ([n for n in range(len(texts)) if n not in held], sorted(held)):
        count = min(len(numbers), max(1, math.ceil(len(numbers) * share)))
        found |= {numbers[at * len(numbers) // count] for at in range(count)}
    return frozenset(found)


def _plan(
    inputs: Sequence[Input],
    wanted: Mapping[str, Kind],
    memory: int,
    holding: bool,
    notes: dict[str, str],
) -> list[list[Unit]]:
    """Fill passes with inputs, in order, so that the matrices of each fit in memory."""
    plan: list[list[Unit]] = [[]]
    taken = largest = 0
    for each in inputs:
        unit = _unit(each, wanted, memory, holding, notes)
        matrix = 4 * each.columns**2 if unit.bytes else 0
        if plan[-1] and taken + unit.bytes + max(largest, matrix) > memory:
            plan.append([])
            taken = largest = 0
        plan[-1].append(unit)
        taken, largest = taken + unit.bytes, max(largest, matrix)
    return plan


def _unit(
    each: Input, wanted: Mapping[str, Kind], memory: int, holding: bool, notes: dict[str, str]
) -> Unit:
    matrix = 4 * each.columns**2
    kept = matrix * (2 if holding else 1)  # to fit, and held out
    names = [weight for weight in each.weights if wanted[weight.name] == "hessian"]
    attentions = {weight.name: weight.attention for weight in names if weight.attention}
    # A fused matrix has rows that no attention averages; one for the values alone has none.
    plain = any(not weight.attention or weight.attention.first_row for weight in names)
    size = kept * sum(attention.groups for attention in attentions.values())
    if plain:
        size += kept * each.matrices
    if attentions and size + matrix > memory:
        notes |= dict.fromkeys(
            attentions,
            f"its values are taken as they are, without the attention's average: that needs "
            f"{(size + matrix) / 1e6:.0f} MB",
        )
        attentions, plain = {}, True
        size = kept * each.matrices
    if plain and size + matrix > memory:
        notes |= {
            weight.name: f"importance alone: its matrices need {(size + matrix) / 1e6:.0f} MB"
            for weight in names
        }
        plain, size = False, 0
    return Unit(each, plain, attentions, size)


class _Work:
    """Runs passes over the texts."""

    def __init__(
        self,
        observed: ObservedModel,
        texts: Sequence[Sequence[int]],
        held: frozenset[int],
        chosen: frozenset[int],
    ) -> None:
        self._observed = observed
        self._texts = texts
        self._held = held
        self._chosen = chosen

    def run(
        self, units: Sequence[Unit], progress: Callable[[int], None]
    ) -> dict[str, TensorStatistics]:
        """Gather the statistics of some inputs."""
        if not units:
            return {}
        watched = [Watched(unit) for unit in units]
        done = 0
        for number, text in enumerate(self._texts):
            attending = number in self._chosen
            watch = Watch(watched, number in self._held, attending)
            self._observed.clear()
            for start in range(0, len(text), self._observed.batch):
                part = text[start : start + self._observed.batch]
                watch.begin()
                self._observed.evaluate(part, watch.ask, watch.see)
                watch.end()
                done += len(part)
                progress(done)
        found: dict[str, TensorStatistics] = {}
        for each in watched:
            found |= each.statistics()
        return found
