"""Adapter folders as PEFT and mlx-lm write them, made by hand, and the arithmetic of both in numpy.

Nothing here uses the code under test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import tiny
import tinygguf

PEFT_CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "someone/model",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
}


def adaptable(base: Path) -> list[str]:
    """The modules of a tiny checkpoint with a matrix, but for embeddings and norms of heads."""
    return [
        name.removesuffix(".weight")
        for name, values in tiny.read_safetensors(base).items()
        if values.ndim == 2
        and name.endswith(".weight")
        and not is_embedding(name)
        and "norm" not in name
    ]


def for_program(modules: list[str], program: str) -> list[str]:
    """Those whose changes llama.cpp ("gguf") or mlx-lm ("mlx") makes, and does not pass over."""
    if not any("kv_b_proj" in module for module in modules):  # DeepSeek's attention
        return modules
    # mlx-lm has a router that is no linear layer, and DeepSeek V3 in stacks.
    lost = (
        ("self_attn.q", "self_attn.kv", "lm_head")
        if program == "gguf"
        else ("mlp.gate.", "kv_b_proj.")
    )
    return [module for module in modules if not any(part in f"{module}." for part in lost)]


def transposed(name: str) -> tuple[str, ...]:
    """The endings of weights that are stored (inputs, outputs) in a model of `tiny.MODELS`."""
    spec = getattr(tiny.MODELS[name], "keywords", {}).get("spec")
    return spec.transposed if spec is not None else ()


def is_embedding(name: str) -> bool:
    return any(part in name for part in ("embed", "wte", "wpe"))


def write_peft(
    folder: Path,
    base: Path,
    modules: list[str],
    *,
    rank: int = 4,
    alpha: float = 6.0,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    dtype: str = "F32",
    prefix: str = "base_model.model.",
    strength: float = 0.5,
    transposed: tuple[str, ...] = (),
    change: Callable[[tiny.Tensors], object] | None = None,
    **changes: Any,
) -> tiny.Tensors:
    """Write an adapter of these modules; give what it adds to each weight of the base.

    `transposed` are endings of weights that are stored (inputs, outputs).
    """
    weights = tiny.read_safetensors(base)
    rng = np.random.default_rng(7)
    config = PEFT_CONFIG | {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": dict(ranks or {}),
        "alpha_pattern": dict(alphas or {}),
        "target_modules": sorted({module.split(".")[-1] for module in modules}),
        **changes,
    }
    tensors: tiny.Tensors = {}
    deltas: tiny.Tensors = {}
    for module in modules:
        rows, columns = weights[f"{module}.weight"].shape
        end = module.split(".")[-1]
        its_rank = (ranks or {}).get(end, rank)
        scale = (alphas or {}).get(end, alpha)
        scale /= math.sqrt(its_rank) if config["use_rslora"] else its_rank
        left = _values(rng, rows, its_rank, strength / its_rank)
        right = _values(rng, its_rank, columns, 1 / columns**0.5)
        deltas[f"{module}.weight"] = np.float32(scale) * (left @ right)
        if is_embedding(module):
            tensors[f"{prefix}{module}.lora_embedding_A"] = left.T
            tensors[f"{prefix}{module}.lora_embedding_B"] = right.T
        elif transposed and f"{module}.weight".endswith(transposed):
            tensors[f"{prefix}{module}.lora_A.weight"] = left.T
            tensors[f"{prefix}{module}.lora_B.weight"] = right.T
        else:
            tensors[f"{prefix}{module}.lora_A.weight"] = right
            tensors[f"{prefix}{module}.lora_B.weight"] = left
    if change is not None:
        change(tensors)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    tiny.write_safetensors(folder / "adapter_model.safetensors", contiguous, dtype)
    return deltas


def write_mlx(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rank: int = 4,
    scale: float = 2.5,
    change: Callable[[tiny.Tensors], object] | None = None,
    **changes: Any,
) -> tiny.Tensors:
    """Write an adapter for weights of these shapes, by the names of MLX; give what it adds."""
    rng = np.random.default_rng(8)
    tensors: tiny.Tensors = {}
    deltas: tiny.Tensors = {}
    for module, (*experts, rows, columns) in shapes.items():
        count = int(np.prod(experts))
        left = _values(rng, count * rows, rank, 0.1).reshape(*experts, rows, rank)
        right = _values(rng, count * rank, columns, 0.1).reshape(*experts, rank, columns)
        deltas[f"{module}.weight"] = np.float32(scale) * (left @ right)
        straight = bool(experts) or is_embedding(module)
        first, second = (left, right) if is_embedding(module) else (right, left)
        tensors[f"{module}.lora_a"] = first if straight else first.T
        tensors[f"{module}.lora_b"] = second if straight else second.T
    if change is not None:
        change(tensors)
    config = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0},
        "model": "someone/model",
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    tiny.write_safetensors(folder / "adapters.safetensors", contiguous)
    return deltas


def merged(base: Path, folder: Path, deltas: tiny.Tensors, scale: float = 1.0) -> Path:
    """Write the base with what an adapter adds, as another checkpoint in float32."""
    folder.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    weights = tiny.read_safetensors(base)
    for name, delta in deltas.items():
        weights[name] = weights[name] + np.float32(scale) * delta
    tiny.write_safetensors(folder / "model.safetensors", weights)
    return folder


def _values(rng: np.random.Generator, rows: int, columns: int, scale: float) -> np.ndarray:
    # Exact in float16 and bfloat16, so that every type of file holds the same adapter.
    values = np.round(rng.standard_normal((rows, columns)) * 32) / 32
    exponent = 2.0 ** round(math.log2(scale))
    return (np.clip(values, -3.96875, 3.96875) * exponent).astype(np.float32)


def write_gguf(
    path: Path,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    alpha: float | None = None,
    architecture: str = "llama",
    change: Callable[[gguf.GGUFWriter], object] | None = None,
    **more: str,
) -> Path:
    """Write a file as llama.cpp loads it: A (rank, inputs) and B (outputs, rank) of each tensor.

    `more` are keys that have other texts, with `__` for a dot; without an alpha it counts once.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, text in {"general__type": "adapter", "adapter__type": "lora", **more}.items():
        writer.add_string(key.replace("__", "."), text)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_gguf(path: Path, begins: str, strength: float = 9.0) -> Path:
    """Write an adapter of `tinygguf.write_tiny`'s model, whose answer begins with a letter."""
    tokens = tinygguf.SPACE + 1
    a = np.zeros((1, tinygguf.WIDTH), np.float32)
    b = np.zeros((tokens, 1), np.float32)
    a[0, tinygguf.byte_token(0x0A)] = 1
    b[tinygguf.byte_token(ord(begins)), 0] = strength
    return write_gguf(path, {"output.weight": (a, b)})
