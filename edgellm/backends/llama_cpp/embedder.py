"""Vectors of texts from llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import CancelledError, LoadOptions
from edgellm.backends.llama_cpp.calls import check_evaluated, make_context
from edgellm.backends.llama_cpp.context import ABORTED
from edgellm.backends.llama_cpp.interrupt import abortable
from edgellm.backends.llama_cpp.library import CLOSED, log, quiet
from edgellm.backends.llama_cpp.model import LlamaCppModel
from edgellm.errors import BackendError, UsageError

__all__ = ["LlamaCppEmbedder"]

# Tokens that are evaluated at a time, where no text is longer. Attention costs their square, also
# between texts that do not see each other, and larger products are no faster.
BATCH = 512
SEQUENCES = 64  # texts that are evaluated at a time; llama.cpp has at most 256
POOLINGS = {"mean": 1, "cls": 2, "last": 3}  # llama_pooling_type, as in llama-embedding's --pooling
NO_POOLING, RANK = 0, 4


class LlamaCppEmbedder:
    """See `edgellm.backends.base.Embedder`.

    A context is made for the longest text so far and not for the longest that the model can read:
    what an encoder computes of a text lies in memory at once.

    Args:
        path: a model file that has passed the safety check.
        options: how the model is loaded.
        cancelled: asked while the model is loaded.
        pooling: None takes what the file says.

    Raises:
        CancelledError: `cancelled` gave True.
        UsageError: no pooling is called so, or the file says none and none is given.
        BackendError: the file is not a model that gives vectors of texts.
        DoesNotFitError: there is not enough memory.
    """

    def __init__(
        self,
        path: Path,
        options: LoadOptions,
        cancelled: Callable[[], bool],
        pooling: str | None = None,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise UsageError(
                f"no pooling is called {pooling!r}", hint=f"known: {', '.join(POOLINGS)}"
            )
        self.path = path
        self._context: Any = None
        self._room = 0
        self._model = LlamaCppModel(path, options, cancelled, "vectors")
        native = self._native = self._model.native
        handle = self._model.handle
        try:
            self._refuse_other_kinds()
            self.pooling = pooling or self._own_pooling()
            # llama.cpp's pooling takes an output of every token, which of a decoder are logits too.
            # Where a token sees only those before it, one output of the last is all that is needed,
            # and a long text can be evaluated in steps.
            self._last_alone = self._model.causal and self.pooling == "last"
            self.dimension = int(native.llama_model_n_embd_out(handle))
            self.max_tokens = self._model.trained_context
            self._open(min(BATCH, self.max_tokens))
        except BaseException:
            self.close()
            raise
        # llama_decode is for what keeps keys and values; the others have encode alone.
        memory = native.llama_get_memory(self._context)
        encodes = native.llama_model_has_encoder(handle) or not memory
        self._run = native.llama_encode if encodes else native.llama_decode

    @property
    def tokenizer(self) -> LlamaCppModel:
        """The model's vocabulary."""
        return self._model

    def embed(
        self, texts: Sequence[Sequence[int]], cancelled: Callable[[], bool]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Evaluate texts; see `edgellm.backends.base.Embedder.embed`."""
        lengths = [len(text) for text in texts]
        if not all(0 < length <= self.max_tokens for length in lengths):
            raise BackendError(f"texts of {min(lengths)} to {max(lengths)} tokens to embed")
        if max(lengths, default=0) > self._room:
            # the next power of two, so that a series of growing texts makes few contexts
            self._open(min(1 << (max(lengths) - 1).bit_length(), self.max_tokens))
        first = 0
        while first < len(texts):
            end, tokens = first, 0
            while (
                end < len(texts)
                and end - first < SEQUENCES
                and tokens + lengths[end] <= self._batch
            ):
                tokens += lengths[end]
                end += 1
            # a text that is longer than a batch of several is one by itself
            end = max(end, first + 1)
            yield self._embed_batch(texts[first:end], cancelled)
            first = end

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._close_context()
        self._native = CLOSED
        self._model.close()

    def _refuse_other_kinds(self) -> None:
        native, handle = self._native, self._model.handle
        kind = self._model.architecture
        if native.llama_model_has_encoder(handle) and native.llama_model_has_decoder(handle):
            raise BackendError(
                f"{self.path}: {kind} has an encoder and a decoder, and gives no vectors of texts"
            )
        if native.llama_model_is_diffusion(handle):
            raise BackendError(f"{self.path}: {kind} is a diffusion model, which embeds no texts")

    def _own_pooling(self) -> str:
        kind = self._model.architecture
        number = self._model.metadata(f"{kind}.pooling_type") or str(NO_POOLING)
        for name, value in POOLINGS.items():
            if number == str(value):
                return name
        if number == str(RANK):
            raise BackendError(
                f"{self.path}: the model ranks pairs of texts, and gives no vectors of them"
            )
        raise UsageError(
            f"{self.path}: the file does not say how vectors of tokens become one of the text",
            hint="--pooling mean, cls or last says it; models made for writing give poor vectors",
        )

    def _open(self, size: int) -> None:
        """Make the context for texts of `size` tokens."""
        self._close_context()
        native = self._native
        params = native.llama_context_default_params()
        params.embeddings = True
        params.n_ctx = params.n_batch = size
        params.n_seq_max = min(SEQUENCES, size)
        if self._last_alone:
            params.pooling_type = NO_POOLING
            params.n_ubatch = min(size, BATCH)
            params.n_outputs_max = params.n_seq_max
        else:
            params.pooling_type = POOLINGS[self.pooling]
            params.n_ubatch = size  # a text is evaluated whole
        params.kv_unified = True  # all of the cache for one text, or shared among several
        params.n_threads = params.n_threads_batch = self._model.threads
        self._context = make_context(
            self.path, self._model.handle, params, size, "shorter texts need less memory"
        )
        self._room = size
        self._batch = min(size, BATCH)

    def _embed_batch(
        self, texts: Sequence[Sequence[int]], cancelled: Callable[[], bool]
    ) -> npt.NDArray[np.float32]:
        """Evaluate texts that fit a batch together, each as a sequence: (texts, dimension)."""
        native, context = self._native, self._context
        tokens = np.concatenate([np.asarray(text, np.int32) for text in texts])
        lengths = np.array([len(text) for text in texts])
        ends = np.cumsum(lengths)
        numbers = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
        places = (np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)).astype(np.int32)
        memory = native.llama_get_memory(context)
        if memory:
            native.llama_memory_clear(memory, False)
        quiet()
        log.clear()
        with abortable(native, context, cancelled) as stopped:
            if not self._last_alone:
                self._evaluate(tokens, places, numbers, stopped, outputs=True)
            else:
                last = np.zeros(len(tokens), np.bool_)
                last[ends - 1] = True
                native.llama_set_embeddings(context, False)
                self._evaluate(tokens[~last], places[~last], numbers[~last], stopped, outputs=False)
                native.llama_set_embeddings(context, True)
                self._evaluate(tokens[last], places[last], numbers[last], stopped, outputs=True)
        found = np.empty((len(texts), self.dimension), np.float32)
        read = (
            native.llama_get_embeddings_ith if self._last_alone else native.llama_get_embeddings_seq
        )
        for number in range(len(texts)):
            vector = read(context, number)
            if not vector:
                raise BackendError(f"{self.path}: the model gives no vectors of texts")
            found[number] = np.ctypeslib.as_array(vector, (self.dimension,))
        return found

    def _evaluate(
        self,
        tokens: npt.NDArray[np.int32],
        places: npt.NDArray[np.int32],
        numbers: npt.NDArray[np.int32],
        stopped: Callable[[], bool],
        *,
        outputs: bool,
    ) -> None:
        """Evaluate tokens at their places in the sequences of these numbers."""
        if stopped():
            raise CancelledError
        count = len(tokens)
        if not count:
            return
        ones, flags = np.ones(count, np.int32), np.full(count, outputs, np.int8)
        pointers = numbers.ctypes.data + 4 * np.arange(count, dtype=np.uintp)
        batch = self._native.llama_batch(
            n_tokens=count,
            token=_pointer(tokens, ctypes.c_int32),
            pos=_pointer(places, ctypes.c_int32),
            n_seq_id=_pointer(ones, ctypes.c_int32),
            seq_id=_pointer(pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(flags, ctypes.c_int8),
        )
        status = self._run(self._context, batch)
        if status == ABORTED:
            raise CancelledError
        check_evaluated(self.path, status)

    def _close_context(self) -> None:
        if self._context:
            self._native.llama_free(self._context)
            self._context = None


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    """Give a pointer for a struct; the caller keeps the array alive."""
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
