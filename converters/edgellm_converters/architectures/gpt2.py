"""GPT-2: learned positions, layer norms with biases, a GELU network without a gate.

Its matrices are stored with inputs as rows; in GGUF, as in MLX, rows are outputs.
"""

from __future__ import annotations

from edgellm_converters.architectures.base import Decoder, Side, Transform
from edgellm_converters.architectures.checks import four_times_in_mlx
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import Family, Tensor

__all__ = ["GPT2"]

TURNED, GGUF = Transform.TRANSPOSED, Side.GGUF


def _rename(name: str) -> str:
    """The first checkpoints have the names of the inner model alone."""
    inner = name.startswith(("h.", "wte.", "wpe.", "ln_f."))
    return f"transformer.{name}" if inner else name


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"n_ctx": decoder.context}


def _for_mlx(decoder: Decoder, notes: list[str]) -> dict[str, object]:  # noqa: ARG001
    four_times_in_mlx(decoder)
    return {}


GPT2 = Family(
    name="gpt2",
    hf_names=("GPT2LMHeadModel",),
    model_type="gpt2",
    blocks="transformer.h.{}.",
    mlx_blocks="model.h.{}.",
    names={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    feed_factor=4,
    rename=_rename,
    leaves=(".attn.bias", ".attn.masked_bias"),  # the causal mask
    ends=(
        Tensor("token_embd", "transformer.wte", "vocabulary hidden", mlx="model.wte"),
        Tensor("position_embd", "transformer.wpe", "context hidden", mlx="model.wpe"),
        Tensor("output_norm", "transformer.ln_f", "hidden", bias=True, mlx="model.ln_f"),
    ),
    layer=(
        Tensor("attn_qkv", "attn.c_attn", "qkv hidden", TURNED, bias=True, mlx_as=GGUF),
        Tensor("attn_output", "attn.c_proj", "hidden query", TURNED, bias=True, mlx_as=GGUF),
        Tensor("ffn_up", "mlp.c_fc", "feed hidden", TURNED, bias=True, mlx_as=GGUF),
        Tensor("ffn_down", "mlp.c_proj", "hidden feed", TURNED, bias=True, mlx_as=GGUF),
        Tensor("attn_norm", "ln_1", "hidden", bias=True),
        Tensor("ffn_norm", "ln_2", "hidden", bias=True),
    ),
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    written={"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    norm=Norm("layer_norm_epsilon", "attention.layer_norm_epsilon", 1e-5),
    rotates=False,
    grouped=False,
    square=True,
    tied=True,
    more_config=_more_config,
    for_mlx=_for_mlx,
)
