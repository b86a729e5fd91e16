"""Named choices of a format for every tensor, as llama.cpp's quantizer makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from edgellm_quant.errors import ShapeError, UnknownTypeError
from edgellm_quant.facts import ModelFacts, Role, TensorFacts, is_quantizable, layer_of, role_of
from edgellm_quant.fallbacks import fall_back
from edgellm_quant.formats import FORMATS, BlockFormat, get_format
from edgellm_quant.mixes import DENSE_MIXES, Place

__all__ = [
    "ALIASES",
    "BITS",
    "RECIPES",
    "ModelFacts",
    "Recipe",
    "TensorFacts",
    "TypeChoice",
    "choose_types",
    "get_recipe",
    "needs_importance",
]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named choice: `file_type` is general.file_type in GGUF, `base` what most tensors get."""

    name: str
    file_type: int
    base: str
    description: str


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """The format of one tensor.

    `wanted` is what the recipe asks for; `format` differs from it where the rows do not fit, and
    then `reason` says why ("576 columns are no multiple of 256").
    """

    format: BlockFormat
    wanted: BlockFormat
    reason: str | None = None


_ALL = (
    Recipe("F32", 0, "F32", "float32"),
    Recipe("F16", 1, "F16", "float16"),
    Recipe("BF16", 32, "BF16", "bfloat16"),
    Recipe("Q8_0", 7, "Q8_0", "8 bits; hardly to be told from float16"),
    Recipe("Q6_K", 18, "Q6_K", "6 bits"),
    Recipe("Q5_K_M", 17, "Q5_K", "5 bits, delicate tensors in 6"),
    Recipe("Q5_K_S", 16, "Q5_K", "5 bits"),
    Recipe("Q5_1", 9, "Q5_1", "5 bits, older format with minima"),
    Recipe("Q5_0", 8, "Q5_0", "5 bits, older format"),
    Recipe("Q4_K_M", 15, "Q4_K", "4 bits, delicate tensors in 6; the usual choice"),
    Recipe("Q4_K_S", 14, "Q4_K", "4 bits, a few tensors in 5"),
    Recipe("IQ4_NL", 25, "IQ4_NL", "4 bits on uneven levels, blocks of 32"),
    Recipe("IQ4_XS", 30, "IQ4_XS", "4 bits on uneven levels, blocks of 256"),
    Recipe("Q4_1", 3, "Q4_1", "4 bits, older format with minima"),
    Recipe("Q4_0", 2, "Q4_0", "4 bits, older format; fast on ARM"),
    Recipe("MXFP4_MOE", 38, "MXFP4", "experts in 4-bit floating point, the rest in Q8_0"),
    Recipe("Q3_K_L", 13, "Q3_K", "3 bits, delicate tensors in 5"),
    Recipe("Q3_K_M", 12, "Q3_K", "3 bits, delicate tensors in 4 and 5"),
    Recipe("Q3_K_S", 11, "Q3_K", "3 bits"),
    Recipe("IQ3_M", 27, "IQ3_S", "3 bits on a grid, delicate tensors in 4"),
    Recipe("IQ3_S", 26, "IQ3_S", "3 bits on a grid"),
    Recipe("IQ3_XS", 22, "IQ3_S", "3 bits on a grid, many tensors in fewer; needs importance"),
    Recipe("IQ3_XXS", 23, "IQ3_XXS", "3 bits on a small grid; needs importance"),
    Recipe("Q2_K", 10, "Q2_K", "2 bits, delicate tensors in 3 and 4"),
    Recipe("Q2_K_S", 21, "Q2_K", "2 bits; needs importance"),
    Recipe("Q2_0", 41, "Q2_0", "2 bits in groups of 64, for models trained that way"),
    Recipe("IQ2_M", 29, "IQ2_S", "2.5 bits on a grid, delicate tensors in 3; needs importance"),
    Recipe("IQ2_S", 28, "IQ2_XS", "2.3 bits on a grid, delicate tensors in 3; needs importance"),
    Recipe("IQ2_XS", 20, "IQ2_XS", "2.3 bits on a grid; needs importance"),
    Recipe("IQ2_XXS", 19, "IQ2_XXS", "2 bits on a grid; needs importance"),
    Recipe("TQ2_0", 37, "TQ2_0", "ternary digits in 2 bits, for models trained that way"),
    Recipe("TQ1_0", 36, "TQ1_0", "ternary digits in 1.7 bits, for models trained that way"),
    Recipe("IQ1_M", 31, "IQ1_M", "1.75 bits on a grid; needs importance"),
    Recipe("IQ1_S", 24, "IQ1_S", "1.6 bits on a grid; needs importance"),
    Recipe("Q1_0", 40, "Q1_0", "signs in groups of 128, for models trained that way"),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})
