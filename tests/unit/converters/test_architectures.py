"""Both forms of a configuration, and tensors that one side has and the other computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm_converters.architectures import (
    ARCHITECTURES,
    Architecture,
    Side,
    by_gguf_name,
    by_hf_name,
)
from edgellm_converters.architectures.family import Family
from edgellm_converters.architectures.rope import RopeScaling, factors, from_factors, read_rope
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, IncompletePlanError, UnsupportedError
from edgellm_converters.plan import make_plan

HERE = Path("config.json")
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PHI_LONG = {
    "type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}


# What a family has to be told beyond the sizes.
GOOD: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma-embedding": {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "use_bidirectional_attention": True,
    },
    "exaone4": {"sliding_window": None},
    "qwen3moe": {"norm_topk_prob": True},
    "granitemoe": {"shared_intermediate_size": 32},
    "deepseek2": {"qk_rope_head_dim": 16},
    "phi2": {"partial_rotary_factor": 0.5},
    "jina-bert-v2": {"position_embedding_type": "alibi", "feed_forward_type": "geglu"},
    "nomic-bert": {
        "activation_function": "swiglu",
        "rotary_emb_fraction": 1.0,
        **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
    },
}


def values(**changes: Any) -> Values:
    return Values(HERE, BASE | changes)


def sized(family: Architecture, **changes: Any) -> Values:
    """Give a configuration with the sizes under the family's own keys."""
    assert isinstance(family, Family)
    sizes = {family.names.get(key, key): value for key, value in BASE.items()}
    return Values(HERE, sizes | GOOD.get(family.name, {}) | changes)


def test_names_are_unique_and_found() -> None:
    names = [name for each in ARCHITECTURES for name in each.hf_names]
    assert len(set(names)) == len(names)
    for each in ARCHITECTURES:
        assert all(by_hf_name(HERE, name) is each for name in each.hf_names)
    with pytest.raises(UnsupportedError) as caught:
        by_hf_name(HERE, "NoSuchForCausalLM")
    assert "LlamaForCausalLM" in str(caught.value.hint)


