"""The sampler in numpy chooses what llama.cpp's own chain chooses."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from edgellm.backends.base import LoadOptions, Sampling, get_backend
from edgellm.backends.llama_cpp.sampler import make_chain
from edgellm.backends.mlx.sampler import Sampler, candidates
from edgellm.errors import BackendError
from tinygguf import write_tiny

# (seed of the logits, their spread)
LOGITS = [(seed, spread) for seed in range(6) for spread in (1.0, 3.0, 8.0)]
SAMPLINGS = {
    "defaults": {},
    "all": {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0},
    "top-k": {"top_k": 7, "top_p": 1.0, "min_p": 0.0},
    "top-k of all": {"top_k": 10_000, "top_p": 0.7, "min_p": 0.0},
    "top-p": {"top_k": 0, "top_p": 0.8, "min_p": 0.0},
    "top-p of nothing": {"top_k": 0, "top_p": 0.0, "min_p": 0.0},
    "min-p": {"top_k": 0, "top_p": 1.0, "min_p": 0.1},
    "min-p of one": {"top_k": 0, "top_p": 1.0, "min_p": 1.0},
    "typical": {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 0.6},
    "typical, then top-p": {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9},
    "greedy": {"temperature": 0.0},
    "cold": {"temperature": 0.2},
    "hot": {"temperature": 5.0, "top_k": 0, "top_p": 0.99},
    "repeat": {"repeat_penalty": 1.7},
    "all penalties": {
        "repeat_penalty": 1.3,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.9,
        "repeat_last_n": 5,
    },
    "encouraged": {"repeat_penalty": 0.7, "frequency_penalty": -0.5, "top_k": 0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    model = get_backend("llama_cpp").load(Path(path), LoadOptions(threads=1), lambda: False)
    yield model
    model.close()


class Chain:
    """llama.cpp's samplers on logits that no model gave."""

    def __init__(self, model, sampling: Sampling, prompt: list[int]) -> None:
        self.native = model.native
        self.chain = make_chain(self.native, model.vocab, sampling)
        for token in prompt[-sampling.repeat_last_n :] if sampling.penalizes else []:
            self.native.llama_sampler_accept(self.chain, token)

    def choose(self, logits: np.ndarray) -> tuple[int, dict[int, float]]:
        """The token, and all that could have been drawn with their probabilities."""
        native = self.native
        entries = (native.llama_token_data * len(logits))()
        for token, logit in enumerate(logits.tolist()):
            entries[token].id, entries[token].logit = token, logit
        array = native.llama_token_data_array(entries, len(logits), -1, False)
        native.llama_sampler_apply(self.chain, ctypes.byref(array))
        token = array.data[array.selected].id
        native.llama_sampler_accept(self.chain, token)
        kept = [array.data[index] for index in range(array.size)]
        return token, {entry.id: entry.p for entry in kept}

    def close(self) -> None:
        self.native.llama_sampler_free(self.chain)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_texts_are_those_of_llama_cpp(model, name):
    """The same tokens from the same seed, over a text of 40 tokens."""
    prompt = [5, 6, 7, 5, 9]
    drawn = set()
    for seed, spread in LOGITS:
        sampling = Sampling(seed=seed * 977, **SAMPLINGS[name])
        numbers = np.random.default_rng(seed)
        chain, ours = Chain(model, sampling, prompt), Sampler(sampling, [], prompt)
        for _ in range(40):
            logits = (numbers.standard_normal(model.vocabulary_size) * spread).astype(np.float32)
            wanted, _ = chain.choose(logits)
            assert ours.choose(logits.copy()) == wanted
            drawn.add(wanted)
        chain.close()
    assert len(drawn) > 40


@pytest.mark.parametrize("name", [name for name in SAMPLINGS if name != "greedy"])
def test_candidates_have_the_probabilities_of_llama_cpp(model, name):
    values = {key: value for key, value in SAMPLINGS[name].items() if "penalty" not in key}
    sampling = Sampling(**values)
    for seed, spread in LOGITS:
        numbers = np.random.default_rng(seed)
        logits = (numbers.standard_normal(model.vocabulary_size) * spread).astype(np.float32)
        chain = Chain(model, sampling, [])
        _, wanted = chain.choose(logits)
        chain.close()
        tokens, kept = candidates(logits, sampling)
        weights = np.exp((kept - kept.max()) / sampling.temperature)
        found = dict(zip(tokens.tolist(), (weights / weights.sum()).tolist(), strict=True))
        assert found.keys() == wanted.keys()
        total = sum(wanted.values())
        for token, probability in wanted.items():
            assert found[token] == pytest.approx(probability / total, rel=1e-4, abs=1e-9)


def test_suppressed_tokens_and_broken_logits():
    logits = np.zeros(9, np.float32)
    logits[4] = 50
    assert Sampler(Sampling(), [], []).choose(logits.copy()) == 4
    assert Sampler(Sampling(), [4], []).choose(logits.copy()) != 4
    assert Sampler(Sampling(temperature=0), [4, 0], []).choose(logits.copy()) == 1
    logits[2] = np.nan
    with pytest.raises(BackendError, match="no numbers"):
        Sampler(Sampling(), [], []).choose(logits)


def test_a_typical_cut_leaves_tokens_of_no_probability_aside():
    logits = np.full(20, -np.inf, np.float32)
    logits[:3] = 2, 1, 0
    tokens, _ = candidates(logits, Sampling(top_k=0, top_p=1, min_p=0, typical_p=0.9))
    assert {*tokens.tolist()} <= {0, 1, 2}
