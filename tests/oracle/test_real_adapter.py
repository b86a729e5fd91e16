"""A real adapter: Gemma 3 270M computes with it what its merged weights compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm.backends.base import Sampling
from edgellm.generate.engine import GenerateOptions
from edgellm_converters.adapters.convert import convert_adapter
from edgellm_converters.architectures.base import Side
from edgellm_converters.pipeline import convert
from llama_model import opened

pytestmark = pytest.mark.oracle

PROMPT = "Write a short prompt for a logo of a mountain coffee shop:"
# Nats per token, in float32: the order of additions, and GELU from a table of float16 values.
LARGEST_DIVERGENCE = 1e-5


def distribution(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, (tokens, vocabulary)."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The KL divergence at each position, in nats."""
    p, q = distribution(reference), distribution(other)
    return (np.exp(p) * (p - q)).sum(axis=1)


def test_gemma_with_an_adapter_is_gemma_with_merged_weights(
    shared: Path, gemma3: Path, tmp_path: Path
) -> None:
    adapter = shared / "models" / "gemma3-270m-lora" / "adapter"
    made = convert_adapter(adapter, gemma3, tmp_path / "lora.gguf", to=Side.GGUF)
    assert made.adapted is not None
    assert (made.adapted.pairs, made.adapted.rank, made.notes) == (72, 4, ())
    convert(gemma3, tmp_path / "base.gguf", dtype="f32")
    convert(tmp_path / "base.gguf", tmp_path / "merged.gguf", lora=adapter)
    found, texts = {}, {}
    for name, path, lora in (
        ("base", tmp_path / "base.gguf", None),
        ("adapter", tmp_path / "base.gguf", made.output),
        ("merged", tmp_path / "merged.gguf", None),
        ("quantized", gemma3, None),
        ("quantized, adapter", gemma3, made.output),
    ):
        with opened(path, lora=lora) as model:
            prompt = model.tokenize(PROMPT)
            found[name] = np.array(model.logits(prompt), dtype=np.float64)
            texts[name] = model.greedy(prompt, 12)
    same = divergence(found["merged"], found["adapter"])
    other = divergence(found["merged"], found["base"])
    print(f"KL divergence {same.mean():.1e}, largest {same.max():.1e}")
    print(f"to the base {other.mean():.1e}")
    assert same.max() <= LARGEST_DIVERGENCE
    assert other.mean() > 0.01
    assert texts["adapter"] == texts["merged"] != texts["base"]
    assert texts["quantized, adapter"] != texts["quantized"]


def test_the_folder_beside_the_model_and_away_again(
    shared: Path, gemma3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `edgellm run --lora FOLDER` takes it: what its GGUF form gives, and nothing without it."""
    adapter = shared / "models" / "gemma3-270m-lora" / "adapter"
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    greedy = GenerateOptions(Sampling(temperature=0), 12)
    made = convert_adapter(adapter, gemma3, tmp_path / "lora.gguf", to=Side.GGUF)
    texts = {}
    for name, lora in (("none", ()), ("folder", (adapter,)), ("file", (made.output,))):
        with edgellm.load(gemma3, lora=lora, context=256) as model:
            texts[name] = model.complete(PROMPT, options=greedy).read().text
            for each in model.adapters:
                assert each.rank == 4
                model.adapt({each.name: 0})
                assert model.complete(PROMPT, options=greedy).read().text == texts["none"]
    assert texts["folder"] == texts["file"] != texts["none"]
