"""InternLM2: Llama with queries, keys and values in one matrix, group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from edgellm_converters.architectures.base import Decoder, Sizes, Transform
from edgellm_converters.architectures.falcon import by_group
from edgellm_converters.architectures.family import Family, Part, Tensor
from edgellm_converters.architectures.rope import read_rope
from edgellm_converters.architectures.values import Values

__all__ = ["INTERNLM2"]


def _rows(kind: int) -> Callable[[Decoder], Iterator[Part]]:
    """Give those parts of the one matrix that hold queries (0), keys (1) or values (2)."""

    def parts(decoder: Decoder) -> Iterator[Part]:
        groups = decoder.heads_kv
        found = list(by_group(decoder))[kind * groups : (kind + 1) * groups]
        for part in found:
            yield part._replace(gguf=part.gguf - found[0].gguf)

    return parts


def _qkv(gguf: str, kind: int, shape: str, transform: Transform = Transform.PLAIN) -> Tensor:
    return Tensor(
        gguf, "attention.wqkv", shape, transform, hf_shape="qkv hidden", parts=_rows(kind)
    )


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    _, scaling = read_rope(config, INTERNLM2.theta)
    return {"scaling": None} if scaling is not None and scaling.kind == "dynamic" else {}


def _note_dynamic(config: Values, sizes: Sizes, notes: list[str]) -> None:
    _, scaling = read_rope(config, INTERNLM2.theta)
    if scaling is not None and scaling.kind == "dynamic" and scaling.factor > 1:
        notes.append(
            f"the dynamic rope scaling by {scaling.factor:g} is left out: it begins beyond "
            f"{sizes.context} tokens, and llama.cpp has none"
        )


INTERNLM2 = Family(
    name="internlm2",
    hf_names=("InternLM2ForCausalLM",),
    model_type="internlm2",
    ends=(
        Tensor("token_embd", "model.tok_embeddings", "vocabulary hidden"),
        Tensor("output_norm", "model.norm", "hidden"),
        Tensor("output", "output", "vocabulary hidden"),
    ),
    layer=(
        _qkv("attn_q", 0, "query hidden", Transform.ROPE),
        _qkv("attn_k", 1, "key hidden", Transform.ROPE),
        _qkv("attn_v", 2, "key hidden"),
        Tensor("attn_output", "attention.wo", "hidden query"),
        Tensor("ffn_gate", "feed_forward.w1", "feed hidden"),
        Tensor("ffn_up", "feed_forward.w3", "feed hidden"),
        Tensor("ffn_down", "feed_forward.w2", "hidden feed"),
        Tensor("attn_norm", "attention_norm", "hidden"),
        Tensor("ffn_norm", "ffn_norm", "hidden"),
    ),
    fixed={"hidden_act": ("silu",), "bias": (False,), "tie_word_embeddings": (False,)},
    square=True,
    scalings=("linear", "dynamic"),
    read=_read,
    checks=(_note_dynamic,),
)
