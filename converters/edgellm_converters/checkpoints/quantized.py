"""Checkpoints that are quantized already: which are decoded exactly, and which are refused.

What a folder is says `quantization_config` in its config.json. The weights of it are looked for by
their tensors, so that modules which the tool left alone stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgellm_converters.checkpoints.packed import AWQWeight, GPTQWeight, Pieces
from edgellm_converters.checkpoints.safetensors import SafetensorInfo, SafetensorsCheckpoint
from edgellm_converters.checkpoints.scaled import DecodedWeight, Float8Weight
from edgellm_converters.errors import UnsupportedError

if TYPE_CHECKING:
    from edgellm_converters.architectures.values import Values

__all__ = ["Decoded", "decode_checkpoint"]

ORIGINAL = "convert from the original weights, which the model's card names"
FLOAT8 = ("F8_E4M3", "F8_E5M2")
SCALES = ("_scale_inv", "_scale")
# Scales of activations and of the key-value cache; the graphs of llama.cpp compute in floats.
UNUSED_SCALES = (
    ".input_scale",
    ".input_scale_ub",
    ".output_scale",
    "activation_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
)


@dataclass(slots=True)
class Decoded:
    """How to read a checkpoint: weights to be computed, tensors that are not weights, notes."""

    weights: dict[str, DecodedWeight] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def decode_checkpoint(config: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:
    """Find the weights that are not stored as plain numbers.

    Args:
        config: config.json.
        checkpoint: the tensors beside it.

    Raises:
        ConfigError: `quantization_config` has a value of a wrong kind.
        UnsupportedError: a kind of quantization that is not decoded here, or tensors that do not
            fit together.
    """
    scheme = config.section("quantization_config")
    if scheme is None:
        return _float8(checkpoint, None, scaled=False)
    method = scheme.text("quant_method", "")
    reader = METHODS.get(method)
    if reader is None:
        raise _refused(scheme, f"by {method[:40]!r}" if method else "in a way it does not name")
    return reader(scheme, checkpoint)


# -- 8-bit floats ---------------------------------------------------------------------------------


def _fp8(scheme: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:
    return _float8(checkpoint, _block(scheme, "weight_block_size"))


def _fbgemm(scheme: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:  # noqa: ARG001
    return _float8(checkpoint, None)


def _modelopt(scheme: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:
    if (kind := scheme.text("quant_algo", "")) != "FP8":
        raise _refused(scheme, f"by modelopt as {kind[:40]!r}")
    return _float8(checkpoint, None)


def _compressed(scheme: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:
    kind = scheme.text("format", "")
    groups = scheme.section("config_groups")
    if kind not in ("float-quantized", "naive-quantized") or groups is None:
        raise _refused(scheme, f"by compressed-tensors as {kind[:40]!r}")
    if any(scheme.section("transform_config") or ()):
        raise _refused(scheme, "by compressed-tensors after a transform")
    blocks = set()
    for name in groups:
        group = groups.section(name)
        weights = None if group is None else group.section("weights")
        if weights is None or (weights.raw("type"), weights.raw("num_bits")) != ("float", 8):
            raise _refused(scheme, "by compressed-tensors to something else than 8-bit floats")
        blocks.add(_block(weights, "block_structure"))
    if len(blocks) > 1:
        raise _refused(scheme, "by compressed-tensors in blocks of several sizes")
    return _float8(checkpoint, blocks.pop() if blocks else None)


def _block(values: Values, key: str) -> tuple[int, int] | None:
    """Read the rows and columns of a block."""
    block = values.raw(key)
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2:
        raise values.wrong(key, "a list of two sizes")
    rows, columns = block
    for size in block:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1 << 20:
            raise values.wrong(key, "a list of two sizes")
    return rows, columns


def _float8(
    checkpoint: SafetensorsCheckpoint, block: tuple[int, int] | None, *, scaled: bool = True
) -> Decoded:
    """Decode all 8-bit floats; `scaled` says that a scale must be there."""
    found, tensors = Decoded(), checkpoint.tensors
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOAT8:
            continue
        scale = next((tensors[name + end] for end in SCALES if name + end in tensors), None)
        if scale is None and scaled:
            raise UnsupportedError(
                f"{tensor.path}: the tensor {name!r} is of type {tensor.dtype} and has no scale "
                f"({name}_scale_inv or {name}_scale)"
            )
        found.weights[name] = Float8Weight(checkpoint, tensor, scale, block)
        if scale is not None:
            found.hidden.add(scale.name)
    if not found.weights:
        return found
    found.notes.append(
        f"{len(found.weights)} tensors of 8-bit floats are decoded in float32; --dtype auto keeps "
        "them as bf16, in which such models are computed"
    )
    unused = {
        name
        for name, tensor in tensors.items()
        if name.endswith(UNUSED_SCALES) and math.prod(tensor.shape) == 1
    }
    if unused := unused - found.hidden:
        found.hidden |= unused
        found.notes.append(f"{len(unused)} scales of activations have no place and are left out")
    return found


# -- packed integers ------------------------------------------------------------------------------


def _gptq(scheme: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:
    bits = scheme.integer("bits")
    version = _gptq_version(scheme)
    if bits not in (2, 4, 8) or version not in ("gptq", "gptq_v2"):
        raise _refused(scheme, f"by GPTQ to {bits} bits in the layout {version[:40]!r}")
    group_size = _group_size(scheme)

    def weight(pieces: Pieces) -> DecodedWeight:
        second = version == "gptq_v2"
        return GPTQWeight(checkpoint, pieces, bits, group_size, second_version=second)

    return _packed(scheme, checkpoint, weight, groups=True)


def _gptq_version(scheme: Values) -> str:
    if scheme.raw("is_marlin_format"):
        return "marlin"
    names = {scheme.text(key) for key in ("checkpoint_format", "format") if key in scheme}
    if len(names) > 1:
        raise scheme.wrong("format", "the same as checkpoint_format")
    return names.pop() if names else "gptq"


def _awq(scheme: Values, checkpoint: SafetensorsCheckpoint) -> Decoded:
    bits = scheme.integer("bits" if "bits" in scheme else "w_bit")
    version = scheme.text("version", "gemm").lower()
    if bits != 4 or version != "gemm" or not scheme.flag("zero_point", True):
        raise _refused(scheme, f"by AWQ to {bits} bits in the layout {version[:40]!r}")
    group_size = _group_size(scheme)
    return _packed(
        scheme, checkpoint, lambda pieces: AWQWeight(checkpoint, pieces, group_size), groups=False
    )


def _group_size(scheme: Values) -> int:
    key = "group_size" if "group_size" in scheme else "q_group_size"
    return -1 if scheme.raw(key) == -1 else scheme.integer(key)


def _packed(
    scheme: Values,
    checkpoint: SafetensorsCheckpoint,
    weight: Callable[[Pieces], DecodedWeight],
    *,
    groups: bool,
) -> Decoded:
    """Decode every matrix that is stored as qweight, qzeros and scales."""
    found, tensors = Decoded(), checkpoint.tensors
    for name, codes in tensors.items():
        base = name.removesuffix(".qweight")
        if base == name:
            continue
        parts = {end: tensors.get(f"{base}.{end}") for end in ("qzeros", "scales", "g_idx")}
        zeros, scales, order = parts.values()
        if f"{base}.weight" in tensors:
            raise UnsupportedError(f"{codes.path}: there are both {name!r} and '{base}.weight'")
        if zeros is None or scales is None:
            missing = "qzeros" if zeros is None else "scales"
            raise UnsupportedError(f"{codes.path}: there is no {base}.{missing} beside {name!r}")
        used: list[SafetensorInfo] = [codes, zeros, scales]
        if groups and order is not None:
            used.append(order)
        found.weights[f"{base}.weight"] = weight(
            Pieces(codes, zeros, scales, order if groups else None)
        )
        found.hidden |= {piece.name for piece in used}
    if found.weights:
        method = scheme.text("quant_method").upper()
        found.notes.append(
            f"{len(found.weights)} tensors of {method} are decoded to the values they stand for; "
            "they were quantized once already, and the original weights would be better"
        )
    return found


def _refused(scheme: Values, how: str) -> UnsupportedError:
    return UnsupportedError(
        f"{scheme.path}: the checkpoint is quantized {how} (quantization_config), which is not "
        f"read here; 8-bit floats with scales, GPTQ and AWQ are",
        hint=ORIGINAL,
    )


METHODS: Mapping[str, Callable[[Values, SafetensorsCheckpoint], Decoded]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "awq": _awq,
}
