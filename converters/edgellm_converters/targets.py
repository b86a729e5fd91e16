"""Which format each tensor of the target gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgellm_converters.architectures.base import Side
from edgellm_converters.errors import RequantizeError
from edgellm_converters.streams import quantized_formats, step_format
from edgellm_quant.errors import ImportanceRequiredError
from edgellm_quant.facts import is_quantizable
from edgellm_quant.formats import FORMATS, BlockFormat, Format, MLXFormat
from edgellm_quant.mlx_recipes import MLXRecipe, choose_mlx_types
from edgellm_quant.recipes import (
    RECIPES,
    TensorFacts,
    choose_types,
    get_recipe,
    needs_importance,
)
from edgellm_quant.repack import best_target

if TYPE_CHECKING:
    from edgellm_converters.plan import Step
    from edgellm_converters.sources import Plan, Source

__all__ = ["Choice", "Wish", "choose_formats", "refuse_requantizing"]

DENSE = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    `dtype` is "auto" or a float type, or "q8_0" for GGUF; `recipe` a name of
    `edgellm_quant.recipes`, for GGUF alone; `mlx` the same for MLX. `formats` are formats by the
    name of tensors in GGUF: those go before a recipe, and without one the other tensors stay as
    they are. `importance` tells that the encoder will have it, which changes some recipes.
    """

    dtype: str = "auto"
    recipe: str | None = None
    mlx: MLXRecipe | None = None
    requantize: bool = False
    formats: Mapping[str, Format] | None = None
    importance: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The format of each tensor, in the order of the plan.

    `recipe` is the name of what was asked for. `dense` is the type of most dense tensors,
    `file_type` general.file_type. `fallbacks` are (tensor, wanted, used, reason). `changes` tells
    whether any tensor changes its format.
    """

    formats: Sequence[Format]
    recipe: str | None = None
    dense: str = "F32"
    file_type: int = 0
    fallbacks: Sequence[tuple[str, str, str, str]] = ()
    changes: bool = True


def choose_formats(source: Source, plan: Plan, wish: Wish) -> Choice:
    """Choose the formats of a plan.

    Raises:
        RequantizeError: a quantized tensor would be quantized again and nobody asked for it.
        UnknownTypeError: the recipe is not known.
        ImportanceRequiredError: the recipe needs importance for some tensor.
        ShapeError: rows that no format of the recipe can hold.
    """
    if plan.target is Side.GGUF:
        return _for_gguf(source, plan, wish)
    return (_for_mlx if plan.target is Side.MLX else _for_hf)(source, plan, wish)


def _for_gguf(source: Source, plan: Plan, wish: Wish) -> Choice:
    """Choose by a recipe or dtype; "auto" keeps values, in a format of GGUF."""
    is_folder = source.side is not Side.GGUF
    present: list[Format] = [step_format(source.tensors, step) for step in plan.steps]
    if is_folder:
        # llama.cpp wants vectors, and small matrices that it adds to them or convolves them with,
        # in float32, whatever the folder has.
        present = [
            fmt
            if is_quantizable(TensorFacts(step.target, step.shape), plan.architecture)
            else FORMATS["F32"]
            for step, fmt in zip(plan.steps, present, strict=True)
        ]
    kept = [_in_gguf(fmt) for fmt in present]
    facts = [
        TensorFacts(step.target, step.shape, fmt.name)
        for step, fmt in zip(plan.steps, kept, strict=True)
    ]
    recipe = wish.recipe or (None if wish.dtype == "auto" else wish.dtype)
    if wish.formats is not None:
        given = [
            FORMATS[wish.formats[step.gguf].name] if step.gguf in wish.formats else fmt
            for step, fmt in zip(plan.steps, kept, strict=True)
        ]
        if not wish.requantize:
            refuse_requantizing(source, plan, given)
        return Choice(given, recipe, file_type=_file_type(facts, given))
    if recipe is None:
        return Choice(kept, file_type=_file_type(facts, kept), changes=is_folder)
    name = get_recipe(recipe).name
    chosen = choose_types(name, facts, plan.facts, has_importance=wish.importance)
    formats = [choice.format for choice in chosen]
    if not wish.requantize:
        refuse_requantizing(source, plan, formats)
    needing = needs_importance(name, facts, chosen, plan.architecture)
    if needing and not wish.importance:
        raise ImportanceRequiredError(
            f"{name} needs to know which weights matter (importance), for example for {needing[0]}",
            hint="choose a type that does without, such as Q2_K, Q3_K_M or IQ4_XS",
        )
    fallbacks = [
        (step.target, choice.wanted.name, choice.format.name, choice.reason)
        for step, choice in zip(plan.steps, chosen, strict=True)
        if choice.reason is not None
    ]
    return Choice(
        formats,
        name if wish.recipe else None,
        file_type=RECIPES[name].file_type,
        fallbacks=fallbacks,
    )


def _for_hf(source: Source, plan: Plan, wish: Wish) -> Choice:
    """Choose float types; "auto" keeps every value."""
    if wish.dtype != "auto":
        fmt = FORMATS[wish.dtype.upper()]
        return Choice([fmt] * len(plan.steps), dense=fmt.name)
    names = []
    for step in plan.steps:
        name = step_format(source.tensors, step).name
        names.append(name if name in DENSE and not step.computes else "F32")
    return Choice([FORMATS[name] for name in names], dense=names[0])


def _for_mlx(source: Source, plan: Plan, wish: Wish) -> Choice:
    """Choose by a recipe; "auto" takes quantized tensors over where MLX has a format for them.

    All that is dense has one float type: MLX computes in the widest that it meets.
    """
    present = [step_format(source.tensors, step) for step in plan.steps]
    dense = _dense_type(source, plan, present, wish.dtype)
    if wish.formats is not None:
        given = [
            _with_scales(wish.formats.get(step.gguf, FORMATS[dense]), dense) for step in plan.steps
        ]
        if not wish.requantize:
            refuse_requantizing(source, plan, given)
        return Choice(given, None if wish.mlx is None else wish.mlx.name, dense)
    if wish.mlx is None:
        formats = [
            _in_mlx(source, step, fmt, dense) for step, fmt in zip(plan.steps, present, strict=True)
        ]
        if wish.dtype != "auto":
            formats = [_with_scales(fmt, dense) for fmt in formats]
        return Choice(formats, dense=dense)
    facts = [
        TensorFacts(step.gguf, step.shape, fmt.name)
        for step, fmt in zip(plan.steps, present, strict=True)
    ]
    chosen = choose_mlx_types(wish.mlx, facts, plan.architecture, dense)
    formats = [choice.format for choice in chosen]
    if not wish.requantize:
        refuse_requantizing(source, plan, formats)
    fallbacks = [
        (step.target, choice.wanted.name, choice.format.name, choice.reason)
        for step, choice in zip(plan.steps, chosen, strict=True)
        if choice.reason is not None
    ]
    return Choice(formats, wish.mlx.name, dense, fallbacks=fallbacks)


def _in_gguf(fmt: Format) -> BlockFormat:
    """Give the format of GGUF that holds the values of another, exactly if there is one."""
    if isinstance(fmt, MLXFormat):
        found = best_target(fmt)
        # 8 bits with a scale for 32 values lose little against any format that has no equal.
        return FORMATS["Q8_0" if found is None else found[0].name]
    return FORMATS[fmt.name]


def _in_mlx(source: Source, step: Step, fmt: Format, dense: str) -> Format:
    """Give the format of MLX that holds the values of another, exactly if there is one."""
    if isinstance(fmt, MLXFormat):
        return fmt
    if not quantized_formats(source.tensors, step) or len(step.shape) == 1:
        return FORMATS[dense]
    found = best_target(fmt, dense)
    return MLXFormat("affine", 8, 32, dense) if found is None else found[0]


def _with_scales(fmt: Format, dense: str) -> Format:
    """Give an affine format of MLX with scales of a type; any other as it is."""
    return replace(fmt, scale=dense) if isinstance(fmt, MLXFormat) and fmt.has_biases else fmt


def _dense_type(source: Source, plan: Plan, present: Sequence[Format], dtype: str) -> str:
    """Give the type that most values of matrices have, those of MLX by their scales.

    Where neither tells, an MLX folder has that of its vectors, and the rest float16: the vectors of
    GGUF are float32 whatever the model was.
    """
    if dtype != "auto":
        return dtype.upper()
    kinds = [fmt.scale if isinstance(fmt, MLXFormat) else fmt.name for fmt in present]
    sizes = _sizes(
        (TensorFacts(step.gguf, step.shape, kind), FORMATS[kind])
        for step, kind in zip(plan.steps, kinds, strict=True)
        if kind in DENSE
    )
    if sizes:
        return sizes.most_common(1)[0][0]
    vectors = (kind for kind in kinds if kind in DENSE)
    return next(vectors, "F16") if source.side is Side.MLX else "F16"


def _file_type(facts: Sequence[TensorFacts], formats: Sequence[BlockFormat]) -> int:
    """Give the file type by what most elements of matrices are."""
    most = _sizes(zip(facts, formats, strict=True)).most_common(1)
    recipe = RECIPES.get(most[0][0]) if most else None
    return 0 if recipe is None else recipe.file_type


def _sizes(tensors: Iterable[tuple[TensorFacts, Format]]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for fact, fmt in tensors:
        if is_quantizable(fact, ""):
            size = 1
            for length in fact.shape:
                size *= length
            sizes[fmt.name] += size
    return sizes


def refuse_requantizing(source: Source, plan: Plan, formats: Sequence[Format | None]) -> None:
    """Refuse formats that would quantize a tensor of the source a second time.

    Args:
        source: what is read.
        plan: of the target.
        formats: of its tensors, in order; None for one that is quantized and not chosen yet.

    Raises:
        RequantizeError: see above.
    """
    again = [
        (step, old[0])
        for step, new in zip(plan.steps, formats, strict=True)
        if (old := quantized_formats(source.tensors, step))
        and (new is None or new.is_quantized)
        and old != [new]
    ]
    if again:
        step, stored = again[0]
        name = next(
            piece.source for piece in step.pieces if source.tensors.format(piece.source) == stored
        )
        raise RequantizeError(
            f"{source.path}: {len(again)} tensors are quantized already ({name} is {stored.name}); "
            "a second time loses more than one from the original would",
            hint="quantize the original weights, or insist: --requantize",
        )
