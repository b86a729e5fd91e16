"""Continuations of one prompt in llama.cpp: sequences that share the cells of their beginning."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import CancelledError, Sampling
from edgellm.backends.llama_cpp.adapters import use_adapters
from edgellm.backends.llama_cpp.calls import check_evaluated
from edgellm.backends.llama_cpp.context import ABORTED, open_native
from edgellm.backends.llama_cpp.interrupt import abortable
from edgellm.backends.llama_cpp.library import CLOSED, log, quiet
from edgellm.backends.llama_cpp.sampler import make_chain, sample_allowed, suppressed_tokens
from edgellm.errors import BackendError

if TYPE_CHECKING:
    from edgellm.backends.llama_cpp.model import LlamaCppModel

__all__ = ["LlamaCppBranches"]


class LlamaCppBranches:
    """See `edgellm.backends.base.Branches`.

    All sequences lie in one cache (llama.cpp's kv_unified), so that copying one marks its cells as
    another's too and moves nothing. One call of llama_decode evaluates a token of each.
    """

    def __init__(self, model: LlamaCppModel, size: int, most: int, cache_type: str) -> None:
        native = self._native = model.native
        self._model = model
        self._size = size
        self._most = most
        self._chains: list[Any] = []
        self._context: Any = open_native(model, size, cache_type, outputs=most, sequences=most)
        use_adapters(self._context, model.adapters, model.scales)
        self._memory = native.llama_get_memory(self._context)
        self._chunk = min(native.llama_n_batch(self._context), size)
        self._prompt: Sequence[int] = ()
        self._sequences: list[int] = []  # of each branch
        self._rows: list[int] = []  # which output is each branch's
        # One batch for all steps; positions follow from the cache.
        self._tokens = (ctypes.c_int32 * most)()
        self._ids = (ctypes.c_int32 * most)()
        self._counts = (ctypes.c_int32 * most)(*[1] * most)
        self._outputs = (ctypes.c_int8 * most)(*[1] * most)
        width = ctypes.sizeof(ctypes.c_int32)
        pointer = ctypes.POINTER(ctypes.c_int32)
        start = ctypes.addressof(self._ids)
        self._id_pointers = (pointer * most)(
            *(ctypes.cast(start + width * index, pointer) for index in range(most))
        )
        self._suppressed = suppressed_tokens(native, model.vocab)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._sequences)

    def prefill(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Evaluate the prompt; see `edgellm.backends.base.Branches.prefill`."""
        native = self._native
        if not 0 < len(tokens) <= self._size:
            raise BackendError(f"a prompt of {len(tokens)} tokens for {self._size}")
        native.llama_memory_clear(self._memory, False)
        self._sequences, self._rows = [], []
        self._prompt = tokens
        quiet()
        log.clear()
        with abortable(native, self._context, cancelled) as stopped:
            for start in range(0, len(tokens), self._chunk):
                if stopped():
                    raise CancelledError
                part = tokens[start : start + self._chunk]
                array = (ctypes.c_int32 * len(part))(*part)
                batch = native.llama_batch_get_one(array, len(part))
                status = native.llama_decode(self._context, batch)
                if status == ABORTED:
                    raise CancelledError
                check_evaluated(self._model.path, status)
        if not native.llama_get_logits_ith(self._context, -1):
            raise BackendError(f"{self._model.path}: the model gives no logits to sample from")
        self._sequences, self._rows = [0], [-1]

    def adapt(self, scales: Sequence[float]) -> None:
        """Use adapters so many times; see `edgellm.backends.base.Branches.adapt`."""
        use_adapters(self._context, self._model.adapters, scales)
        self._native.llama_memory_clear(self._memory, True)
        self._sequences, self._rows = [], []

    def keep(self, parents: Sequence[int]) -> None:
        """Let copies of branches follow; see `edgellm.backends.base.Branches.keep`."""
        native, memory = self._native, self._memory
        if not 0 < len(parents) <= self._most:
            raise BackendError(f"{len(parents)} branches, where there is room for {self._most}")
        for branch in set(range(self.count)) - set(parents):
            native.llama_memory_seq_rm(memory, self._sequences[branch], -1, -1)
        free = [at for at in range(self._most) if at not in {self._sequences[p] for p in parents}]
        sequences: list[int] = []
        for parent in parents:
            own = self._sequences[parent]
            if own in sequences:
                copy = free.pop()
                native.llama_memory_seq_cp(memory, own, copy, -1, -1)
                own = copy
            sequences.append(own)
        self._rows = [self._rows[parent] for parent in parents]
        self._sequences = sequences

    def step(self, tokens: Sequence[int]) -> None:
        """Evaluate one token of each; see `edgellm.backends.base.Branches.step`."""
        count = len(tokens)
        if count != self.count:
            raise BackendError(f"{count} tokens for {self.count} branches")
        self._tokens[:count] = list(tokens)
        self._ids[:count] = list(self._sequences)
        batch = self._native.llama_batch_get_one(self._tokens, count)
        batch.n_seq_id = self._counts
        batch.seq_id = self._id_pointers
        batch.logits = self._outputs
        check_evaluated(self._model.path, self._native.llama_decode(self._context, batch))
        self._rows = list(range(count))

    def logits(self) -> npt.NDArray[np.float32]:
        """Give the logits of all; see `edgellm.backends.base.Branches.logits`."""
        found = np.empty((self.count, self._model.vocabulary_size), np.float32)
        for branch, row in enumerate(self._rows):
            pointer = self._native.llama_get_logits_ith(self._context, row)
            found[branch] = np.ctypeslib.as_array(pointer, found.shape[1:])
        found[:, self._suppressed] = -np.inf
        return found

    def chooser(self, sampling: Sampling) -> Chooser:
        """Make what chooses tokens; see `edgellm.backends.base.Branches.chooser`."""
        chain = make_chain(self._native, self._model.vocab, sampling)
        self._chains.append(chain)
        if sampling.recent:
            for token in self._prompt[-sampling.recent :]:
                self._native.llama_sampler_accept(chain, token)
        return Chooser(self, chain)

    def sample(self, chain: Any, branch: int, mask: npt.NDArray[np.bool_] | None) -> int:
        """Let a chain choose a token behind a branch."""
        native, row = self._native, self._rows[branch]
        if mask is None:
            return int(native.llama_sampler_sample(chain, self._context, row))
        logits = native.llama_get_logits_ith(self._context, row)
        return sample_allowed(native, chain, logits, mask)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        for chain in self._chains:
            self._native.llama_sampler_free(chain)
        self._chains = []
        if self._context:
            self._native.llama_free(self._context)
            self._context = None
            self._native = CLOSED


class Chooser:
    """See `edgellm.backends.base.Chooser`."""

    def __init__(self, branches: LlamaCppBranches, chain: Any) -> None:
        self._branches = branches
        self._chain = chain

    def choose(self, branch: int, mask: npt.NDArray[np.bool_] | None = None) -> int:
        """Choose the token that follows a branch."""
        return self._branches.sample(self._chain, branch, mask)
