"""What the kinds of adapter have in common: pairs of small matrices and their scales."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgellm_converters.adapters.lowrank import Floats
from edgellm_converters.architectures.base import Side
from edgellm_converters.checkpoints.gguf_header import TensorInfo
from edgellm_converters.checkpoints.safetensors import SafetensorInfo
from edgellm_converters.errors import IncompletePlanError, NotFiniteError, UnsupportedError

__all__ = ["CONFIG", "Adapter", "Pair", "pair_up"]

CONFIG = "adapter_config.json"
FLOATS = ("F64", "F32", "F16", "BF16")
SHOWN = 5


class Loader(Protocol):
    """A checkpoint that gives tensors by their names."""

    def load(self, name: str) -> Floats:
        """Read a tensor as float32."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two matrices that change the weight of one module: `scale * B @ A`.

    `a` and `b` are their names in the file, `a_shape` (rank, inputs) and `b_shape` (outputs, rank)
    their shapes, after those that the file has the other way round (`turned` names them) were
    turned.
    Of stacked experts, both have the number of experts before that. `embedding` tells whether A
    has a column for each token; None where the file does not tell.
    """

    module: str
    a: str
    b: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    scale: float
    dtype: str
    turned: str = ""
    embedding: bool | None = None

    @property
    def rank(self) -> int:
        """The inner size."""
        return self.b_shape[-1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter whose headers and configuration are checked.

    `side` is the layout whose names its modules have. `base` is what it says of its base model, and
    `architecture` the base's, where a GGUF file says it.
    """

    path: Path
    side: Side
    pairs: tuple[Pair, ...]
    checkpoint: Loader
    base: str | None
    architecture: str | None = None

    def read(self, pair: Pair) -> tuple[Floats, Floats]:
        """Read A (rank, inputs) and B (outputs, rank) as float32.

        Raises:
            CorruptFileError: the file has become shorter since it was opened.
            NotFiniteError: a value is NaN or infinite.
        """
        a, b = (self._load(name) for name in (pair.a, pair.b))
        if "a" in pair.turned:
            a = a.swapaxes(-1, -2)
        if "b" in pair.turned:
            b = b.swapaxes(-1, -2)
        return a, b

    def _load(self, name: str) -> Floats:
        values = self.checkpoint.load(name)
        if not np.isfinite(values).all():
            raise NotFiniteError(
                f"{self.path}: the tensor {name} has a value that is NaN or infinite",
                hint="the training may have diverged; take an earlier state of the adapter",
            )
        return values


def pair_up(
    path: Path,
    tensors: Iterable[SafetensorInfo | TensorInfo],
    ends: Mapping[str, str],
    types: Collection[str] = FLOATS,
) -> dict[str, dict[str, str]]:
    """Sort tensors by module: {module: {role: name}}.

    Args:
        path: the file, for errors.
        tensors: what it holds.
        ends: the role of a tensor by the end of its name.
        types: those that it may have.

    Raises:
        UnsupportedError: a tensor that is none of a pair, or of no floating-point type.
        IncompletePlanError: one without its partner, or no tensor at all.
    """
    found: dict[str, dict[str, str]] = {}
    others = []
    for info in tensors:
        name = info.name
        end = next((end for end in ends if name.endswith(end)), None)
        if end is None:
            others.append(name)
            continue
        stored = info.dtype if isinstance(info, SafetensorInfo) else info.format.name
        if stored not in types:
            raise UnsupportedError(
                f"{path}: the tensor {name} is of type {stored}; {', '.join(types)} are known"
            )
        found.setdefault(name.removesuffix(end), {})[ends[end]] = name
    if others:
        raise UnsupportedError(
            f"{path}: {_some(others)}: only pairs of LoRA matrices can be converted",
            hint="merge the adapter with the program that made it, and convert the merged model",
        )
    for roles in found.values():
        if len(roles) != 2 or set(roles) not in (({"a", "b"}), ({"embedding_a", "embedding_b"})):
            raise IncompletePlanError(f"{path}: {next(iter(roles.values()))} has no partner")
    if not found:
        raise IncompletePlanError(f"{path}: the adapter holds no tensors")
    return found


def check_rank(path: Path, pair: Pair, rank: int) -> None:
    """Compare the shapes of a pair with each other and with what the configuration says.

    Raises:
        IncompletePlanError: they do not fit.
    """
    fits = (
        len(pair.a_shape) == len(pair.b_shape)
        and len(pair.a_shape) in (2, 3)
        and pair.a_shape[-2] == pair.b_shape[-1] == rank
        and pair.a_shape[:-2] == pair.b_shape[:-2]
    )
    if not fits:
        shown = [
            list(reversed(shape) if role in pair.turned else shape)
            for role, shape in (("a", pair.a_shape), ("b", pair.b_shape))
        ]
        raise IncompletePlanError(
            f"{path}: {pair.a} and {pair.b} have the shapes {shown[0]} and {shown[1]}, which is no "
            f"pair of rank {rank}"
        )


def widest(infos: Iterable[SafetensorInfo]) -> str:
    """Give the type that holds the values of all: F32, F16 or BF16."""
    kinds = {info.dtype for info in infos}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"F16", "BF16"} else "F32"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
