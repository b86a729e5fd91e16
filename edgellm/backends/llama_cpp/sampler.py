"""llama.cpp's own sampler chain, in the order of its command line tools."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from edgellm.backends.base import Sampling

__all__ = ["make_chain"]


def make_chain(library: Any, vocab: Any, sampling: Sampling) -> Any:
    """Build the chain; the caller frees it with `llama_sampler_free`.

    The order is that of llama.cpp's common sampler: bias, penalties, top-k, typical, top-p, min-p,
    temperature, and the draw. At temperature 0 or below only the penalties stand before the choice
    of the likeliest token, because no cut removes that one.
    """
    chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
    n_vocab = library.llama_vocab_n_tokens(vocab)

    def add(sampler: Any) -> None:
        library.llama_sampler_chain_add(chain, sampler)

    suppressed = ctypes.c_int32(0)
    tokens = library.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(suppressed))
    if suppressed.value > 0 and tokens:
        biases = (library.llama_logit_bias * suppressed.value)()
        for index in range(suppressed.value):
            biases[index].token = tokens[index]
            biases[index].bias = -math.inf
        add(library.llama_sampler_init_logit_bias(n_vocab, suppressed.value, biases))
    if sampling.penalizes:
        add(
            library.llama_sampler_init_penalties(
                n_vocab,
                sampling.repeat_last_n,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature <= 0:
        add(library.llama_sampler_init_greedy())
        return chain
    add(library.llama_sampler_init_top_k(sampling.top_k))
    add(library.llama_sampler_init_typical(sampling.typical_p, 0))
    add(library.llama_sampler_init_top_p(sampling.top_p, 0))
    add(library.llama_sampler_init_min_p(sampling.min_p, 0))
    add(library.llama_sampler_init_temp(sampling.temperature))
    add(library.llama_sampler_init_dist(sampling.seed))
    return chain
