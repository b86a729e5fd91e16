"""Adapters compute in llama.cpp and mlx-lm what transformers computes with PEFT's formula."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapter_folders as adapters
import tiny
from edgellm_converters.adapters.convert import convert_adapter
from edgellm_converters.architectures import by_hf_name
from edgellm_converters.architectures.base import Side
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.pipeline import convert

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what torch, transformers and mlx-lm warn of is theirs
]
if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers and torch", allow_module_level=True)

from llama_model import opened  # noqa: E402
from oracle import derive  # noqa: E402

# Shares of the logits' standard deviation, in float32 on both sides; see test_logits.py.
LARGEST_DIFFERENCE = 5e-5
LARGEST_WITH_GELU = 5e-3
# mlx-lm against itself, the weights being merged: the order of additions.
LARGEST_IN_MLX = 5e-5

needs_mlx = pytest.mark.skipif(
    importlib.util.find_spec("mlx_lm") is None, reason="needs mlx-lm and mlx"
)


def layers(model: Any) -> dict[str, Any]:
    """What PEFT puts its own layers around, by name."""
    kinds = ("Linear", "Conv1D")
    return {
        name: each for name, each in model.named_modules() if type(each).__name__.endswith(kinds)
    }


def add_adapter(model: Any, lora: Path) -> None:
    """Let the layers of a model add alpha / r * B(A(x)), as PEFT's do."""
    import torch

    config = json.loads((lora / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    tensors = {name: torch.tensor(values) for name, values in tiny.read_safetensors(lora).items()}
    modules = layers(model)
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            b = tensors[name.replace("lora_A", "lora_B")]
            module = modules[name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]

            def add(_: Any, inputs: Any, output: Any, a: Any = a, b: Any = b) -> Any:
                return output + scale * (inputs[0] @ a.T) @ b.T

            module.register_forward_hook(add)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_llama_cpp_with_an_adapter_is_transformers_with_it(name: str, tmp_path: Path) -> None:
    import torch

    base = tiny.MODELS[name](tmp_path / "hf")
    _, model = derive.load(base)
    if model.config.model_type != json.loads((base / "config.json").read_text())["model_type"]:
        pytest.skip("transformers has a stand-in alone, whose weights are others")
    known = layers(model)
    # Experts are no layers of their own in transformers 5, nor are their routers.
    modules = adapters.for_program(adapters.adaptable(base), "gguf")
    modules = [module for module in modules if module in known]
    adapters.write_peft(
        tmp_path / "lora", base, modules, strength=0.25, transposed=adapters.transposed(name)
    )
    convert(base, tmp_path / "x.gguf", dtype="f32")
    convert_adapter(tmp_path / "lora", base, tmp_path / "lora.gguf", to=Side.GGUF)
    golden = derive.golden(name)
    ids = golden["prompt"] + golden["greedy"]
    add_adapter(model, tmp_path / "lora")
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    with opened(tmp_path / "x.gguf", lora=tmp_path / "lora.gguf") as native:
        found = np.array(native.logits(ids), dtype=np.float32)
    with opened(tmp_path / "x.gguf") as native:
        without = np.array(native.logits(ids), dtype=np.float32)
    gelu = "gelu" in (base / "config.json").read_text()
    difference = float(np.abs(found - wanted).max() / wanted.std())
    changed = float(np.abs(without - wanted).max() / wanted.std())
    print(f"{name}: largest difference {difference:.1e}, without the adapter {changed:.1e}")
    assert np.array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    assert difference <= (LARGEST_WITH_GELU if gelu else LARGEST_DIFFERENCE)
    assert changed > 0.3


def mlx_logits(folder: Path, ids: list[int], lora: Path | None = None) -> np.ndarray[Any, Any]:
    """The logits of mlx-lm at every position, in float32."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    if lora is not None:
        model = load_adapters(model, str(lora))
    model.set_dtype(mx.float32)
    return np.array(model.eval()(mx.array([ids]))[0].astype(mx.float32))


@needs_mlx
@pytest.mark.parametrize("name", tiny.MODELS)
def test_mlx_lm_with_an_adapter_is_mlx_lm_with_merged_weights(name: str, tmp_path: Path) -> None:
    base = tiny.MODELS[name](tmp_path / "hf")
    kind = json.loads((base / "config.json").read_text())["architectures"][0]
    if not by_hf_name(base, kind).in_mlx:
        pytest.skip("mlx-lm has no model of this family")
    modules = adapters.for_program(adapters.adaptable(base), "mlx")
    ends = sorted({module.split(".")[-1] for module in modules})
    adapters.write_peft(
        tmp_path / "lora",
        base,
        modules,
        strength=0.25,
        ranks={ends[0]: 2},
        alphas={ends[1]: 7.0},
        transposed=adapters.transposed(name),
    )
    try:
        convert(base, tmp_path / "base", to="mlx")
    except UnsupportedError as error:
        pytest.skip(str(error))
    convert(base, tmp_path / "merged", to="mlx", lora=tmp_path / "lora")
    convert_adapter(tmp_path / "lora", base, tmp_path / "adapter", to=Side.MLX)
    ids = derive.golden(name)["prompt"]
    wanted = mlx_logits(tmp_path / "merged", ids)
    found = mlx_logits(tmp_path / "base", ids, tmp_path / "adapter")
    without = mlx_logits(tmp_path / "base", ids)
    difference = float(np.abs(found - wanted).max() / wanted.std())
    print(f"{name}: largest difference {difference:.1e} of the deviation")
    assert difference <= LARGEST_IN_MLX
    assert np.abs(without - wanted).max() > 0.5 * wanted.std()


@needs_mlx
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen2-tied-yarn"])
def test_an_adapter_that_mlx_lm_trained_runs_in_llama_cpp(name: str, tmp_path: Path) -> None:
    base = tiny.MODELS[name](tmp_path / "hf")
    convert(base, tmp_path / "base", to="mlx")
    lines = [json.dumps({"text": "the cat sat on the mat and the hat"})] * 8
    (tmp_path / "data").mkdir()
    for part in ("train", "valid"):
        (tmp_path / "data" / f"{part}.jsonl").write_text("\n".join(lines))
    options = {
        "model": str(tmp_path / "base"),
        "data": str(tmp_path / "data"),
        "adapter-path": str(tmp_path / "trained"),
        "iters": "6",
        "batch-size": "2",
        "num-layers": "-1",
        "learning-rate": "0.05",
    }
    command = [sys.executable, "-m", "mlx_lm", "lora", "--train"]
    command += [word for key, value in options.items() for word in (f"--{key}", value)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    convert(base, tmp_path / "x.gguf", dtype="f32")
    convert_adapter(tmp_path / "trained", base, tmp_path / "lora.gguf", to=Side.GGUF)
    convert(base, tmp_path / "merged.gguf", dtype="f32", lora=tmp_path / "trained")
    ids = derive.golden(name)["prompt"]
    wanted = mlx_logits(tmp_path / "base", ids, tmp_path / "trained")
    with opened(tmp_path / "x.gguf", lora=tmp_path / "lora.gguf") as native:
        found = np.array(native.logits(ids), dtype=np.float32)
    with opened(tmp_path / "merged.gguf") as native:
        merged = np.array(native.logits(ids), dtype=np.float32)
    with opened(tmp_path / "x.gguf") as native:
        without = np.array(native.logits(ids), dtype=np.float32)
    for each in (found, merged):
        difference = float(np.abs(each - wanted).max() / wanted.std())
        print(f"{name}: largest difference {difference:.1e} of the deviation")
        assert difference <= LARGEST_DIFFERENCE
    assert np.abs(without - wanted).max() > 0.1 * wanted.std()
