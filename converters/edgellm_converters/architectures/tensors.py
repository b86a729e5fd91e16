"""Tensors of a family as data, and the rules that they stand for in a model of given sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from edgellm_converters.architectures.base import Decoder, Place, Side, TensorRule, Transform

__all__ = [
    "ATTENTION",
    "EMBEDDING",
    "FINAL_NORM",
    "GATED",
    "HEAD",
    "Flag",
    "Part",
    "Stack",
    "Tensor",
    "expand",
    "expand_stack",
]

Flag: TypeAlias = bool | str | Callable[[Decoder, int], bool]
"""True, False, the name of a field of `Decoder` that is set ("!" before it for its opposite), or a
function of the decoder and the number of the layer (-1 outside of layers)."""


class Part(NamedTuple):
    """Rows of a tensor on both sides: the first ones, and how many.

    `hf_rows` are those on Hugging Face's side where they are not as many (transposed).
    """

    gguf: int
    hf: int
    rows: int
    hf_rows: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of all layouts; names are without their `.weight`.

    Args:
        gguf: the name in GGUF, in a layer without `blk.N.`.
        hf: the same in a Hugging Face folder; "{}" stands for the number of an expert, or of a head
            in a matrix of norms, where each has a tensor of its own and GGUF stacks them.
        shape: sizes by name (see `sizes_of`) or in figures, as GGUF has them, in numpy's order.
        transform: what happens to the values on their way to GGUF.
        bias: whether a vector `.bias` of as many values as the weight has rows stands beside it.
        when: whether the tensor is there at all.
        hf_shape: the sizes in a Hugging Face folder where they are others.
        parts: where rows lie on both sides, if GGUF's are not Hugging Face's as they are.
        mlx: the name in MLX where it is not Hugging Face's.
        mlx_as: the side whose shape, order of rows and transform MLX shares.
        mlx_shape: the sizes in MLX where they are others.
        suffix: the end of the weight's name on all sides.
        hf_suffix: the same on Hugging Face's side, and in MLX as there, where it is another.
    """

    gguf: str
    hf: str
    shape: str
    transform: Transform = Transform.PLAIN
    bias: Flag = False
    when: Flag = True
    hf_shape: str = ""
    parts: Callable[[Decoder], Iterable[Part]] | None = None
    mlx: str = ""
    mlx_as: Side = Side.HF
    mlx_shape: str = ""
    suffix: str = ".weight"
    hf_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers of one kind: where they stand ("{}" for the number), and the tensors of each.

    `layers` names the field of `Decoder` that counts them.
    """

    gguf: str
    hf: str
    tensors: tuple[Tensor, ...]
    layers: str = "layers"
    mlx: str = ""


def sizes_of(decoder: Decoder) -> dict[str, int]:
    """Give the sizes that shapes name.

    hidden, query (all heads), key (all key-value heads), qkv (the three together), head, heads,
    feed, gate_up (twice feed), gate_up_shared, three_hidden, vocabulary, positions (rows of learned
    ones); latent_query, latent_keys, latent_pair and latent_values (rows or columns of the matrices
    of latent attention); and every whole number of `Decoder` by the name of its field.
    """
    d = decoder
    query, key = d.heads * d.head_dim, d.heads_kv * d.head_dim
    fields = {
        name: value
        for name in type(d).__dataclass_fields__
        if isinstance(value := getattr(d, name), int) and not isinstance(value, bool)
    }
    return fields | {
        "query": query,
        "key": key,
        "qkv": query + 2 * key,
        "head": d.head_dim,
        "feed": d.feed_forward,
        "gate_up": 2 * d.feed_forward,
        "positions": d.context + d.position_offset,
        "gate_up_shared": 2 * d.shared_feed,
        "three_hidden": 3 * d.hidden,
        "latent_query": d.heads * (d.plain_dim + d.rotary),
        "latent_keys": d.key_latent + d.rotary,
        "latent_pair": d.heads * (d.plain_dim + d.value_dim),
        "latent_values": d.heads * d.value_dim,
    }


def expand(tensor: Tensor, decoder: Decoder) -> list[TensorRule]:
    """Give the rules of a tensor that stands outside of layers."""
    return _expand(tensor, decoder, sizes_of(decoder), -1, ("", "", ""))


def expand_stack(stack: Stack, decoder: Decoder) -> list[TensorRule]:
    """Give the rules of all tensors of all layers of a stack, one layer after the other."""
    sizes = sizes_of(decoder)
    found = []
    for number in range(getattr(decoder, stack.layers)):
        prefixes = (
            stack.gguf.format(number),
            stack.hf.format(number),
            (stack.mlx or stack.hf).format(number),
        )
        for tensor in stack.tensors:
            found += _expand(tensor, decoder, sizes, number, prefixes)
    return found


def holds(flag: Flag, decoder: Decoder, layer: int = -1) -> bool:
    """Tell whether a flag is set for a decoder, or for one of its layers."""
    if isinstance(flag, bool):
        return flag
    if callable(flag):
        return flag(decoder, layer)
    return bool(getattr(decoder, flag.lstrip("!"))) is not flag.startswith("!")


def _expand(
    tensor: Tensor,
    decoder: Decoder,
    sizes: Mapping[str, int],
    layer: int,
    prefixes: tuple[str, str, str],
) -> list[TensorRule]:
    if not holds(tensor.when, decoder, layer):
        return []
    names = [
        prefix + name
        for prefix, name in zip(
            prefixes, (tensor.gguf, tensor.hf, tensor.mlx or tensor.hf), strict=True
        )
    ]
    shape = _shape(tensor.shape, sizes)
    hf_shape = _shape(tensor.hf_shape, sizes) or (
        shape[::-1] if tensor.transform is Transform.TRANSPOSED else shape
    )
    as_gguf = tensor.mlx_as is Side.GGUF
    mlx_shape = _shape(tensor.mlx_shape, sizes) or (shape if as_gguf else hf_shape)
    hf_end = tensor.suffix if tensor.hf_suffix is None else tensor.hf_suffix
    ends = (tensor.suffix, hf_end, tensor.suffix if as_gguf else hf_end)
    weights = [name + end for name, end in zip(names, ends, strict=True)]
    if "{}" in tensor.hf:
        return _experts(weights, shape) if len(shape) == 3 else _vectors(weights, shape)
    head = decoder.head_dim if tensor.transform is Transform.ROPE else 0
    parts = list(tensor.parts(decoder)) if tensor.parts is not None else [None]
    rules = [
        _rule(weights, (shape, hf_shape, mlx_shape), part, tensor.transform, head, as_gguf=as_gguf)
        for part in parts
    ]
    if holds(tensor.bias, decoder, layer):
        biases = [f"{name}.bias" for name in names]
        vectors = (shape[:1], _bias_shape(tensor, shape, hf_shape), shape[:1])
        # A bias has nothing to transpose.
        change = Transform.PLAIN if tensor.transform is Transform.TRANSPOSED else tensor.transform
        rules += [_rule(biases, vectors, part, change, head, as_gguf=as_gguf) for part in parts]
    return rules


def _bias_shape(
    tensor: Tensor, shape: tuple[int, ...], hf_shape: tuple[int, ...]
) -> tuple[int, ...]:
    return shape[:1] if tensor.transform is Transform.TRANSPOSED else hf_shape[:1]


def _rule(
    names: list[str],
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    part: Part | None,
    transform: Transform,
    head_dim: int,
    *,
    as_gguf: bool,
) -> TensorRule:
    part = part or Part(0, 0, 0)
    hf_rows = part.hf_rows or part.rows
    gguf = Place(names[0], shapes[0], part.gguf, part.rows)
    hf = Place(names[1], shapes[1], part.hf, hf_rows)
    mlx = (
        Place(names[2], shapes[2], part.gguf, part.rows)
        if as_gguf
        else Place(names[2], shapes[2], part.hf, hf_rows)
    )
    return TensorRule(
        gguf,
        hf,
        None if mlx == hf else mlx,
        transform,
        transform if as_gguf else Transform.PLAIN,
        head_dim,
    )


def _experts(names: list[str], shape: tuple[int, ...]) -> list[TensorRule]:
    """Give a rule for each expert: GGUF and MLX stack them, Hugging Face has one tensor for each.

    `shape` is (experts, rows, columns).
    """
    gguf, hf, mlx = names
    rows = shape[1]
    return [
        TensorRule(
            Place(gguf, shape, expert * rows, rows),
            Place(hf.format(expert), shape[1:]),
            Place(mlx, shape, expert * rows, rows),
        )
        for expert in range(shape[0])
    ]


def _vectors(names: list[str], shape: tuple[int, ...]) -> list[TensorRule]:
    """Give a rule for each row of a matrix that is a vector of its own but in GGUF."""
    gguf, hf, mlx = names
    return [
        TensorRule(
            Place(gguf, shape, row, 1),
            Place(hf.format(row), shape[1:]),
            Place(mlx.format(row), shape[1:]),
        )
        for row in range(shape[0])
    ]


def _shape(words: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(int(word) if word.isdigit() else sizes[word] for word in words.split())


# -- what many families have ----------------------------------------------------------------------

EMBEDDING = Tensor("token_embd", "model.embed_tokens", "vocabulary hidden")
FINAL_NORM = Tensor("output_norm", "model.norm", "hidden")
HEAD = Tensor("output", "lm_head", "vocabulary hidden", when="!tied")
ATTENTION = (
    Tensor("attn_q", "self_attn.q_proj", "query hidden"),
    Tensor("attn_k", "self_attn.k_proj", "key hidden"),
    Tensor("attn_v", "self_attn.v_proj", "key hidden"),
    Tensor("attn_output", "self_attn.o_proj", "hidden query"),
)
GATED = (
    Tensor("ffn_gate", "mlp.gate_proj", "feed hidden"),
    Tensor("ffn_up", "mlp.up_proj", "feed hidden"),
    Tensor("ffn_down", "mlp.down_proj", "hidden feed"),
)
