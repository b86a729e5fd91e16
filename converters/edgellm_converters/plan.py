"""From rules and names to a plan that is complete both ways, before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm_converters.architectures.base import TensorRule, Transform
from edgellm_converters.errors import IncompletePlanError

__all__ = ["Step", "make_plan"]

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of the target and the one of the source that it comes from.

    `shape` is that of both, in numpy's order; `head_dim` is for `Transform.ROPE`.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    transform: Transform = Transform.PLAIN
    head_dim: int = 0


def make_plan(
    path: Path,
    rules: Sequence[TensorRule],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    to_gguf: bool,
    unused: Sequence[str] = (),
) -> list[Step]:
    """Pair every tensor of the source with a rule, and every rule with a tensor.

    Args:
        path: the checkpoint, named in errors.
        rules: what the architecture has.
        shapes: the tensors of the source, in numpy's order.
        to_gguf: the direction.
        unused: endings of source names that are left out on purpose.

    Raises:
        IncompletePlanError: a rule without a tensor, a tensor without a rule, or a wrong shape.
    """
    steps = [
        Step(
            rule.hf if to_gguf else rule.gguf,
            rule.gguf if to_gguf else rule.hf,
            rule.shape,
            rule.transform,
            rule.head_dim,
        )
        for rule in rules
    ]
    missing = [step.source for step in steps if step.source not in shapes]
    if missing:
        raise IncompletePlanError(
            f"{path}: {_count(missing, 'tensor is', 'tensors are')} missing: {_some(missing)}",
            hint="the checkpoint is not whole, or its configuration is another model's",
        )
    wanted = {step.source for step in steps}
    extra = [
        name
        for name in shapes
        if name not in wanted and not any(name.endswith(ending) for ending in unused)
    ]
    if extra:
        raise IncompletePlanError(
            f"{path}: {_count(extra, 'tensor has', 'tensors have')} no place in the architecture: "
            f"{_some(extra)}"
        )
    for step in steps:
        if shapes[step.source] != step.shape:
            raise IncompletePlanError(
                f"{path}: the tensor {step.source} has the shape {list(shapes[step.source])}, but "
                f"the configuration asks for {list(step.shape)}"
            )
    return steps


def _count(names: Sequence[str], one: str, several: str) -> str:
    return f"1 {one}" if len(names) == 1 else f"{len(names)} {several}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ..."
