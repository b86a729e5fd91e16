"""Models with experts, latent attention or convolutions: quantized like llama.cpp, and float16."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from edgellm.models.check import check_model_file
from edgellm_converters import targets
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import CorruptFileError
from edgellm_converters.pipeline import convert
from edgellm_quant.formats import FORMATS
from edgellm_quant.recipes import get_recipe
from llama_model import opened
from llama_quantize import quantize_file, read_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
SPECS = {spec.name: spec for spec in tiny.tiny_moe.FAMILIES}


def wide(name: str, folder: Path) -> Path:
    """The tiny model with rows of 256, as the formats with large blocks need."""
    spec = SPECS[name]
    experts = 8 if name == "mixtral" else spec.sizes["experts"]
    sizes = {
        "hidden": 256,
        "feed": 256,
        "gate_up": 512,
        "expert": 256,
        "shared": 512 if name.startswith("deepseek") else 256,
        "shared_both": 512,
        "three_hidden": 768,
        "experts": experts,
    }
    config: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256}
    config |= {
        key: 256
        for key in ("moe_intermediate_size", "shared_expert_intermediate_size")
        if key in spec.config
    }
    if name == "granite-moe-shared":
        config["shared_intermediate_size"] = 256
    if "block_ff_dim" in spec.config:
        config |= {"intermediate_size": 384, "block_ff_dim": 384}
    counts = {"num_local_experts", "num_experts", "n_routed_experts"} & spec.config.keys()
    config |= dict.fromkeys(counts, experts)
    changed = replace(
        spec,
        config=spec.config | config | ({"head_dim": 64} if "head_dim" in spec.config else {}),
        sizes=spec.sizes | sizes,
        experts=experts if spec.experts else 0,
        head_dim=64,
        layers=min(spec.layers, 4),
    )
    return tiny.family(folder, changed)


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q2_K", "Q8_0"])
@pytest.mark.parametrize("name", [name for name in SPECS if name != "deepseek-v2-lite"])
def test_a_quantized_file_has_the_types_and_bytes_of_llama_cpp(
    name: str, recipe: str, tmp_path: Path
) -> None:
    """Whether the recipe is followed on the way from the checkpoint or afterwards."""
    folder = wide(name, tmp_path / "hf")
    convert(folder, tmp_path / "f32.gguf", dtype="f32")
    convert(folder, tmp_path / "direct.gguf", recipe=recipe)
    convert(tmp_path / "f32.gguf", tmp_path / "later.gguf", recipe=recipe)
    kind = get_recipe(recipe).file_type
    assert quantize_file(tmp_path / "f32.gguf", tmp_path / "theirs.gguf", kind)
    wanted = read_tensors(tmp_path / "theirs.gguf")
    for file in ("direct.gguf", "later.gguf"):
        found = read_tensors(tmp_path / file)
        assert found.keys() == wanted.keys()
        for tensor, (number, data) in wanted.items():
            assert found[tensor][0] == number, tensor
            assert np.array_equal(found[tensor][1], data), tensor
    kinds = {FORMATS[each].ggml_type for each in ("Q4_K", "Q2_K", "Q8_0")}
    assert kinds & {number for tensor, (number, _) in wanted.items() if "ffn" in tensor}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("name", ["lfm2", "lfm2-moe", "qwen2-moe", "deepseek-v3"])
def test_routers_and_convolutions_of_a_small_type_are_stored_in_float32(
    name: str, dtype: str, tmp_path: Path
) -> None:
    folder = tiny.family(tmp_path / "hf", SPECS[name], dtype=dtype)
    convert(folder, tmp_path / "x.gguf")
    check_model_file(tmp_path / "x.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        kinds = {each: file.info(each).format.name for each in file.names}
    exact = ("ffn_gate_inp", "shortconv.conv.", "norm", "exp_probs_b", ".bias")
    for tensor, kind in kinds.items():
        assert kind == ("F32" if any(part in tensor for part in exact) else dtype), tensor
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    with opened(tmp_path / "x.gguf") as model:
        last = model.logits(golden["prompt"])[-1]
    assert np.isfinite(last).all()
    if dtype == "F16":  # which the weights fit in; llama.cpp rounds what it multiplies them by
        largest = max(abs(value) for value in golden["logits"])
        assert last[: len(golden["logits"])] == pytest.approx(golden["logits"], abs=0.1 * largest)
    convert(tmp_path / "x.gguf", tmp_path / "back")
    before, after = tiny.read_safetensors(folder), tiny.read_safetensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_convolution_in_float16_would_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ggml convolves with float32 alone and aborts on others."""
    folder = tiny.family(tmp_path / "hf", SPECS["lfm2"], dtype="F16")
    monkeypatch.setattr(
        targets,
        "is_quantizable",
        lambda tensor, _: tensor.dimensions > 1 and "norm" not in tensor.name,
    )
    convert(folder, tmp_path / "x.gguf")
    with pytest.raises(CorruptFileError, match=r"shortconv\.conv\.weight.*F16, not F32"):
        check_model_file(tmp_path / "x.gguf")