def test_rope_is_read_in_the_forms_of_transformers_4_and_5() -> None:
    old = values(rope_theta=5e5, rope_scaling=LLAMA3)
    new = values(rope_parameters=LLAMA3 | {"rope_theta": 5e5})
    assert read_rope(old, 1e4) == read_rope(new, 1e4)
    assert read_rope(old, 1e4) == (5e5, RopeScaling("llama3", 32.0, 8192, 1.0, 4.0))
    plain = values(rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    assert read_rope(plain, 1e4) == (7.0, None)
    assert read_rope(values(), 1e4) == (1e4, None)
    assert read_rope(values(rope_scaling=None), 1e4) == (1e4, None)


def test_llama_3_factors_lie_where_its_paper_code_puts_them() -> None:
    scaling = RopeScaling("llama3", 32.0, 8192, 1.0, 4.0)
    found = factors(scaling, 5e5, 64)
    # Wavelengths 2 pi theta^(2i/d): below 8192/4 unchanged, above 8192 divided by 32.
    wavelengths = 2 * np.pi * 5e5 ** (np.arange(32) / 32)
    assert (found[wavelengths < 2048] == 1).all()
    assert (found[wavelengths > 8192] == 32).all()
    between = found[(wavelengths > 2048) & (wavelengths < 8192)]
    assert ((between > 1) & (between < 32)).all()
    assert from_factors(found, 5e5, 64) == scaling
    assert from_factors(found + 0.5, 5e5, 64) is None


def test_gemma_reads_both_forms_of_its_layers_and_thetas() -> None:
    gemma = by_gguf_name(HERE, "gemma3")
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    small = {"head_dim": 16, "query_pre_attn_scalar": 16}
    old = values(**small, sliding_window=512, sliding_window_pattern=6)
    new = values(
        **small,
        sliding_window=512,
        layer_types=kinds * 2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    first, second = gemma.from_config(old, []), gemma.from_config(new, [])
    assert first == second
    assert (first.sliding_pattern, first.rope_theta, first.rope_theta_local) == (6, 1e6, 1e4)
    with pytest.raises(UnsupportedError, match="layer_types"):
        gemma.from_config(values(**small, layer_types=(kinds * 2)[1:] + kinds[:1]), [])
    for other in (17, None):  # transformers takes 256 where there is none
        with pytest.raises(UnsupportedError, match="query_pre_attn_scalar"):
            gemma.from_config(values(**small | {"query_pre_attn_scalar": other}), [])


def test_modern_bert_reads_both_forms_of_its_layers_and_thetas() -> None:
    family = by_gguf_name(HERE, "modern-bert")
    old = values(global_attn_every_n_layers=4, global_rope_theta=8e4, local_rope_theta=500.0)
    new = values(
        layer_types=(["full_attention"] + ["sliding_attention"] * 3) * 3,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 8e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    )
    first, second = family.from_config(old, []), family.from_config(new, [])
    assert first == second
    assert (first.sliding_pattern, first.rope_theta, first.rope_theta_local) == (4, 8e4, 500.0)
    usual = family.from_config(values(), [])
    assert (usual.sliding_pattern, usual.rope_theta, usual.rope_theta_local) == (3, 160e3, 1e4)
    alone = values(layer_types=["full_attention"] + ["sliding_attention"] * 11)
    assert family.from_config(alone, []).sliding_pattern == 12
    for odd in (["sliding_attention"] * 12, ["full_attention"] * 12, ["other"] * 12):
        with pytest.raises(UnsupportedError, match="layer_types"):
            family.from_config(values(layer_types=odd), [])


# tokenizer.ggml.model where it tells families of one name apart.
TOKENIZERS = {"BertModel": "bert", "RobertaModel": "gpt2", "XLMRobertaModel": "t5"}


def test_metadata_gives_the_family_and_its_measures_back() -> None:
    for architecture in ARCHITECTURES:
        decoder = architecture.from_config(sized(architecture, head_dim=16), [])
        keys = {key: value for key, (_, value) in architecture.metadata(decoder).items()}
        keys["tokenizer.ggml.padding_token_id"] = 1  # says where RoBERTa's positions begin
        keys["tokenizer.ggml.model"] = TOKENIZERS.get(architecture.hf_names[0], "gpt2")
        assert by_gguf_name(HERE, architecture.name, keys) is architecture
        shapes = {rule.gguf.name: rule.gguf.shape for rule in architecture.rules(decoder)}
        stored = Values(HERE, keys).under(f"{architecture.name}.")
        assert architecture.from_metadata(stored, shapes) == decoder


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({}, None),
        ({"attention_factor": 0.1 * np.log(4.0) + 1}, None),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, (0.2 * np.log(4) + 1) / (0.1 * np.log(4) + 1)),
    ],
)
def test_yarn_is_what_llama_cpp_computes(more: dict[str, float], factor: float | None) -> None:
    """llama.cpp's rope multiplies by attn_factor and by 0.1 ln(factor) + 1, and reads no other."""
    llama = by_gguf_name(HERE, "llama")
    decoder = llama.from_config(values(rope_scaling=YARN | more), [])
    keys = {key: value for key, (_, value) in llama.metadata(decoder).items()}
    stored = {key for key in keys if key.startswith("llama.rope.scaling.")}
    names = {"type", "factor", "original_context_length"} | ({"attn_factor"} if factor else set())
    assert stored == {f"llama.rope.scaling.{name}" for name in names}
    if factor:
        found = keys["llama.rope.scaling.attn_factor"]
        assert found * (0.1 * np.log(4.0) + 1) == pytest.approx(factor)
    shapes = {rule.gguf.name: rule.gguf.shape for rule in llama.rules(decoder)}
    back = llama.from_metadata(Values(HERE, keys).under("llama."), shapes)
    assert back.scaling is not None
    assert back.scaling.config().get("attention_factor") == (factor and pytest.approx(factor))


def test_rope_that_llama_cpp_has_not_got_is_refused() -> None:
    for odd in (
        YARN | {"beta_fast": 16},
        YARN | {"beta_slow": 2},
        YARN | {"truncate": False},
        YARN | {"mrope_section": [2, 3, 3]},
        {"rope_type": "dynamic", "factor": 2.0, "alpha": 1000.0},
        {"rope_type": "linear", "factor": 2.0, "attention_factor": 2.0},
    ):
        for key in ("rope_scaling", "rope_parameters"):
            with pytest.raises(UnsupportedError):
                read_rope(values(**{key: odd}), 1e4)
    with pytest.raises(ConfigError, match="not the same"):
        read_rope(values(rope_scaling=YARN, rope_parameters={"rope_theta": 1e4}), 1e4)
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    with pytest.raises(UnsupportedError, match="'dynamic' for llama"):
        by_gguf_name(HERE, "llama").from_config(values(rope_scaling=dynamic), [])
    half = {"rope_type": "default", "partial_rotary_factor": 0.5}
    for key in ("rope_scaling", "rope_parameters"):
        with pytest.raises(UnsupportedError, match="whole heads"):
            by_gguf_name(HERE, "llama").from_config(values(**{key: half}), [])
    nested = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "linear"}}
    gemma = by_gguf_name(HERE, "gemma3")
    with pytest.raises(UnsupportedError, match="window"):
        gemma.from_config(values(head_dim=256, rope_parameters=nested), [])
    with pytest.raises(UnsupportedError, match="yarn"):
        gemma.from_config(values(head_dim=256, rope_scaling=YARN), [])


