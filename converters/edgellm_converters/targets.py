"""Which format each tensor of the target gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm_converters.errors import RequantizeError
from edgellm_converters.streams import step_format
from edgellm_quant.errors import ImportanceRequiredError
from edgellm_quant.facts import is_quantizable
from edgellm_quant.formats import FORMATS, BlockFormat
from edgellm_quant.recipes import (
    RECIPES,
    TensorFacts,
    choose_types,
    get_recipe,
    needs_importance,
)

if TYPE_CHECKING:
    from edgellm_converters.sources import Plan, Source

__all__ = ["Choice", "choose_dtypes", "choose_formats"]

FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


@dataclass(frozen=True, slots=True)
class Choice:
    """The format of each tensor, in the order of the plan.

    `file_type` is general.file_type. `fallbacks` are (tensor, wanted, used, reason). `changes`
    tells whether any tensor changes its format.
    """

    formats: Sequence[BlockFormat]
    file_type: int
    recipe: str | None
    fallbacks: Sequence[tuple[str, str, str, str]] = ()
    changes: bool = True


def choose_formats(
    source: Source, plan: Plan, dtype: str, recipe: str | None, *, requantize: bool
) -> Choice:
    """Choose the formats of a GGUF file: by `recipe`, else by `dtype`.

    Raises:
        RequantizeError: a quantized tensor would be quantized again and nobody asked for it.
        UnknownTypeError: the recipe is not known.
        ImportanceRequiredError: the recipe needs importance for some tensor.
        ShapeError: rows that no format of the recipe can hold.
    """
    stored = [step_format(source.tensors, step) for step in plan.steps]
    is_folder = source.path.is_dir()
    # llama.cpp wants vectors in float32, whatever the folder has them in.
    present = [
        FORMATS["F32"] if is_folder and len(step.shape) == 1 else fmt
        for step, fmt in zip(plan.steps, stored, strict=True)
    ]
    facts = [
        TensorFacts(step.target, step.shape, fmt.name)
        for step, fmt in zip(plan.steps, present, strict=True)
    ]
    if recipe is None and dtype == "auto":
        return Choice(
            present,
            _file_type(facts, present),
            None,
            changes=is_folder,
        )
    name = get_recipe(recipe or dtype).name
    chosen = choose_types(name, facts, plan.facts)
    formats = [choice.format for choice in chosen]
    if not requantize:
        _refuse_requantizing(source.path, plan, present, formats)
    needing = needs_importance(name, facts, chosen, plan.architecture)
    if needing:
        raise ImportanceRequiredError(
            f"{name} needs to know which weights matter (importance), for example for {needing[0]}",
            hint="choose a type that does without, such as Q2_K, Q3_K_M or IQ4_XS",
        )
    fallbacks = [
        (step.target, choice.wanted.name, choice.format.name, choice.reason)
        for step, choice in zip(plan.steps, chosen, strict=True)
        if choice.reason is not None
    ]
    return Choice(formats, RECIPES[name].file_type, name if recipe else None, fallbacks)


def _file_type(facts: Sequence[TensorFacts], formats: Sequence[BlockFormat]) -> int:
    """Give the file type of float tensors by what most matrix elements are."""
    sizes: Counter[str] = Counter()
    for fact, fmt in zip(facts, formats, strict=True):
        if is_quantizable(fact, ""):
            size = 1
            for length in fact.shape:
                size *= length
            sizes[fmt.name] += size
    most = sizes.most_common(1)
    return FILE_TYPES.get(most[0][0], 0) if most else 0


def _refuse_requantizing(
    path: Path, plan: Plan, present: Sequence[BlockFormat], formats: Sequence[BlockFormat]
) -> None:
    again = [
        (step.source, old.name)
        for step, old, new in zip(plan.steps, present, formats, strict=True)
        if old.is_quantized and new.is_quantized and old != new
    ]
    if again:
        raise RequantizeError(
            f"{path}: {len(again)} tensors are quantized already ({again[0][0]} is {again[0][1]}); "
            "a second time loses more than one from the original would",
            hint="quantize the original weights, or insist: --requantize",
        )


def choose_dtypes(source: Source, plan: Plan, dtype: str) -> list[str]:
    """Choose F32, F16 or BF16 for each tensor of a folder; "auto" keeps every value."""
    if dtype != "auto":
        return [dtype.upper()] * len(plan.steps)
    found = []
    for step in plan.steps:
        name = step_format(source.tensors, step).name
        keeps = name in FILE_TYPES and not step.computes
        found.append(name if keeps else "F32")
    return found
