"""Llama in numpy, straight from its published description: slow, plain, and not our code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

import tiny


class Reference:
    """A Llama read from a Hugging Face folder; everything in float32, one token at a time."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.weights = tiny.read_safetensors(folder)
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.heads_kv = config["num_key_value_heads"]
        self.size = config.get("head_dim") or config["hidden_size"] // self.heads
        self.epsilon = np.float32(config["rms_norm_eps"])
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
        frequencies = theta ** -(np.arange(0, self.size, 2) / self.size)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "linear":
            frequencies /= rope["factor"]
        elif kind == "llama3":
            frequencies = np.array([_llama3(f, rope) for f in frequencies])
        self.frequencies = frequencies
        head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
        self.head = self.weights[f"{head}.weight"]
        self.keys: list[list[np.ndarray]] = [[] for _ in range(self.layers)]
        self.values: list[list[np.ndarray]] = [[] for _ in range(self.layers)]

    def step(self, token: int) -> np.ndarray:
        """Take the next token and give the logits, (vocabulary,)."""
        position = len(self.keys[0])
        x = self.weights["model.embed_tokens.weight"][token]
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            x = x + self._attention(at, self._norm(x, f"{at}input_layernorm"), layer, position)
            h = self._norm(x, f"{at}post_attention_layernorm")
            gate = self._linear(f"{at}mlp.gate_proj", h)
            gate = gate / (1 + np.exp(-gate)) * self._linear(f"{at}mlp.up_proj", h)
            x = x + self._linear(f"{at}mlp.down_proj", gate)
        return self.head @ self._norm(x, "model.norm")

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The `count` most probable tokens after the prompt."""
        for token in prompt:
            logits = self.step(token)
        found = []
        for _ in range(count):
            found.append(int(np.argmax(logits)))
            logits = self.step(found[-1])
        return found

    def _attention(self, at: str, x: np.ndarray, layer: int, position: int) -> np.ndarray:
        at += "self_attn."
        q = self._rotate(self._linear(f"{at}q_proj", x).reshape(self.heads, -1), position)
        k = self._rotate(self._linear(f"{at}k_proj", x).reshape(self.heads_kv, -1), position)
        self.keys[layer].append(k)
        self.values[layer].append(self._linear(f"{at}v_proj", x).reshape(self.heads_kv, -1))
        share = self.heads // self.heads_kv
        keys = np.repeat(np.stack(self.keys[layer], 1), share, 0)  # (heads, positions, size)
        values = np.repeat(np.stack(self.values[layer], 1), share, 0)
        weights = self._probabilities(at, q, keys)
        return self._linear(f"{at}o_proj", np.einsum("hp,hpd->hd", weights, values).reshape(-1))

    def _probabilities(self, at: str, q: np.ndarray, keys: np.ndarray) -> np.ndarray:
        scores = np.einsum("hd,hpd->hp", q, keys) / np.float32(math.sqrt(self.size))
        weights = np.exp(scores - scores.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def _rotate(self, heads: np.ndarray, position: int) -> np.ndarray:
        cos = np.cos(position * self.frequencies).astype(np.float32)
        sin = np.sin(position * self.frequencies).astype(np.float32)
        first, second = np.split(heads, 2, axis=1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], 1)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = 1 / np.sqrt(np.mean(x * x) + self.epsilon)
        return x * scale * self.weights[f"{name}.weight"]

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y = self.weights[f"{name}.weight"] @ x
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y


def _llama3(frequency: float, rope: dict[str, float]) -> float:
    old, low, high = (
        rope[key]
        for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    turns = old * frequency / (2 * math.pi)  # in the original context
    if turns > high:
        return frequency
    if turns < low:
        return frequency / rope["factor"]
    smooth = (turns - low) / (high - low)
    return (1 - smooth) * frequency / rope["factor"] + smooth * frequency
