"""What every kind of source gives: a plan, and what stands beside the tensors of a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures import Architecture, Decoder
from edgellm_converters.architectures.base import TEXT, Keys, Side
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.plan import Step
from edgellm_converters.streams import Tensors
from edgellm_converters.targets import Choice
from edgellm_converters.writers.gguf import Entries
from edgellm_quant.recipes import ModelFacts

__all__ = [
    "DTYPE_NAMES",
    "QUANTIZATION_VERSION",
    "Files",
    "Plan",
    "Source",
    "check_mlx",
    "facts_for",
    "facts_of",
    "provenance",
]

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What config.json calls the types of dense tensors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written, before any of it is.

    `generated` are tensors of the target without one in the source; `facts` is what recipes ask.
    `notes` are sentences on what the target cannot say.
    """

    architecture: str
    target: Side
    steps: Sequence[Step]
    facts: ModelFacts
    generated: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Files:
    """What stands beside the tensors of a folder, by name: JSON, and files to be copied."""

    json: dict[str, object]
    copies: Mapping[str, Path] = field(default_factory=dict)


class Source(Protocol):
    """An open checkpoint that can be written as GGUF or as a folder.

    `files` are those that must not be written over.
    """

    path: Path
    files: tuple[Path, ...]
    side: Side
    tensors: Tensors
    alignment: int

    def model(self) -> tuple[Architecture, Decoder]:
        """Give the family and the measures of the model.

        Raises:
            UnsupportedError: the family is not known here.
        """
        ...

    def plan(self, target: Side) -> Plan:
        """Plan a target.

        Raises:
            IncompletePlanError: tensors without a place, or places without a tensor.
            UnsupportedError: the target cannot hold this model.
        """
        ...

    def entries(self, plan: Plan, choice: Choice) -> Entries:
        """Give the metadata of a GGUF file."""
        ...

    def files_for(self, plan: Plan, choice: Choice) -> Files:
        """Give what stands beside the tensors of a Hugging Face or MLX folder."""
        ...


def facts_of(architecture: str, metadata: Values) -> ModelFacts:
    """Give what recipes ask of a model, as the metadata of its GGUF file says it."""
    keys = metadata.under(f"{architecture}.")
    heads = _first(keys, "attention.head_count", 0)
    return ModelFacts(
        architecture,
        _first(keys, "block_count", 0),
        heads,
        _first(keys, "attention.head_count_kv", heads),
        _first(keys, "expert_count", 0),
    )


def facts_for(decoder: Decoder, architecture: Architecture) -> ModelFacts:
    """Give the same of a model that may come from elsewhere."""
    keys = {key: value for key, (_, value) in architecture.metadata(decoder).items()}
    return facts_of(architecture.name, Values(Path(), keys))


def _first(values: Values, key: str, default: int) -> int:
    """Read a number that may be a list by layer: the first one."""
    raw = values.raw(key)
    if isinstance(raw, list) and raw and isinstance(raw[0], int):
        return raw[0]
    return values.integer(key, default, least=0)


def check_mlx(path: Path, architecture: Architecture) -> None:
    """Refuse an architecture that mlx-lm cannot run.

    Raises:
        UnsupportedError: it has no such model.
    """
    if not architecture.in_mlx:
        raise UnsupportedError(
            f"{path}: mlx-lm has no model of the architecture {architecture.name}",
            hint="write GGUF: -o NAME.gguf",
        )


def provenance(path: Path, choice: Choice) -> Keys:
    """Say what made a GGUF file, out of what."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        made_by = version("edgellm")
    except PackageNotFoundError:
        made_by = "unknown"
    keys: Keys = {
        "edgellm.version": (TEXT, made_by),
        "edgellm.source": (TEXT, path.resolve().name),
    }
    if choice.recipe is not None:
        keys["edgellm.quantization"] = (TEXT, choice.recipe)
    return keys
