"""llama.cpp's own sampler chain, in the order of its command line tools."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import Sampling

__all__ = ["make_chain", "sample_allowed", "suppressed_tokens"]

RANKS = 100  # of which Mirostat 1 estimates how probabilities fall, as in llama.cpp's own tools
# llama_token_data
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def make_chain(library: Any, vocab: Any, sampling: Sampling) -> Any:
    """Build the chain; the caller frees it with `llama_sampler_free`.

    The order is that of llama.cpp's common sampler: bias, penalties, DRY, top-n-sigma, top-k,
    typical, top-p, min-p, XTC, temperature, and the draw; or bias, temperature and Mirostat. At
    temperature 0 or below bias and penalties alone stand before the choice of the likeliest token.
    """
    chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
    n_vocab = library.llama_vocab_n_tokens(vocab)

    def add(sampler: Any) -> None:
        library.llama_sampler_chain_add(chain, sampler)

    suppressed = suppressed_tokens(library, vocab)
    if suppressed:
        biases = (library.llama_logit_bias * len(suppressed))()
        for index, token in enumerate(suppressed):
            biases[index].token = token
            biases[index].bias = -math.inf
        add(library.llama_sampler_init_logit_bias(n_vocab, len(suppressed), biases))
    # Greedy choice goes before Mirostat, which divides by the probability 0 there.
    mirostat = sampling.mirostat if sampling.temperature > 0 else 0
    if mirostat:
        add(library.llama_sampler_init_temp(sampling.temperature))
        tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
        if mirostat == 1:
            add(library.llama_sampler_init_mirostat(n_vocab, sampling.seed, tau, eta, RANKS))
        else:
            add(library.llama_sampler_init_mirostat_v2(sampling.seed, tau, eta))
        return chain
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
    if sampling.breaks_repetitions:
        breakers = [text.encode() for text in sampling.dry_breakers]
        add(
            library.llama_sampler_init_dry(
                vocab,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                sampling.dry_last_n,
                (ctypes.c_char_p * len(breakers))(*breakers),
                len(breakers),
            )
        )
    if sampling.temperature <= 0:
        add(library.llama_sampler_init_greedy())
        return chain
    if sampling.top_n_sigma > 0:
        add(library.llama_sampler_init_top_n_sigma(sampling.top_n_sigma))
    add(library.llama_sampler_init_top_k(sampling.top_k))
    add(library.llama_sampler_init_typical(sampling.typical_p, 0))
    add(library.llama_sampler_init_top_p(sampling.top_p, 0))
    add(library.llama_sampler_init_min_p(sampling.min_p, 0))
    if sampling.xtc_probability > 0:
        probability, threshold = sampling.xtc_probability, sampling.xtc_threshold
        add(library.llama_sampler_init_xtc(probability, threshold, 0, sampling.seed))
    add(library.llama_sampler_init_temp(sampling.temperature))
    add(library.llama_sampler_init_dist(sampling.seed))
    return chain


def suppressed_tokens(library: Any, vocab: Any) -> list[int]:
    """List the tokens that a model never writes."""
    count = ctypes.c_int32(0)
    tokens = library.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return [tokens[index] for index in range(count.value)] if tokens else []


def sample_allowed(library: Any, chain: Any, logits: Any, mask: npt.NDArray[np.bool_]) -> int:
    """Sample as `llama_sampler_sample` does, with the allowed tokens alone as candidates.

    So every cut and the draw see the distribution under the mask, and no probability of zero.

    Args:
        library: llama.cpp.
        chain: what `make_chain` gives; it accepts the token.
        logits: a pointer to the logits of all tokens.
        mask: whether each may come next, (vocabulary,).
    """
    allowed = np.flatnonzero(mask)
    candidates = np.zeros(len(allowed), CANDIDATE)
    candidates["id"] = allowed
    candidates["logit"] = np.ctypeslib.as_array(logits, mask.shape)[allowed]
    array = library.llama_token_data_array(
        data=candidates.ctypes.data_as(ctypes.POINTER(library.llama_token_data)),
        size=len(candidates),
        selected=-1,
        sorted=False,
    )
    library.llama_sampler_apply(chain, ctypes.byref(array))
    token = int(array.data[array.selected].id)  # where XTC cuts, the array begins later
    library.llama_sampler_accept(chain, token)
    return token
