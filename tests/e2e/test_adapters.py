"""LoRA adapters: llama.cpp computes with them what it computes from weights merged by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapter_folders as adapters
import tiny
from edgellm_converters.adapters.convert import convert_adapter
from edgellm_converters.architectures.base import Side
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from llama_model import opened

IDS = [1, 5, 9, 77, 12, 30]
# Shares of the logits' standard deviation. llama.cpp takes GELU from a table of float16 values.
LARGEST_DIFFERENCE = 1e-5
LARGEST_WITH_GELU = 5e-4
# It rounds activations to the type of the matrix that they are multiplied with.
LARGEST_IN = {"F16": 2e-3, "BF16": 2e-2}


def logits(path: Path, lora: Path | None = None, scale: float = 1.0) -> np.ndarray:
    with opened(path, lora=lora, scale=scale) as model:
        return np.array(model.logits(IDS), dtype=np.float32)


def tensors(path: Path) -> tiny.Tensors:
    with GGUFCheckpoint(path) as checkpoint:
        return {name: checkpoint.load(name) for name in checkpoint.names}


def check(
    found: np.ndarray, wanted: np.ndarray, other: np.ndarray, bound: float = LARGEST_DIFFERENCE
) -> None:
    """Compare with the merged model's logits; those of the base must be far from them."""
    assert np.abs(found - wanted).max() <= bound * wanted.std()
    assert np.abs(other - wanted).max() > 0.2 * wanted.std()


def added(lora: Path) -> tiny.Tensors:
    """What llama.cpp adds to each weight, by its own formula."""
    with GGUFCheckpoint(lora) as file:
        alpha = file.header.metadata["adapter.lora.alpha"]
        found = {}
        for name in file.names:
            if name.endswith(".lora_a"):
                a, b = file.load(name), file.load(name[:-1] + "b")
                found[name.removesuffix(".lora_a")] = np.float32(alpha / b.shape[-1]) * (b @ a)
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "hf")


@pytest.mark.parametrize("name", tiny.MODELS)
def test_merging_gives_what_merging_by_hand_gives(name: str, tmp_path: Path) -> None:
    base = tiny.MODELS[name](tmp_path / "hf")
    modules = adapters.adaptable(base)
    deltas = adapters.write_peft(
        tmp_path / "lora", base, modules, transposed=adapters.transposed(name)
    )
    convert(adapters.merged(base, tmp_path / "hand", deltas), tmp_path / "hand.gguf", dtype="f32")
    result = convert(base, tmp_path / "x.gguf", dtype="f32", lora=tmp_path / "lora")
    assert result.adapted is not None
    assert (result.adapted.pairs, result.adapted.rank) == (len(modules), 4)
    found, wanted = tensors(tmp_path / "x.gguf"), tensors(tmp_path / "hand.gguf")
    assert found.keys() == wanted.keys()
    for tensor, values in wanted.items():
        # The values of the adapter are such that float32 rounds nothing.
        assert np.array_equal(found[tensor], values), tensor
    # The same from GGUF, where rows have moved.
    convert(base, tmp_path / "base.gguf", dtype="f32")
    convert(tmp_path / "base.gguf", tmp_path / "y.gguf", lora=tmp_path / "lora")
    found = tensors(tmp_path / "y.gguf")
    for tensor, values in wanted.items():
        assert np.array_equal(found[tensor], values), tensor


@pytest.mark.parametrize(
    "name", ["llama", "gemma3", "phi3", "gpt2", "gptneox", "mixtral", "deepseek-v2-lite"]
)
def test_llama_cpp_computes_the_merged_model_s_logits(name: str, tmp_path: Path) -> None:
    base = tiny.MODELS[name](tmp_path / "hf")
    deltas = adapters.write_peft(
        tmp_path / "lora",
        base,
        adapters.for_program(adapters.adaptable(base), "gguf"),
        strength=0.25,
        transposed=adapters.transposed(name),
    )
    convert(base, tmp_path / "base.gguf", dtype="f32")
    convert(adapters.merged(base, tmp_path / "hand", deltas), tmp_path / "hand.gguf", dtype="f32")
    result = convert_adapter(tmp_path / "lora", base, tmp_path / "lora.gguf", to=Side.GGUF)
    assert not result.notes
    found = logits(tmp_path / "base.gguf", tmp_path / "lora.gguf")
    wanted, other = logits(tmp_path / "hand.gguf"), logits(tmp_path / "base.gguf")
    gelu = "gelu" in (base / "config.json").read_text()
    check(found, wanted, other, LARGEST_WITH_GELU if gelu else LARGEST_DIFFERENCE)