@pytest.mark.parametrize(
    ("key", "value", "without_effect"),
    [
        ("attention_multiplier", 0.5, None),
        ("residual_multiplier", 0.2, 1.0),
        ("partial_rotary_factor", 0.5, 1.0),
        ("attn_logit_softcapping", 50.0, None),
        ("num_local_experts", 8, 0),
        ("qk_layernorm", True, False),
        ("hidden_act", "gelu", "silu"),
        ("layer_types", ["full_attention", "sliding_attention"], ["full_attention"] * 2),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(
    key: str, value: object, without_effect: object
) -> None:
    llama = by_gguf_name(HERE, "llama")
    with pytest.raises(UnsupportedError, match=key):
        llama.from_config(values(**{key: value}), [])
    llama.from_config(values(**{key: without_effect}), [])


def test_gemma_has_one_activation() -> None:
    gemma = by_gguf_name(HERE, "gemma3")
    with pytest.raises(UnsupportedError, match="hidden_activation"):
        gemma.from_config(values(head_dim=256, hidden_activation="gelu"), [])


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_metadata_without_a_place_is_refused(name: str) -> None:
    architecture = by_gguf_name(HERE, name)
    decoder = architecture.from_config(values(head_dim=256), [])
    keys = {key: value for key, (_, value) in architecture.metadata(decoder).items()}
    shapes = {rule.gguf.name: rule.gguf.shape for rule in architecture.rules(decoder)}
    for key, value in (("attention.scale", 0.1), ("logit_scale", 2.0), ("attention.causal", False)):
        odd = Values(HERE, keys | {f"{name}.{key}": value})
        with pytest.raises(UnsupportedError, match=key):
            architecture.from_metadata(odd.under(f"{name}."), shapes)
    plain = {"attention.causal": True, "expert_count": 0, "logit_scale": 0.0}
    harmless = Values(HERE, keys | {f"{name}.{key}": value for key, value in plain.items()})
    assert architecture.from_metadata(harmless.under(f"{name}."), shapes) == decoder


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("wrong", [0, -1, 2**31, 1.5, "8", True, None, []])
def test_sizes_are_typed_and_bounded(key: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=key):
        by_gguf_name(HERE, "llama").from_config(values(**{key: wrong}), [])


def test_a_plan_is_complete_both_ways() -> None:
    llama = by_gguf_name(HERE, "llama")
    rules = llama.rules(llama.from_config(values(num_hidden_layers=1), []))
    shapes = {rule.hf.name: rule.hf.shape for rule in rules}
    assert len(make_plan(HERE, rules, shapes, Side.HF, Side.GGUF)) == len(rules)
    less = {k: v for k, v in shapes.items() if k not in ("model.norm.weight", "lm_head.weight")}
    with pytest.raises(IncompletePlanError, match=r"2 tensors are missing: .*, lm_head"):
        make_plan(HERE, rules, less, Side.HF, Side.GGUF)
    more = shapes | {"model.layers.0.rotary_emb.inv_freq": (8,)}
    with pytest.raises(IncompletePlanError, match=r"1 tensor has no place .*inv_freq"):
        make_plan(HERE, rules, more, Side.HF, Side.GGUF)
    assert len(make_plan(HERE, rules, more, Side.HF, Side.GGUF, unused=["inv_freq"])) == len(rules)


def test_what_changes_the_model_and_has_no_place_is_refused() -> None:
    """Each of these runs in transformers, and would be another model in llama.cpp."""
    for name, changes in (
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"partial_rotary_factor": 0.5}),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}),
        ("qwen2", {"hidden_act": "relu"}),
        ("qwen2", {"head_dim": 32}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64}),
        ("qwen2", {"layer_types": ["sliding_attention"] * 12, "sliding_window": 64}),
        ("qwen2", {"rope_scaling": LLAMA3}),
        ("qwen3", {"attention_bias": True}),
        ("gemma", {"tie_word_embeddings": False}),
        ("gemma", {"hidden_act": "silu"}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"sliding_window": None}),
        ("gemma2", {"query_pre_attn_scalar": 17}),
        ("phi3", {"attention_bias": True}),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("phi3", {"rope_scaling": PHI_LONG | {"factor": 3.0}}),
        ("phi3", {"rope_scaling": PHI_LONG | {"long_mscale": 1.1}}),
        ("smollm3", {"no_rope_layer_interval": 3}),
        ("smollm3", {"no_rope_layers": [1] * 12}),
        ("smollm3", {"attention_bias": True}),
        ("olmo2", {"tie_word_embeddings": True}),
        ("olmo2", {"attention_bias": True}),
        ("granite", {"hidden_act": "gelu"}),
        ("gpt2", {"activation_function": "gelu"}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"tie_word_embeddings": False}),
        ("gptneox", {"hidden_act": "relu"}),
        ("gptneox", {"num_key_value_heads": 2}),
        ("gptneox", {"attention_bias": False}),
        ("phi2", {"qk_layernorm": True}),
        ("phi2", {"hidden_act": "gelu"}),
        ("falcon", {"alibi": True}),
        ("falcon", {"bias": True}),
        ("falcon", {"parallel_attn": False}),
        ("falcon", {"activation": "relu"}),
        ("olmo", {"attention_bias": True}),
        ("olmo", {"layer_norm_eps": 1e-6}),
        ("command-r", {"use_qk_norm": True}),
        ("command-r", {"num_hidden_layers": 64}),
        ("command-r", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("command-r", {"logit_scale": None}),
        ("internlm2", {"bias": True}),
        ("internlm2", {"tie_word_embeddings": True}),
        ("internlm2", {"rope_scaling": YARN}),
        ("minicpm", {"attention_bias": True}),
        ("minicpm", {"rope_scaling": PHI_LONG}),
        ("exaone", {"activation_function": "gelu"}),
        ("exaone", {"mlp_bias": True}),
        ("exaone4", {"sliding_window": 4096}),
        ("exaone4", {"num_hidden_layers": 64}),
        ("stablelm", {"tie_word_embeddings": True}),
        ("stablelm", {"partial_rotary_factor": 0.2}),
        ("starcoder2", {"use_bias": False}),
        ("starcoder2", {"hidden_act": "gelu"}),
        ("gemma3", {"use_bidirectional_attention": True}),
    ):
        family = by_gguf_name(HERE, name)
        family.from_config(sized(family), [])
        with pytest.raises(UnsupportedError, match=r"config\.json: "):
            family.from_config(sized(family, **changes), [])


