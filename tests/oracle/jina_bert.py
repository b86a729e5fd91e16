"""Jina-BERT v2 in numpy, in float64: transformers has no class for it.

From the published description (Günther et al. 2023, "Jina Embeddings 2"): a BERT with norms after
each half, whose scores of attention are lower by a head's slope for each token between (Press et
al. 2022, ALiBi, on both sides), and whose network is GEGLU (Shazeer 2020).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import tiny

Array = Any


def slopes(heads: int) -> list[float]:
    """ALiBi's slopes: 2^(-8/n) and its powers; odd powers of the next row fill up what is left."""
    whole = 1 << (heads.bit_length() - 1)
    first = [2 ** (-8 * (head + 1) / whole) for head in range(whole)]
    between = [2 ** (-4 * (2 * head + 1) / whole) for head in range(heads - whole)]
    return first + between


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def hidden_states(folder: Path, ids: list[int]) -> Array:
    """Give the vectors of the last layer, (tokens, hidden), as float32."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name: w.astype(np.float64) for name, w in tiny.read_safetensors(folder).items()}
    heads, feed = config["num_attention_heads"], config["intermediate_size"]
    size = config["hidden_size"] // heads

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config["layer_norm_eps"])
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    places = np.arange(len(ids))
    distance = np.abs(places[:, None] - places[None, :])
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            linear(x, f"{at}attention.self.{part}").reshape(len(ids), heads, size)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(size)
        scores -= np.array(slopes(heads))[:, None, None] * distance
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", shares, v).reshape(x.shape)
        mixed = linear(mixed, f"{at}attention.output.dense")
        x = norm(x + mixed, f"{at}attention.output.LayerNorm")
        inner = linear(x, f"{at}mlp.gated_layers")
        fed = linear(gelu(inner[:, :feed]) * inner[:, feed:], f"{at}mlp.wo")
        x = norm(x + fed, f"{at}mlp.layernorm")
    return x.astype(np.float32)
