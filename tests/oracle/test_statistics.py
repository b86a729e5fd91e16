"""Statistics from llama.cpp's graph are those of what torch multiplies the same weights with."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what torch and transformers warn of is theirs
]
if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers and torch", allow_module_level=True)

from edgellm.quantization.statistics import collect  # noqa: E402
from edgellm_converters.pipeline import convert  # noqa: E402
from oracle import derive  # noqa: E402

# Shares of a matrix's largest value. llama.cpp takes GELU from a table of float16 values.
CLOSE, CLOSE_WITH_GELU = 3e-5, 5e-3

SELF = "model.layers.{}.self_attn."
MLP = "model.layers.{}.mlp."
BERT = "encoder.layer.{}."
QKV = {"attn_q": SELF + "q_proj", "attn_k": SELF + "k_proj", "attn_output": SELF + "o_proj"}
GATED = {"ffn_gate": MLP + "gate_proj", "ffn_up": MLP + "up_proj", "ffn_down": MLP + "down_proj"}
FUSED_GATED = {"ffn_up": MLP + "gate_up_proj", "ffn_down": MLP + "down_proj"}
# name -> (GGUF's name of a weight -> the module that has it, where the values are, groups of heads)
CASES: dict[str, tuple[dict[str, str], tuple[str, str], int]] = {
    "llama": (QKV | GATED, ("attn_v", SELF + "v_proj"), 2),
    "gemma3": (QKV | GATED, ("attn_v", SELF + "v_proj"), 1),  # one head, a window of 8 tokens
    "phi3": (
        {"attn_output": SELF + "o_proj"} | FUSED_GATED,
        ("attn_qkv", SELF + "qkv_proj"),
        2,
    ),
    "mixtral": (QKV, ("attn_v", SELF + "v_proj"), 2),
    "bert": (
        {
            "attn_q": BERT + "attention.self.query",
            "attn_output": BERT + "attention.output.dense",
            "ffn_up": BERT + "intermediate.dense",
            "ffn_down": BERT + "output.dense",
        },
        ("attn_v", BERT + "attention.self.value"),
        4,
    ),
    "modern-bert": (
        {"attn_output": "layers.{}.attn.Wo", "ffn_up": "layers.{}.mlp.Wi"},
        ("attn_qkv", "layers.{}.attn.Wqkv"),
        4,
    ),
}
EXPERTS = {
    "ffn_gate_exps": MLP + "experts.gate_up_proj",
    "ffn_up_exps": MLP + "experts.gate_up_proj",
    "ffn_down_exps": MLP + "experts.down_proj",
}


class Met:
    """What each weight was multiplied with, by its name and the number of the matrix in it."""

    def __init__(self, model: Any) -> None:
        self._starts = {
            each.untyped_storage().data_ptr(): (name, each)
            for name, each in model.named_parameters()
        }
        self.inputs: dict[tuple[str, int], list[np.ndarray]] = {}

    def add(self, x: Any, weight: Any) -> None:
        name, whole = self._starts[weight.untyped_storage().data_ptr()]
        number = weight.storage_offset() // (whole[0].numel() if whole.ndim == 3 else 1)
        rows = x.detach().reshape(-1, x.shape[-1]).double().numpy()
        self.inputs.setdefault((name, number), []).append(rows)

    def of(self, name: str, number: int = 0) -> np.ndarray:
        parts = self.inputs.get((name, number), [])
        return np.concatenate(parts) if parts else np.zeros((0, 1))


@contextmanager
def recorded(model: Any) -> Iterator[Met]:
    import torch

    met, linear = Met(model), torch.nn.functional.linear

    def record(x: Any, weight: Any, bias: Any = None) -> Any:
        met.add(x, weight)
        return linear(x, weight, bias)

    torch.nn.functional.linear = record
    try:
        yield met
    finally:
        torch.nn.functional.linear = linear


def load(name: str, folder: Path) -> Any:
    import torch
    from transformers import AutoModel

    if name in tiny.MODELS:
        model = derive.load(folder)[1]
        # One expert after the other, each by `linear`: other ways multiply all at once.
        model.config._experts_implementation = "eager"
        return model
    return AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def close(found: Any, wanted: np.ndarray, share: float) -> None:
    assert found is not None
    assert np.abs(found - wanted).max() <= share * np.abs(wanted).max()


@pytest.mark.parametrize("name", CASES)
def test_statistics_are_those_of_what_torch_multiplies(name: str, tmp_path: Path) -> None:
    import torch

    plain, (values, values_module), groups = CASES[name]
    folder = (tiny.MODELS | tiny.ENCODERS)[name](tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    share = CLOSE_WITH_GELU if "gelu" in (folder / "config.json").read_text() else CLOSE
    prompt = derive.golden(name)["prompt"]
    first = prompt[:1]
    last = prompt[-1:] if name in tiny.ENCODERS else []
    rng = np.random.default_rng(3)
    chunks = [[*first, *rng.integers(7, 90, 46).tolist(), *last] for _ in range(8)]
    if name not in tiny.ENCODERS and first != [1]:
        chunks = [chunk[1:] for chunk in chunks]

    model = load(name, folder)
    sides: list[tuple[Met, list[Any], int]] = []
    for held in (False, True):
        looked = []
        of_side = [chunk for at, chunk in enumerate(chunks) if (at % 4 == 3) == held]
        with recorded(model) as met, torch.no_grad():
            for chunk in of_side:
                out = model(torch.tensor([chunk]), output_attentions=True)
                looked.append([each[0].double().numpy() for each in out.attentions])
        sides.append((met, looked, len(chunks[0])))

    layers = range(2)
    wanted = [f"blk.{layer}.{each}.weight" for layer in layers for each in (*plain, values)]
    if name == "mixtral":
        wanted += [f"blk.{layer}.{each}.weight" for layer in layers for each in EXPERTS]
    (found,) = collect(
        tmp_path / "x.gguf", chunks, dict.fromkeys(wanted, "hessian"), memory=1 << 30, threads=1
    )
    assert not found.notes
    for layer in layers:
        for ours, module in plain.items():
            (group,) = found.statistics[f"blk.{layer}.{ours}.weight"].groups
            xs = [met.of(module.format(layer) + ".weight") for met, _, _ in sides]
            for matrix, x in zip((group.hessian, group.held_out), xs, strict=True):
                close(matrix, x.T @ x / len(x), share)
            everything = np.concatenate(xs)
            assert group.tokens == len(everything)
            close(group.importance, np.mean(everything**2, axis=0), share)
        of_values = found.statistics[f"blk.{layer}.{values}.weight"].groups
        assert len(of_values) == groups + (values == "attn_qkv")
        if values == "attn_qkv":
            x = sides[0][0].of(values_module.format(layer) + ".weight")
            close(of_values[0].hessian, x.T @ x / len(x), share)
        for at, (met, looked, size) in enumerate(sides):
            x = met.of(values_module.format(layer) + ".weight")
            for number, group in enumerate(of_values[-groups:]):
                total = np.zeros((x.shape[1], x.shape[1]))
                for text, attention in enumerate(looked):
                    heads = len(attention[layer]) // groups
                    for probabilities in attention[layer][number * heads : (number + 1) * heads]:
                        averages = probabilities @ x[text * size : (text + 1) * size]
                        total += averages.T @ averages
                close((group.hessian, group.held_out)[at], total / len(x), share)
        for ours, module in EXPERTS.items() if name == "mixtral" else ():
            stack = found.statistics[f"blk.{layer}.{ours}.weight"].groups
            assert len(stack) == 4
            for number, group in enumerate(stack):
                fit, held = (met.of(module.format(layer), number) for met, _, _ in sides)
                assert group.tokens == len(fit) + len(held)
                if len(fit) >= fit.shape[1]:
                    close(group.hessian, fit.T @ fit / len(fit), share)
                else:
                    assert group.hessian is None
                if group.tokens >= fit.shape[1]:
                    squares = (np.concatenate([fit, held]) ** 2).mean(axis=0)
                    close(group.importance, squares, share)
            assert any(group.hessian is not None for group in stack)