def test_longrope_needs_its_two_lists_and_the_trained_context() -> None:
    phi = by_gguf_name(HERE, "phi3")
    decoder = phi.from_config(values(rope_scaling=PHI_LONG), [])
    assert decoder.scaling is not None
    assert (decoder.scaling.factor, decoder.scaling.original_context) == (2.0, 64)
    # sqrt(1 + ln 2 / ln 64) = sqrt(7 / 6)
    keys = phi.metadata(decoder)
    assert keys["phi3.rope.scaling.attn_factor"][1] == pytest.approx((7 / 6) ** 0.5)
    assert [vector.tolist() for vector in phi.generated(decoder).values()] == [[2.0] * 8, [1.0] * 8]
    for wrong in (
        {"short_factor": [1.0] * 7, "long_factor": [2.0] * 7},
        {"long_factor": [2.0] * 7},
        {"long_factor": [2.0] * 7 + [0.0]},
        {"short_factor": "long"},
        {"original_max_position_embeddings": None},
    ):
        with pytest.raises(ConfigError):
            phi.from_config(values(rope_scaling=PHI_LONG | wrong), [])


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("gpt2", {"n_inner": 96}, "four times 64"),
        ("gptneox", {"intermediate_size": 96}, "four times 64"),
        ("gptneox", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling"),
        ("phi2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling"),
        ("stablelm", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling"),
    ],
)
def test_what_mlx_lm_does_not_read_is_refused(
    name: str, changes: dict[str, Any], said: str
) -> None:
    family = by_gguf_name(HERE, name)
    four_times = {"gpt2": {"n_inner": 256}, "gptneox": {"intermediate_size": 256}}.get(name, {})
    family.mlx_config(family.from_config(sized(family, **four_times), []), [])
    decoder = family.from_config(sized(family, **four_times | changes), [])
    with pytest.raises(UnsupportedError, match=said):
        family.mlx_config(decoder, [])


def test_factors_of_minicpm_come_back_in_its_own_terms() -> None:
    family = by_gguf_name(HERE, "minicpm")
    config = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 24}
    decoder = family.from_config(sized(family, **config), [])
    assert decoder.residual_scale == pytest.approx(1.4 / 12**0.5)  # 12 layers
    assert decoder.logit_scale == pytest.approx(64 / 24)
    written = family.config(decoder)
    assert {key: written[key] for key in config} == config


def test_olmo_has_one_epsilon() -> None:
    family = by_gguf_name(HERE, "olmo")
    decoder = family.from_config(sized(family), [])
    keys = {key: value for key, (_, value) in family.metadata(decoder).items()}
    shapes = {rule.gguf.name: rule.gguf.shape for rule in family.rules(decoder)}
    odd = Values(HERE, keys | {"olmo.attention.layer_norm_epsilon": 1e-6})
    with pytest.raises(UnsupportedError, match="epsilon"):
        family.from_metadata(odd.under("olmo."), shapes)
