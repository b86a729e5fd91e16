"""Real weights through every direction: Hugging Face, GGUF and MLX say the same.

Each model is dequantized to float32 once; what MLX computes from its own codes, and llama.cpp and
MLX from the float folders, are compared by the KL divergence of their next tokens.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tiny
from conftest import PERSONS_MODELS
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what mlx-lm warns of is its own
]
if importlib.util.find_spec("mlx_lm") is None or importlib.util.find_spec("mlx") is None:
    pytest.skip("needs mlx-lm and mlx", allow_module_level=True)

from llama_model import opened  # noqa: E402
from oracle.mlx_logits import logits  # noqa: E402

TEXT = "Once upon a time there was a little girl who lived near the old bridge in the village."
# In nats a token, both sides in float32; llama.cpp takes Gemma's GELU from a table of float16.
SAME = 1e-5
# Some blocks of Q4_K_M are taken over nearly or quantized anew, and norms become float16.
NEARLY = 1e-3


def model(name: str, shared: Path) -> Path:
    path = {
        "stories15M": shared / "models" / "stories15M-hf-f16",
        "SmolLM2": PERSONS_MODELS / "smollm2-135m-instruct.gguf",
        "Gemma 3 270M": PERSONS_MODELS / "gemma3-270m.gguf",
    }[name]
    if not path.exists():
        pytest.skip(f"needs {name}")
    return path


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Mean KL divergence of the next token, (positions, vocabulary) each."""

    def log_softmax(values: np.ndarray) -> np.ndarray:
        wide = values.astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))

    p, q = log_softmax(one), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize("name", ["stories15M", "SmolLM2", "Gemma 3 270M"])
def test_every_direction_says_the_same(name: str, shared: Path, tmp_path: Path) -> None:
    source = model(name, shared)
    folder, gguf = tmp_path / "hf", tmp_path / "f32.gguf"
    convert(source, gguf, dtype="f32")
    convert(gguf, folder)
    # Hugging Face -> GGUF and -> MLX -> back: bit for bit.
    convert(folder, tmp_path / "again.gguf", dtype="f32")
    with GGUFCheckpoint(gguf) as one, GGUFCheckpoint(tmp_path / "again.gguf") as two:
        assert set(one.names) == set(two.names)
        for tensor in one.names:
            assert one.raw(tensor).tobytes() == two.raw(tensor).tobytes(), tensor
    (tmp_path / "again.gguf").unlink()
    convert(folder, tmp_path / "float-mlx", to="mlx")
    convert(tmp_path / "float-mlx", tmp_path / "back")
    first, second = tiny.read_safetensors(folder), tiny.read_safetensors(tmp_path / "back")
    assert first.keys() == second.keys()
    assert all(np.array_equal(values, second[tensor]) for tensor, values in first.items())
    del first, second
    with opened(gguf) as native:
        ids = native.tokenize(TEXT)
        by_llama_cpp = np.array(native.logits(ids), np.float32).reshape(len(ids), -1)
    by_mlx = logits(tmp_path / "float-mlx", ids)
    assert np.array_equal(by_mlx.argmax(axis=1), by_llama_cpp.argmax(axis=1))
    runtimes = divergence(by_llama_cpp, by_mlx)
    assert runtimes < SAME
    # The source's own blocks, repacked for MLX.
    result = convert(source, tmp_path / "repacked-mlx", to="mlx")
    repacked = divergence(by_mlx, logits(tmp_path / "repacked-mlx", ids))
    print(f"{name}: llama.cpp and MLX {runtimes:.1e}, repacked {repacked:.1e} nats")
    exact = all(repack.how == "exact" for repack in result.repacks)
    assert repacked < (SAME if exact else NEARLY)