SETTINGS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "one rank and alpha": ({"rank": 8, "alpha": 16}, "auto", []),
    "rslora": ({"use_rslora": True}, "auto", []),
    "float16": ({"dtype": "F16"}, "auto", []),
    "bfloat16": ({"dtype": "BF16"}, "auto", []),
    "to float16": ({}, "f16", []),
    # llama.cpp divides by the rank of each tensor.
    "a rank of its own": ({"ranks": {"q_proj": 2, "down_proj": 8}}, "auto", []),
    "twice the alpha": (
        {"alphas": {"q_proj": 12.0}, "dtype": "F16"},
        "auto",
        ["2 of 15 pairs have a scale of their own", "exactly"],
    ),
    "an alpha of its own": (
        {"alphas": {"k_proj": 7.0}, "dtype": "F16"},
        "auto",
        ["2 of 15 pairs have a scale of their own", "rounded to float32"],
    ),
    "ranks with rslora": (
        {"ranks": {"v_proj": 3}, "use_rslora": True},
        "auto",
        ["2 of 15", "rounded to float32"],
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_ranks_alphas_and_types(case: str, base: Path, tmp_path: Path) -> None:
    settings, dtype, words = SETTINGS[case]
    modules = adapters.adaptable(base)
    deltas = adapters.write_peft(tmp_path / "lora", base, modules, strength=0.25, **settings)
    convert(base, tmp_path / "base.gguf")
    convert(adapters.merged(base, tmp_path / "hand", deltas), tmp_path / "hand.gguf")
    target = tmp_path / "lora.gguf"
    result = convert_adapter(tmp_path / "lora", base, target, to=Side.GGUF, dtype=dtype)
    assert bool(result.notes) is bool(words)
    assert all(word in result.notes[0] for word in words)
    kept = dtype.upper() if dtype != "auto" else settings.get("dtype", "F32")
    assert result.types[kept] >= 26
    assert set(result.types) <= {kept, "F32"}
    merged, other = tensors(tmp_path / "hand.gguf"), tensors(tmp_path / "base.gguf")
    for name, values in added(target).items():
        assert values == pytest.approx(merged[name] - other[name], rel=1e-6, abs=1e-6), name
    if kept in LARGEST_IN:
        found, wanted = logits(tmp_path / "base.gguf", target), logits(tmp_path / "hand.gguf")
        check(found, wanted, logits(tmp_path / "base.gguf"), LARGEST_IN[kept])


def test_a_scale_at_run_time_and_when_merging_is_the_same(base: Path, tmp_path: Path) -> None:
    deltas = adapters.write_peft(tmp_path / "lora", base, ["model.layers.1.self_attn.v_proj"])
    convert(base, tmp_path / "base.gguf")
    convert(adapters.merged(base, tmp_path / "hand", deltas, -2.0), tmp_path / "hand.gguf")
    convert(base, tmp_path / "x.gguf", lora=tmp_path / "lora", lora_scale=-2.0)
    convert_adapter(tmp_path / "lora", base, tmp_path / "lora.gguf", to=Side.GGUF)
    wanted = logits(tmp_path / "hand.gguf")
    assert np.array_equal(logits(tmp_path / "x.gguf"), wanted)
    found = logits(tmp_path / "base.gguf", tmp_path / "lora.gguf", -2.0)
    assert np.abs(found - wanted).max() <= LARGEST_DIFFERENCE * wanted.std()


def test_an_embedding_and_a_head_of_their_own(base: Path, tmp_path: Path) -> None:
    modules = ["model.embed_tokens", "lm_head"]
    deltas = adapters.write_peft(tmp_path / "lora", base, modules)
    convert(base, tmp_path / "base.gguf")
    convert(adapters.merged(base, tmp_path / "hand", deltas), tmp_path / "hand.gguf")
    convert(base, tmp_path / "x.gguf", lora=tmp_path / "lora")
    convert_adapter(tmp_path / "lora", base, tmp_path / "lora.gguf", to=Side.GGUF)
    wanted = logits(tmp_path / "hand.gguf")
    assert np.array_equal(logits(tmp_path / "x.gguf"), wanted)
    check(
        logits(tmp_path / "base.gguf", tmp_path / "lora.gguf"),
        wanted,
        logits(tmp_path / "base.gguf"),
    )
    with GGUFCheckpoint(tmp_path / "lora.gguf") as file:
        vocabulary, hidden = file.info("token_embd.weight.lora_a").shape[0], 64
        assert file.info("token_embd.weight.lora_b").shape == (hidden, 4)
        assert file.info("output.weight.lora_b").shape == (vocabulary, 4)


def test_the_file_says_what_llama_cpp_asks_for(base: Path, tmp_path: Path) -> None:
    adapters.write_peft(tmp_path / "lora", base, ["model.layers.0.mlp.up_proj"], alpha=10)
    result = convert_adapter(tmp_path / "lora", base, tmp_path / "x.gguf", to=Side.GGUF)
    with GGUFCheckpoint(result.output) as file:
        metadata = file.header.metadata
        assert {key: metadata[key] for key in metadata if not key.startswith("edgellm.")} == {
            "general.architecture": "llama",
            "general.type": "adapter",
            "general.name": "lora",
            "adapter.type": "lora",
            "adapter.lora.alpha": 10.0,
        }
        assert {name: file.info(name).shape for name in file.names} == {
            "blk.0.ffn_up.weight.lora_a": (4, 64),
            "blk.0.ffn_up.weight.lora_b": (96, 4),
        }
    assert (result.tensors, result.parameters) == (2, 4 * (64 + 96))


def test_a_base_names_tensors_in_whatever_layout_it_is(base: Path, tmp_path: Path) -> None:
    adapters.write_peft(tmp_path / "lora", base, adapters.adaptable(base))
    convert(base, tmp_path / "base.gguf", dtype="q8_0")  # a quantized one does as well
    convert(base, tmp_path / "base-mlx")
    made = [
        convert_adapter(tmp_path / "lora", each, tmp_path / f"{number}.gguf", to=Side.GGUF).sha256
        for number, each in enumerate((base, tmp_path / "base.gguf", tmp_path / "base-mlx"))
    ]
    assert len(set(made)) == 1


def test_a_merged_model_is_quantized_after_merging(base: Path, tmp_path: Path) -> None:
    deltas = adapters.write_peft(tmp_path / "lora", base, adapters.adaptable(base))
    hand = adapters.merged(base, tmp_path / "hand", deltas)
    for recipe in ("Q8_0", "Q4_0"):
        convert(hand, tmp_path / f"hand-{recipe}.gguf", recipe=recipe)
        convert(base, tmp_path / f"{recipe}.gguf", recipe=recipe, lora=tmp_path / "lora")
        with (
            GGUFCheckpoint(tmp_path / f"hand-{recipe}.gguf") as wanted,
            GGUFCheckpoint(tmp_path / f"{recipe}.gguf") as found,
        ):
            for name in wanted.names:
                assert found.raw(name).tobytes() == wanted.raw(name).tobytes(), name
            assert found.header.metadata["edgellm.adapter"] == "lora"


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_merged_folder_keeps_its_type_and_its_files(dtype: str, tmp_path: Path) -> None:
    base = tiny.llama(tmp_path / "hf", dtype=dtype)
    deltas = adapters.write_peft(tmp_path / "lora", base, adapters.adaptable(base))
    hand = adapters.merged(base, tmp_path / "hand", deltas)
    result = convert(base, tmp_path / "merged", lora=tmp_path / "lora")
    assert set(result.types) == {dtype}
    assert sorted(p.name for p in result.output.iterdir()) == sorted(p.name for p in base.iterdir())
    convert(hand, tmp_path / "rounded", dtype=dtype.lower())
    found, wanted = (tiny.read_safetensors(tmp_path / each) for each in ("merged", "rounded"))
    for name, values in wanted.items():
        assert np.array_equal(found[name], values), name


# -- mlx-lm ---------------------------------------------------------------------------------------


def mlx_shapes(base: Path, modules: list[str]) -> dict[str, tuple[int, ...]]:
    weights = tiny.read_safetensors(base)
    return {module: weights[f"{module}.weight"].shape for module in modules}


@pytest.mark.parametrize("embedding", [False, True])
def test_an_adapter_of_mlx_lm_is_one_of_llama_cpp(
    embedding: bool, base: Path, tmp_path: Path
) -> None:
    modules = ["model.embed_tokens"] if embedding else adapters.adaptable(base)
    scale = 20.0 if embedding else 2.5
    deltas = adapters.write_mlx(tmp_path / "lora", mlx_shapes(base, modules), scale=scale)
    convert(base, tmp_path / "base.gguf")
    convert(adapters.merged(base, tmp_path / "hand", deltas), tmp_path / "hand.gguf")
    convert(base, tmp_path / "x.gguf", lora=tmp_path / "lora")
    convert_adapter(tmp_path / "lora", base, tmp_path / "lora.gguf", to=Side.GGUF)
    wanted = logits(tmp_path / "hand.gguf")
    other = logits(tmp_path / "base.gguf")
    check(logits(tmp_path / "base.gguf", tmp_path / "lora.gguf"), wanted, other)
    check(logits(tmp_path / "x.gguf"), wanted, other)


def test_a_tied_embedding_of_mlx_lm_is_merged(tmp_path: Path) -> None:
    """mlx-lm changes the output with the input; llama.cpp cannot, but merged weights are both."""
    base = tiny.MODELS["llama-tied-bias"](tmp_path / "hf")
    shapes = mlx_shapes(base, ["model.embed_tokens"])
    deltas = adapters.write_mlx(tmp_path / "lora", shapes, scale=4.0)
    hand = adapters.merged(base, tmp_path / "hand", deltas)
    convert(hand, tmp_path / "hand.gguf")
    convert(base, tmp_path / "x.gguf", lora=tmp_path / "lora")
    found, wanted = tensors(tmp_path / "x.gguf"), tensors(tmp_path / "hand.gguf")
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, abs=1e-6), name


