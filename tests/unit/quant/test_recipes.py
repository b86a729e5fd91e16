"""Recipes as people meet them: names, bits, fallbacks with reasons, needs."""

from __future__ import annotations

import pytest

from edgellm_quant.errors import QuantError, ShapeError, UnknownTypeError
from edgellm_quant.facts import Role, role_of
from edgellm_quant.fallbacks import FALLBACKS, fall_back
from edgellm_quant.formats import FORMATS
from edgellm_quant.mixes import DENSE_MIXES
from edgellm_quant.recipes import (
    ALIASES,
    BITS,
    RECIPES,
    ModelFacts,
    TensorFacts,
    choose_types,
    get_recipe,
    needs_importance,
)

LLAMA = ModelFacts("llama", 2, 9, 3)


def test_the_tables_belong_together():
    assert len({recipe.file_type for recipe in RECIPES.values()}) == len(RECIPES) == 35
    for name, recipe in RECIPES.items():
        assert name == recipe.name == name.upper()
        assert recipe.base in FORMATS
        assert recipe.description
        mixed = FORMATS[recipe.base].is_quantized and name != "MXFP4_MOE"
        assert (name in DENSE_MIXES) == mixed
    for mix in DENSE_MIXES.values():
        assert mix.output in FORMATS
        assert all(rule.format in FORMATS for rules in mix.rules.values() for rule in rules)
    assert all(FORMATS[name].block_size == 32 for name in FALLBACKS.values())
    assert set(ALIASES.values()) <= set(RECIPES)


def test_names_are_taken_in_any_case_and_by_alias():
    assert get_recipe("q4_k_m") is RECIPES["Q4_K_M"]
    assert [get_recipe(name).name for name in ("q3_k", "Q4_K", "Q5_k")] == [
        "Q3_K_M",
        "Q4_K_M",
        "Q5_K_M",
    ]
    with pytest.raises(UnknownTypeError, match="'Q4KM'") as caught:
        get_recipe("Q4KM")
    assert caught.value.hint == "did you mean Q4_K_M?"


def test_bits_do_without_importance_and_grow():
    assert list(BITS) == [2, 3, 4, 5, 6, 7, 8]
    tensors = [TensorFacts("blk.0.ffn_up.weight", (4, 256))]
    widths = []
    for name in BITS.values():
        choices = choose_types(name, tensors, LLAMA)
        assert needs_importance(name, tensors, choices) == []
        widths.append(choices[0].format.bits_per_weight)
    assert widths == sorted(widths)
    assert all(abs(width - bits) < 0.7 for bits, width in zip(BITS, widths, strict=True))


def test_fallbacks_name_the_reason():
    tensors = [
        TensorFacts("token_embd.weight", (8, 576), "F16"),
        TensorFacts("blk.0.attn_q.weight", (8, 576), "F16"),
        TensorFacts("blk.0.attn_norm.weight", (576,), "F32"),
        TensorFacts("blk.1.ffn_up.weight", (8, 200), "F16"),
        TensorFacts("blk.1.ffn_down.weight", (8, 1536), "F16"),
    ]
    choices = choose_types("Q4_K_S", tensors, LLAMA)
    found = [(choice.format.name, choice.wanted.name, choice.reason) for choice in choices]
    assert found == [
        ("Q8_0", "Q6_K", "576 columns are no multiple of 256"),
        ("Q5_0", "Q4_K", "576 columns are no multiple of 256"),
        ("F32", "F32", None),
        ("F16", "Q4_K", "200 columns are no multiple of 256 or 32"),
        ("Q4_K", "Q4_K", None),
    ]


def test_rows_of_a_type_of_32_fall_to_float16():
    assert fall_back(FORMATS["Q8_0"], 40) == (FORMATS["F16"], "40 columns are no multiple of 32")
    assert fall_back(FORMATS["Q8_0"], 64) == (FORMATS["Q8_0"], None)


def test_a_type_without_fallback_is_refused_with_the_tensor():
    tensors = [TensorFacts("blk.0.ffn_up.weight", (4, 192))]
    with pytest.raises(ShapeError, match=r"^blk\.0\.ffn_up\.weight: 192 columns .* Q1_0"):
        choose_types("Q1_0", tensors, LLAMA)


def test_plain_recipes_change_matrices_and_keep_the_rest():
    tensors = [
        TensorFacts("output_norm.weight", (256,), "F32"),
        TensorFacts("blk.0.attn_q.weight", (8, 256), "F32"),
        TensorFacts("blk.0.ffn_gate_inp.weight", (8, 256), "BF16"),
        TensorFacts("blk.0.attn_q.bias", (256,), "F32"),
    ]
    chosen = [choice.format.name for choice in choose_types("f16", tensors, LLAMA)]
    assert chosen == ["F32", "F16", "BF16", "F32"]


def test_the_order_given_does_not_matter():
    model = ModelFacts("llama", 12, 8, 2)
    tensors = [TensorFacts(f"blk.{layer}.ffn_down.weight", (4, 256)) for layer in range(12)]
    forward = choose_types("Q4_K_M", tensors, model)
    backward = choose_types("Q4_K_M", tensors[::-1], model)
    assert backward == forward[::-1]
    assert len({choice.format.name for choice in forward}) == 2


def test_importance_is_needed_where_llama_cpp_demands_it():
    tensors = [
        TensorFacts("token_embd.weight", (8, 256)),
        TensorFacts("output.weight", (8, 256)),
        TensorFacts("blk.0.attn_q.weight", (8, 256)),
        TensorFacts("blk.0.attn_v.weight", (8, 256)),
    ]
    for name, needing in (
        ("Q2_K_S", ["blk.0.attn_q.weight", "blk.0.attn_v.weight"]),
        ("Q2_K", []),
        ("IQ2_XXS", ["blk.0.attn_q.weight"]),
    ):
        choices = choose_types(name, tensors, LLAMA)
        assert needs_importance(name, tensors, choices) == needing


def test_an_expert_without_layer_is_refused():
    model = ModelFacts("llama", 2, 8, 8, 8)
    tensors = [TensorFacts("blk.2.ffn_down_exps.weight", (8, 4, 256))]
    with pytest.raises(QuantError, match=r"blk\.2\.ffn_down_exps\.weight: names no layer of the 2"):
        choose_types("Q4_K_M", tensors, model)


def test_an_unknown_source_format_is_refused():
    with pytest.raises(UnknownTypeError, match="'Q9_9'"):
        choose_types("Q8_0", [TensorFacts("x.bias", (4,), "Q9_9")], LLAMA)


def test_roles():
    assert role_of("output.weight") is Role.OUTPUT
    assert role_of("blk.0.attn_output.weight") is Role.ATTENTION_OUTPUT
    assert role_of("per_layer_token_embd.weight") is Role.EMBEDDING
    assert role_of("blk.3.ffn_gate_exps.weight") is Role.GATE
    assert role_of("blk.3.attn_qkv.weight") is Role.VALUE
    assert role_of("rope_freqs.weight") is Role.OTHER
