"""A budget as people give it, and the formats that serve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.quantization.effort import Effort

if TYPE_CHECKING:
    from edgellm.quantization.budget import Choice, Losses
    from edgellm_quant.statistics import TensorStatistics

__all__ = ["Allocator", "Goal"]

DEFAULT_CONTEXT = 4096
# What sensitivities are measured on: 1,024 scored tokens in chunks of 512.
SENSITIVITY_CHUNKS = 4
# What gptq leaves of the divergence that rounding with importance has, where there is a Hessian: in
# one format for all of SmolLM2's layers 0.55 (IQ4_NL), 0.41 (Q4_0), 0.44 (Q5_0).
COMPENSATED = 0.5

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a model may take; exactly one of `bits`, `bpw`, `size`, `device` and `max_kld`.

    Attributes:
        bits: as many bytes as the named recipe of so many bits takes.
        bpw: bits of the whole file for each weight.
        size: bytes of the whole file.
        device: a profile that it has to fit, with a context of `context` tokens.
        context: None takes 4096.
        max_kld: mean KL divergence, nats a token, that must not be exceeded.
    """

    bits: int | None = None
    bpw: float | None = None
    size: int | None = None
    device: str | None = None
    context: int | None = None
    max_kld: float | None = None


class Allocator:
    """Chooses formats for a goal: what tensors lose is measured once, and asked for often.

    Args:
        goal: what is wished for.
        reference: a GGUF file of floats that has passed the safety check.
        statistics: of the inputs of its tensors, by name.
        chunks: tokens to measure sensitivities on; none takes those of other models.
        overhead: bytes of the output that are no tensor data, at most.
        mlx: for a folder of MLX, the type of what stays dense there.
        method: how values will be chosen.
        effort: how many formats are tried.
        threads: cores to use; None for all.
        progress: told what is measured.
        cancelled: asked often.

    Raises:
        ConvertersError, QuantError, BackendError: as in `budget.losses_of` and
            `sensitivity.measure`.
    """

    def __init__(
        self,
        goal: Goal,
        reference: Path,
        statistics: Mapping[str, TensorStatistics],
        chunks: Sequence[Sequence[int]],
        overhead: int,
        mlx: str | None,
        method: str,
        effort: Effort,
        threads: int | None,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        from edgellm.quantization.budget import compensated, losses_of, measured_in
        from edgellm.quantization.sensitivity import alphas_of, measure, measure_formats
        from edgellm_converters.architectures.values import Values
        from edgellm_converters.checkpoints.gguf_header import read_header
        from edgellm_converters.sources.base import facts_of
        from edgellm_quant.facts import TensorFacts, is_quantizable, layer_of

        self.goal = goal
        self.header = read_header(reference)
        metadata = self.header.metadata
        architecture = str(metadata.get("general.architecture"))
        self.model = facts_of(architecture, Values(reference, metadata))
        alphas = None
        if chunks:
            facts = [TensorFacts(each.name, each.shape) for each in self.header.tensors]
            names = [each.name for each in facts if is_quantizable(each, architecture)]
            measured = measure(
                reference,
                [name for name in names if name in statistics],
                statistics,
                chunks[:SENSITIVITY_CHUNKS],
                threads=threads,
                progress=lambda done, total: progress("measuring sensitivities", done, total),
                cancelled=cancelled,
            )
            alphas = alphas_of(measured, names)
        losses = losses_of(
            reference,
            statistics,
            alphas=alphas,
            effort=effort.name,  # type: ignore[arg-type]
            mlx=mlx,
            progress=lambda done, total: progress("weighing formats", done, total),
        )
        if chunks:
            # Tensors outside the layers: an embedding, an output matrix.
            apart = {
                name: [fmt for fmt in errors if fmt.is_quantized]
                for name, errors in losses.errors.items()
                if layer_of(name) < 0 and name in statistics
            }
            klds = measure_formats(
                reference,
                apart,
                statistics,
                chunks[:SENSITIVITY_CHUNKS],
                threads=threads,
                progress=lambda done, total: progress("measuring formats", done, total),
                cancelled=cancelled,
            )
            losses = measured_in(losses, klds)
        self.losses: Losses = losses
        if method == "gptq":
            self.losses = compensated(losses, COMPENSATED, statistics.keys())
        self.overhead = overhead
        self.mlx = mlx
        self.limit = 0
        self.tried: list[tuple[float, float]] = []

    def first(self) -> Choice:
        """Choose the formats to begin with.

        Raises:
            DoesNotFitError: there are none so small, or so good.
        """
        from edgellm.device.memory import Runtime
        from edgellm.quantization import budget

        goal, tensors = self.goal, self.losses.tensors
        if goal.max_kld is not None:
            return budget.choose_within(self.losses, goal.max_kld)
        if goal.bits is not None:
            limit = budget.from_bits(
                goal.bits, tensors, self.model, alignment=self.losses.alignment
            )
        elif goal.bpw is not None:
            limit = budget.from_bpw(goal.bpw, tensors, self.overhead)
        elif goal.size is not None:
            limit = budget.from_size(goal.size, self.overhead)
        else:
            runtime = Runtime(goal.context or DEFAULT_CONTEXT)
            limit = budget.from_fit(goal.device or "", self.header.metadata, runtime)
        self.limit = limit
        return budget.choose(self.losses, limit)

    def next(self, predicted: float, measured: float) -> Choice | None:
        """Choose again after a measurement; None where that one is what was wished for.

        Under a budget of bytes the second candidate is the largest named recipe that fits in it: a
        prediction can be wrong, most of all for text that the model was not trained on.
        """
        from edgellm.quantization import budget

        if self.goal.max_kld is None:
            if self.tried or self.mlx is not None:
                return None
            self.tried.append((predicted, measured))
            return budget.largest_recipe(self.losses, self.limit, self.model)
        self.tried.append((predicted, measured))
        limit = budget.next_limit(self.goal.max_kld, self.tried)
        return None if limit is None else budget.choose_within(self.losses, limit)
