"""One context of llama.cpp: its key-value cache, the prompt and the token loop."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.backends.base import CancelledError, Constraint, Drafter, Sampling
from edgellm.backends.llama_cpp.adapters import use_adapters
from edgellm.backends.llama_cpp.calls import check_evaluated, make_context, marked_batch
from edgellm.backends.llama_cpp.interrupt import abortable
from edgellm.backends.llama_cpp.library import CLOSED, log, quiet
from edgellm.backends.llama_cpp.sampler import make_chain, sample_allowed
from edgellm.device.memory import Runtime, scores_batch
from edgellm.errors import BackendError

if TYPE_CHECKING:
    from edgellm.backends.llama_cpp.model import LlamaCppModel

__all__ = ["ABORTED", "PADDING", "LlamaCppContext", "open_native"]

# Positions are padded to this by llama.cpp itself.
PADDING = 256
NO_FLASH_ATTENTION = 0  # llama_flash_attn_type
CACHE_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type
ABORTED = 2  # what llama_decode gives when the abort callback said so


def open_native(
    model: LlamaCppModel, size: int, cache_type: str, *, outputs: int, sequences: int = 1
) -> Any:
    """Make a context of llama.cpp for `size` tokens in all, of so many texts; gives its handle.

    Logits are there of `outputs` tokens at a time alone: a big vocabulary costs much.

    Raises:
        DoesNotFitError: there is not enough memory.
        BackendError: llama.cpp fails, or cannot keep this model's cache in that type.
    """
    params = model.native.llama_context_default_params()
    params.n_ctx = -(-size // PADDING) * PADDING
    params.n_seq_max = sequences
    params.kv_unified = True  # texts with a common beginning share it
    params.swa_full = True  # without, a sliding window forgets what going back relies on
    params.n_outputs_max = outputs
    params.type_k = params.type_v = CACHE_TYPES[cache_type]
    params.n_threads = params.n_threads_batch = model.threads
    batch = scores_batch(*model.head, Runtime(size, cache_type, offloaded=model.offloaded))
    if batch is not None:
        params.flash_attn_type = NO_FLASH_ATTENTION
        params.n_ubatch = batch
    try:
        return make_context(
            model.path, model.handle, params, size, "a smaller --ctx needs less memory"
        )
    except BackendError as error:
        if cache_type == "f16":
            raise
        # Heads that are no multiple of a block of 32, or an attention without a kernel for it.
        raise BackendError(
            f"{model.path}: llama.cpp's cache of this model cannot be kept as {cache_type}: "
            f"{log.reason()}",
            hint="--cache-type f16 suits every model",
        ) from error


class LlamaCppContext:
    """See `edgellm.backends.base.Context`."""

    def __init__(self, model: LlamaCppModel, size: int, cache_type: str, drafts: int = 0) -> None:
        native = self._native = model.native
        self._model = model
        self._size = size
        self._chain: Any = None
        self._context: Any = None
        self.prefills = 0
        self.draft_limit = 0 if model.recurrent else drafts
        self._context = open_native(model, size, cache_type, outputs=1 + self.draft_limit)
        self._scales = model.scales
        use_adapters(self._context, model.adapters, self._scales)
        self._memory = native.llama_get_memory(self._context)
        self._chunk = min(native.llama_n_batch(self._context), size)
        self._held: list[int] = []  # the tokens whose keys and values are in the cache
        # One batch of one token, used again for each: the token, and the struct that points to it.
        self._token = (ctypes.c_int32 * 1)()
        self._batch = native.llama_batch_get_one(self._token, 1)
        self.sampled: int | None = None  # not evaluated yet, or as the first of `_ahead`
        self._drafter: Drafter | None = None
        # What is left of a draft, the next token last: it is in the cache behind `_held`.
        self._ahead: list[int] = []
        self._row = -1  # of the batch: the token after which is sampled
        self._constraint: Constraint | None = None
        self._drawn_under: Constraint | None = None  # what takes the sampled token

    @property
    def size(self) -> int:
        """How many tokens it can hold."""
        return self._size

    @property
    def held(self) -> Sequence[int]:
        """The tokens whose keys and values are in the cache."""
        return self._held

    def prefill(
        self, tokens: Sequence[int], sampling: Sampling, cancelled: Callable[[], bool]
    ) -> int:
        """Evaluate a prompt; see `edgellm.backends.base.Context.prefill`."""
        native = self._native
        if not 0 < len(tokens) <= self._size:
            raise BackendError(f"a prompt of {len(tokens)} tokens for a context of {self._size}")
        self.prefills += 1
        self._constraint = self._drafter = None
        kept = self._keep(tokens)
        self._free_chain()
        self._chain = make_chain(native, self._model.vocab, sampling)
        if sampling.recent:
            for token in tokens[-sampling.recent :]:
                native.llama_sampler_accept(self._chain, token)
        self.sampled = None
        self._evaluate(tokens[kept:], cancelled)
        if not native.llama_get_logits_ith(self._context, -1):
            raise BackendError(f"{self._model.path}: the model gives no logits to sample from")
        return kept

    def constrain(self, constraint: Constraint | None) -> None:
        """Sample under a constraint; see `edgellm.backends.base.Context.constrain`."""
        self._constraint = constraint

    def speculate(self, drafter: Drafter) -> None:
        """Evaluate drafts too; see `edgellm.backends.base.Context.speculate`."""
        if self.draft_limit:
            drafter.begin(self._held)
            self._drafter = drafter

    def put(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Let tokens follow; see `edgellm.backends.base.Context.put`."""
        if not 0 < len(tokens) <= self._size - len(self._held):
            raise BackendError(f"{len(tokens)} tokens cannot be put behind {len(self._held)}")
        self.sampled = None
        self._take_back()
        self._evaluate(tokens, cancelled)
        self._row = -1
        if self._drafter is not None:
            self._drafter.begin(self._held)
        for token in tokens:
            self._native.llama_sampler_accept(self._chain, token)
            if self._constraint is not None:
                self._constraint.take(token)

    def next_piece(self) -> bytes | None:
        """Sample one token; the one before it is evaluated first."""
        native = self._native
        token = self.sampled
        if token is not None:
            if self._drafter is None or not self._drafted(token, self._drafter):
                self._token[0] = token
                status = native.llama_decode(self._context, self._batch)
                if status:
                    check_evaluated(self._model.path, status)
            self._held.append(token)
            if self._drawn_under is not None:
                self.sampled = None
                self._drawn_under.take(token)
        constraint = self._drawn_under = self._constraint
        if constraint is None:
            token = native.llama_sampler_sample(self._chain, self._context, self._row)
        elif constraint.complete:
            self.sampled = None
            return None
        else:
            logits = native.llama_get_logits_ith(self._context, self._row)
            token = sample_allowed(native, self._chain, logits, constraint.mask())
        self.sampled = token
        pieces = self._model.pieces
        return pieces[token] if token in pieces else self._model.piece(token)

    def adapt(self, scales: Sequence[float]) -> None:
        """Use adapters so many times; see `edgellm.backends.base.Context.adapt`."""
        if tuple(scales) == self._scales:
            return
        use_adapters(self._context, self._model.adapters, scales)
        self._scales = tuple(scales)
        self.prefills += 1
        self.sampled = None
        self._native.llama_memory_clear(self._memory, True)
        self._held, self._ahead = [], []

    @property
    def state_size(self) -> int:
        """How many bytes `save_state` would write now."""
        return int(self._native.llama_state_get_size(self._context))

    def save_state(self, path: Path) -> None:
        """Write keys and values; see `edgellm.backends.base.Context.save_state`."""
        self._take_back()
        held = (ctypes.c_int32 * len(self._held))(*self._held)
        log.clear()
        # The state of one sequence would lack what a sliding window has left behind, which a prompt
        # that goes another way looks at again: all is written.
        written = self._native.llama_state_save_file(self._context, bytes(path), held, len(held))
        if not written:
            raise BackendError(f"{path}: llama.cpp cannot write its state: {log.reason() or ''}")

    def load_state(self, path: Path, tokens: Sequence[int]) -> None:
        """Take keys and values; see `edgellm.backends.base.Context.load_state`."""
        native = self._native
        self.prefills += 1
        self.sampled = None
        native.llama_memory_clear(self._memory, True)
        self._held, self._ahead = [], []
        room = max(len(tokens), 1)
        found, count = (ctypes.c_int32 * room)(), ctypes.c_size_t(0)
        log.clear()
        read = native.llama_state_load_file(
            self._context, bytes(path), found, room, ctypes.byref(count)
        )
        if not read or list(found[: count.value]) != list(tokens):
            native.llama_memory_clear(self._memory, True)
            why = log.reason() or "it holds other tokens"
            raise BackendError(f"{path}: llama.cpp cannot read its state: {why}")
        self._held = list(tokens)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._free_chain()
        if self._context:
            self._native.llama_free(self._context)
            self._context = None
            self._native = CLOSED

    def _drafted(self, token: int, drafter: Drafter) -> bool:
        """Evaluate a token with a draft behind it, or find it evaluated; False for no draft."""
        if self._ahead and self._ahead[-1] == token:
            self._ahead.pop()
            self._row += 1
            drafter.accept()
            return True
        self._take_back()
        self._row = -1
        limit = min(self.draft_limit, self._size - len(self._held) - 1)
        draft = drafter.propose(self._held, token, limit)
        if not draft:
            return False
        batch = marked_batch([token, *draft], [True] * (1 + len(draft)))
        check_evaluated(self._model.path, self._native.llama_decode(self._context, batch))
        self._ahead = list(draft[::-1])
        self._row = 0
        return True

    def _take_back(self) -> None:
        """Remove what is left of a draft from the cache."""
        if self._ahead:
            self._native.llama_memory_seq_rm(self._memory, 0, len(self._held), -1)
            self._ahead = []

    def _evaluate(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        native = self._native
        quiet()
        log.clear()
        with abortable(native, self._context, cancelled) as stopped:
            for start in range(0, len(tokens), self._chunk):
                if stopped():
                    raise CancelledError
                part = tokens[start : start + self._chunk]
                array = (ctypes.c_int32 * len(part))(*part)
                status = native.llama_decode(
                    self._context, native.llama_batch_get_one(array, len(part))
                )
                if status == ABORTED:
                    # Some of the part may be in the cache: the next prefill removes it.
                    raise CancelledError
                check_evaluated(self._model.path, status)
                self._held.extend(part)

    def _keep(self, tokens: Sequence[int]) -> int:
        """Drop what is in the cache beyond the common prefix; gives the prefix's length.

        The last token is always evaluated again, because its logits are needed.
        """
        native = self._native
        common = 0
        for held, wanted in zip(self._held, tokens[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        # A state of recurrent layers cannot be cut: then everything is evaluated again.
        if not native.llama_memory_seq_rm(self._memory, 0, common, -1):
            native.llama_memory_clear(self._memory, False)
            common = 0
        del self._held[common:]
        self._ahead, self._row = [], -1
        return common

    def _free_chain(self) -> None:
        if self._chain:
            self._native.llama_sampler_free(self._chain)
            self._chain = None