"""Recipes by their upper-case name, from many bits to few."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
)
"""Short names, as llama-quantize takes them."""

BITS: Mapping[int, str] = MappingProxyType(
    # Nothing stores 7 bits; of the neighbours Q6_K (6.56) and Q8_0 (8.5) the first is nearer.
    {
        2: "Q2_K",
        3: "Q3_K_M",
        4: "Q4_K_M",
        5: "Q5_K_M",
        6: "Q6_K",
        7: "Q6_K",
        8: "Q8_0",
    }
)
"""The recipe for a wish in whole bits; all of them do without importance."""

# Formats that lose too much without importance; Q2_K only as the base of Q2_K_S.
_NEED_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})

# Tensors that stay at Q8_0 in every quantizing recipe: parts of names by architecture.
_KEEP_Q8: Mapping[str, tuple[str, ...]] = {
    "glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj"),
}

# Architectures whose model of this many layers is a 70B one, the heads of which share values.
_LAYERS_OF_70B: Mapping[str, int] = {
    "deci": 80,
    "jais2": 68,
    "llama": 80,
    "llama-embed": 80,
    "olmo": 80,
    "qwen2": 80,
}


def get_recipe(name: str) -> Recipe:
    """Give the recipe of that name or alias, in any case.

    Raises:
        UnknownTypeError: there is none; the hint names the nearest one.
    """
    wanted = name.upper()
    wanted = ALIASES.get(wanted, wanted)
    if wanted in RECIPES:
        return RECIPES[wanted]
    import difflib

    near = difflib.get_close_matches(wanted, RECIPES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known types: {', '.join(RECIPES)}"
    raise UnknownTypeError(f"no quantization type is named {name!r}", hint=hint)


def choose_types(
    recipe_name: str,
    tensors: Sequence[TensorFacts],
    model: ModelFacts,
    *,
    has_importance: bool = False,
) -> list[TypeChoice]:
    """Choose the format of every tensor.

    Args:
        recipe_name: a recipe or an alias, in any case.
        tensors: all tensors of the model, in any order; some rules count tensors, so leaving
            tensors out can change the choice for others.
        model: what the rules ask about the model.
        has_importance: whether importance will be given to the encoder; it changes some choices.

    Returns:
        One choice for each tensor, in the order given. Tensors that are never quantized (norms,
        vectors, ...) keep their source format.

    Raises:
        UnknownTypeError: a recipe or source format that is not known.
        ShapeError: rows that no format of the recipe can hold.
        QuantError: a tensor of a mixture of experts that names no layer.
    """
    recipe = get_recipe(recipe_name)
    order = sorted(range(len(tensors)), key=lambda at: _file_order(tensors[at].name))
    seen: Counter[Role] = Counter()
    roles = [role_of(tensor.name) for tensor in tensors]
    counts = Counter(roles)
    tied = counts[Role.OUTPUT] == 0
    chosen: dict[int, TypeChoice] = {}
    for at in order:
        tensor, role = tensors[at], roles[at]
        if not is_quantizable(tensor, model.architecture):
            source = get_format(tensor.source)
            chosen[at] = TypeChoice(source, source)
            continue
        base = FORMATS[recipe.base]
        if not base.is_quantized:
            chosen[at] = TypeChoice(base, base)
            continue
        if role is Role.EMBEDDING and tied:
            role = Role.OUTPUT
        count = counts[Role.VALUE] if role is Role.VALUE else model.n_layers
        place = Place(tensor.name, seen[role], count, model, has_importance)
        seen[role] += 1
        try:
            chosen[at] = _choose(recipe, base, tensor, role, place)
        except ShapeError as error:
            raise ShapeError(f"{tensor.name}: {error}", hint=error.hint) from None
    return [chosen[at] for at in range(len(tensors))]


def needs_importance(
    recipe_name: str,
    tensors: Sequence[TensorFacts],
    choices: Sequence[TypeChoice],
    architecture: str = "",
) -> list[str]:
    """Name the tensors that must not be encoded without importance.

    llama.cpp refuses these; ggml's encoders would take some of them and give poor results.
    """
    recipe = get_recipe(recipe_name)
    needing = _NEED_IMPORTANCE | ({"Q2_K"} if recipe.name == "Q2_K_S" else set())
    return [
        tensor.name
        for tensor, choice in zip(tensors, choices, strict=True)
        if choice.format.name in needing
        and role_of(tensor.name) not in (Role.OUTPUT, Role.EMBEDDING)
        and is_quantizable(tensor, architecture)
    ]


def _file_order(name: str) -> tuple[int, bytes]:
    """Give the order in which llama.cpp counts tensors: no layer, then by layer, then by name."""
    return layer_of(name), name.encode()


def _choose(
    recipe: Recipe, base: BlockFormat, tensor: TensorFacts, role: Role, place: Place
) -> TypeChoice:
    architecture = place.model.architecture
    if any(part in tensor.name for part in _KEEP_Q8.get(architecture, ())):
        wanted = "Q8_0"
    elif recipe.name == "MXFP4_MOE":
        wanted = "MXFP4" if _holds_experts(tensor, role, architecture) else "Q8_0"
    elif role is Role.OUTPUT:
        wanted = "Q8_0" if architecture == "falcon" else DENSE_MIXES[recipe.name].output
        if not base.holds(tensor.columns):
            # Decided by the base format's block here, not by that of the wanted one.
            used, _ = fall_back(FORMATS["Q8_0"], tensor.columns)
            reason = f"{tensor.columns} columns are no multiple of {base.block_size}"
            return TypeChoice(used, FORMATS[wanted], None if used.name == wanted else reason)
    else:
        wanted = _from_mix(recipe, role, place)
    used, why = fall_back(FORMATS[wanted], tensor.columns)
    return TypeChoice(used, FORMATS[wanted], why)


def _from_mix(recipe: Recipe, role: Role, place: Place) -> str:
    mix = DENSE_MIXES[recipe.name]
    rules = mix.rules.get(role, ())
    wanted = next((rule.format for rule in rules if rule.when(place)), recipe.base)
    lift = mix.lift_70b and role is Role.VALUE and _is_70b(place.model)
    return "Q5_K" if lift and wanted in ("Q3_K", "Q4_K") else wanted


def _holds_experts(tensor: TensorFacts, role: Role, architecture: str) -> bool:
    if role is Role.OUTPUT or not tensor.is_stack:
        return False
    # Bailing's third generation stacks attention projections too.
    return architecture != "bailingmoe3" or role in (Role.UP, Role.GATE, Role.DOWN)


def _is_70b(model: ModelFacts) -> bool:
    if model.n_layers != _LAYERS_OF_70B.get(model.architecture):
        return False
    return not model.architecture.startswith("llama") or model.n_heads != model.n_heads_kv
