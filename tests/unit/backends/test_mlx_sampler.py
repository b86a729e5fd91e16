"""The sampler in numpy chooses what llama.cpp's own chain chooses."""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.backends.base import LoadOptions, Sampling, get_backend
from edgellm.backends.llama_cpp.sampler import make_chain
from edgellm.backends.mlx.dry import breaker_tokens, common_ends
from edgellm.backends.mlx.sampler import Sampler, candidates
from edgellm.errors import BackendError
from tinygguf import byte_token, write_tiny

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
    "top-n-sigma": {"top_n_sigma": 1.2, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "top-n-sigma and more": {"top_n_sigma": 1.5, "top_p": 0.9},
    "encouraged": {"repeat_penalty": 0.7, "frequency_penalty": -0.5, "top_k": 0},
}
# what chooses otherwise than by cuts and a draw
CHOICES = {
    "XTC": {"xtc_probability": 0.6, "xtc_threshold": 0.05},
    "XTC always, of all": {
        "xtc_probability": 1.0,
        "xtc_threshold": 0.02,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    },
    "XTC, never that likely": {"xtc_probability": 1.0, "xtc_threshold": 0.6},
    "XTC after typical": {"xtc_probability": 0.8, "xtc_threshold": 0.03, "typical_p": 0.8},
    "mirostat 1": {"mirostat": 1},
    "mirostat 1, surprised": {"mirostat": 1, "mirostat_tau": 2.0, "mirostat_eta": 0.4},
    "mirostat 2": {"mirostat": 2},
    "mirostat 2, predictable": {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.3},
    "mirostat 2, hot and penalized": {"mirostat": 2, "temperature": 3.0, "repeat_penalty": 2.0},
    "mirostat 2, greedy": {"mirostat": 2, "temperature": 0.0},
}
# repetitions come at once where few tokens are likely: (fields, tokens)
REPETITIONS = {
    "DRY": ({"dry_multiplier": 2.0}, "abc"),
    "DRY, greedy": ({"dry_multiplier": 0.8, "temperature": 0.0}, "abcd"),
    "DRY of a short past": ({"dry_multiplier": 3.0, "dry_last_n": 7}, "ab"),
    "DRY of a long past": ({"dry_multiplier": 1.0, "dry_last_n": 5000, "dry_base": 1.2}, "abc"),
    "DRY without growth": ({"dry_multiplier": 2.0, "dry_base": 1.0}, "ab"),
    "DRY of every token": ({"dry_multiplier": 2.0, "dry_allowed_length": 0}, "abcdef"),
    "DRY that is steep": ({"dry_multiplier": 1.0, "dry_base": 90.0, "temperature": 0.0}, "a"),
    "breakers": ({"dry_multiplier": 3.0, "dry_breakers": ["b", "cd"]}, "abcd"),
    "a breaker in another": ({"dry_multiplier": 3.0, "dry_breakers": ["aab", "ab", "bca"]}, "abc"),
    "Persian breakers": ({"dry_multiplier": 3.0, "dry_breakers": ["م", "س"]}, "مسa"),
    "DRY with penalties": (
        {"dry_multiplier": 2.0, "repeat_penalty": 1.2, "repeat_last_n": 9, "dry_last_n": 30},
        "abc",
    ),
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
        for token in prompt[-sampling.recent :] if sampling.recent else []:
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


@pytest.mark.parametrize("name", [*SAMPLINGS, *CHOICES])
def test_texts_are_those_of_llama_cpp(model, name):
    """The same tokens from the same seed, over a text of 40 tokens."""
    prompt = [5, 6, 7, 5, 9]
    drawn = set()
    for seed, spread in LOGITS:
        sampling = Sampling(seed=seed * 977, **(SAMPLINGS | CHOICES)[name])
        numbers = np.random.default_rng(seed)
        chain, ours = Chain(model, sampling, prompt), Sampler(sampling, [], prompt)
        for _ in range(40):
            logits = (numbers.standard_normal(model.vocabulary_size) * spread).astype(np.float32)
            wanted, _ = chain.choose(logits)
            assert ours.choose(logits.copy()) == wanted
            drawn.add(wanted)
        chain.close()
    assert len(drawn) > 40


@pytest.mark.parametrize("name", REPETITIONS)
def test_repetitions_are_those_of_llama_cpp(model, name):
    fields, letters = REPETITIONS[name]
    likely = sorted({byte_token(value) for value in letters.encode()})
    prompt = [likely[0], *likely, 7] * 4
    changed = 0
    for seed in range(8):
        sampling = Sampling(seed=seed, **fields)
        numbers = np.random.default_rng(seed)
        breakers = breaker_tokens(model, model.vocabulary_size, sampling.dry_breakers)
        chain, ours = Chain(model, sampling, prompt), Sampler(sampling, [], prompt, breakers)
        without = Sampler(replace(sampling, dry_multiplier=0.0), [], prompt)
        for _ in range(60):
            logits = numbers.standard_normal(model.vocabulary_size).astype(np.float32)
            logits[likely] += 9
            wanted, _ = chain.choose(logits)
            changed += without.choose(logits.copy()) != wanted
            assert ours.choose(logits.copy()) == wanted
        chain.close()
    assert changed > 20


@given(st.lists(st.integers(0, 2), max_size=40))
def test_common_ends_are_what_comparing_finds(newest):
    def compared(back: int) -> int:
        pairs = zip(newest, newest[back:], strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

    assert common_ends(newest) == [compared(back) for back in range(len(newest))]


@pytest.mark.model
def test_breakers_of_a_large_vocabulary(smollm2):
    """Where a newline, or a Persian comma, stands within tokens of several characters."""
    model = get_backend("llama_cpp").load(smollm2, LoadOptions(threads=1), lambda: False)
    text = 'The cat: "I sat."\n\nThe cat: "I sat."\n\nگربه، نشست.\nگربه، نشست.\nThe cat'
    prompt = model.tokenize(text, special=False)
    for breakers in (["\n", ":", '"', "*"], [" sat", "I s"], [], ["\n\nThe c"]):
        sampling = Sampling(dry_multiplier=3.0, dry_breakers=breakers, temperature=0, dry_last_n=99)
        found = breaker_tokens(model, model.vocabulary_size, breakers)
        chain, ours = Chain(model, sampling, prompt), Sampler(sampling, [], prompt, found)
        numbers = np.random.default_rng(len(breakers))
        for step in range(40):
            logits = numbers.standard_normal(model.vocabulary_size).astype(np.float32)
            logits[prompt] += 8
            logits[prompt[step % len(prompt)]] += 1
            wanted, _ = chain.choose(logits)
            assert ours.choose(logits) == wanted
        chain.close()
    model.close()


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