def test_an_adapter_comes_back_from_mlx_lm_s_layout(base: Path, tmp_path: Path) -> None:
    modules = [*adapters.adaptable(base), "model.embed_tokens"]
    ranks, alphas = {"q_proj": 2}, {"o_proj": 12.0}
    adapters.write_peft(tmp_path / "lora", base, modules, ranks=ranks, alphas=alphas)
    result = convert_adapter(tmp_path / "lora", base, tmp_path / "mlx", to=Side.MLX)
    assert len(result.notes) == 2
    config = json.loads((tmp_path / "mlx" / "adapter_config.json").read_text())
    assert config["num_layers"] == 2
    assert config["lora_parameters"]["rank"] == 4
    assert config["lora_parameters"]["scale"] == 1.5
    assert sorted(config["lora_parameters"]["keys"]) == sorted(modules)
    assert sorted(p.name for p in result.output.iterdir()) == [
        "adapter_config.json",
        "adapters.safetensors",
    ]
    for name in ("lora", "mlx"):
        convert(base, tmp_path / f"{name}.gguf", lora=tmp_path / name)
    found, wanted = tensors(tmp_path / "mlx.gguf"), tensors(tmp_path / "lora.gguf")
    for name, values in wanted.items():
        assert np.array_equal(found[name], values), name  # all scales are powers of two apart
    # A folder of ours may be replaced by another.
    convert_adapter(tmp_path / "lora", base, tmp_path / "mlx", to=Side.MLX, force=True)
