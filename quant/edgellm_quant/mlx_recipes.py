"""Which MLX format each tensor gets when a model is quantized for MLX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgellm_quant.errors import UnknownTypeError
from edgellm_quant.facts import Role, TensorFacts, is_quantizable, role_of
from edgellm_quant.formats import FORMATS, Format, MLXFormat

__all__ = ["MLX_BITS", "MLXChoice", "MLXRecipe", "choose_mlx_types"]

MLX_BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (128, 64, 32)
# What turns the last state into logits feels errors most; at 4 bits a tied embedding costs more
# than all other tensors together.
HEAD_BITS = 6


@dataclass(frozen=True, slots=True)
class MLXRecipe:
    """A wish: `mode` is "affine" with `bits` in groups of `group_size`, or "mxfp4".

    Raises:
        UnknownTypeError: MLX has no such combination.
    """

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"

    def __post_init__(self) -> None:
        self.format("F16")

    @property
    def name(self) -> str:
        """The name of the format that most tensors get."""
        return self.format("F16").name

    def format(self, scale: str, bits: int = 0, group_size: int = 0) -> MLXFormat:
        """Give the format with scales of a type ("F16"), or with other bits or groups."""
        if self.mode == "affine" or bits:
            return MLXFormat("affine", bits or self.bits, group_size or self.group_size, scale)
        return MLXFormat(self.mode, 4, 32, "U8")


@dataclass(frozen=True, slots=True)
class MLXChoice:
    """The format of one tensor; `reason` says why it is not the one that was `wanted`."""

    format: Format
    wanted: Format
    reason: str | None = None


def choose_mlx_types(
    recipe: MLXRecipe,
    tensors: Sequence[TensorFacts],
    architecture: str,
    dense: str,
) -> list[MLXChoice]:
    """Choose the format of every tensor.

    Matrices that recipes may quantize get the recipe's format, the output matrix (or the embedding
    that takes its part) at least 6 bits. Rows that its groups do not divide get smaller groups, and
    stay dense where none fits.

    Args:
        recipe: what is wished for.
        tensors: facts with GGUF names.
        architecture: general.architecture.
        dense: the float type of what stays dense, and of scales: F32, F16 or BF16.

    Raises:
        UnknownTypeError: `dense` is no such type.
    """
    if dense not in ("F32", "F16", "BF16"):
        raise UnknownTypeError(f"{dense!r} is no type of dense tensors")
    tied = all(role_of(each.name) is not Role.OUTPUT for each in tensors)
    last = Role.EMBEDDING if tied else Role.OUTPUT
    return [_choose(recipe, each, architecture, dense, last) for each in tensors]


def _choose(
    recipe: MLXRecipe, tensor: TensorFacts, architecture: str, dense: str, last: Role
) -> MLXChoice:
    plain = FORMATS[dense]
    if not is_quantizable(tensor, architecture):
        return MLXChoice(plain, plain)
    wanted = recipe.format(dense)
    if role_of(tensor.name) is last and wanted.bits < HEAD_BITS:
        wanted = recipe.format(dense, HEAD_BITS, wanted.group_size)
    columns = tensor.columns
    if wanted.holds(columns):
        return MLXChoice(wanted, wanted)
    reason = f"{columns} columns are no multiple of {wanted.group_size}"
    for group in GROUPS:
        if group < wanted.group_size and columns % group == 0:
            return MLXChoice(recipe.format(dense, wanted.bits, group), wanted, reason)
    return MLXChoice(plain, wanted, f"{columns} columns are no multiple of 32")
