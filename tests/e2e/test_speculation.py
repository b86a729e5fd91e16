"""A real model that repeats its prompt, with guesses and without."""

from __future__ import annotations

import platform

import pytest

from edgellm.api.chat import load
from edgellm.backends.base import Sampling

PROMPTS = (
    'Write this JSON again:\n\n{"name":"Mina Karimi","age":34,"city":"Shiraz","orders":[{"id":1001,'
    '"item":"lamp","price":19.5},{"id":1002,"item":"chair","price":49.0}]}',
    "Repeat this text word for word:\n\nThe old stone bridge was built in 1742 by a mason from the "
    "next valley. It has three arches, and the middle one is wide enough for a boat.",
)


@pytest.mark.model
@pytest.mark.skipif(
    platform.machine() != "x86_64",
    reason="on ARM llama.cpp multiplies two tokens by other kernels than one",
)
def test_greedy_texts_are_the_very_same_where_batches_are_rounded_alike(smollm2):
    """Keys and values of different or quantized types leave flash attention one kernel for both."""
    with load(smollm2, context=512, cache_type="q8_0", threads=1) as model:
        for prompt in PROMPTS:
            plain, guessed = (
                model.chat(prompt, max_tokens=48, sampling=Sampling(temperature=0), speculate=how)
                for how in ("off", "ngram")
            )
            assert plain.text == guessed.text
            assert (plain.drafted_tokens, plain.accepted_tokens) == (0, 0)
            assert guessed.accepted_tokens > guessed.completion_tokens // 2
