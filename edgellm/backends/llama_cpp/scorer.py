"""All logits of a text from llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import CancelledError, LoadOptions, output_limit
from edgellm.backends.llama_cpp.adapters import use_adapters
from edgellm.backends.llama_cpp.calls import check_evaluated, make_context, marked_batch
from edgellm.backends.llama_cpp.context import ABORTED, PADDING
from edgellm.backends.llama_cpp.interrupt import abortable
from edgellm.backends.llama_cpp.library import CLOSED, log, quiet
from edgellm.backends.llama_cpp.model import LlamaCppModel
from edgellm.errors import BackendError

__all__ = ["LlamaCppScorer"]

# Tokens that llama.cpp evaluates at a time, where its caller gives as many.
BATCH = 512


class LlamaCppScorer:
    """See `edgellm.backends.base.Scorer`.

    The context is llama.cpp's default one, as llama-perplexity has it: keys and values in float16.

    Args:
        path: a model file that has passed the safety check.
        size: the most tokens of a text.
        options: how the model is loaded.
        cancelled: asked while the model is loaded.

    Raises:
        CancelledError: `cancelled` gave True.
        BackendError: the file is not a model that llama.cpp can run.
        DoesNotFitError: there is not enough memory.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        options: LoadOptions,
        cancelled: Callable[[], bool],
    ) -> None:
        self.path = path
        self._context: Any = None
        self._model = LlamaCppModel(path, options, cancelled)
        native = self._native = self._model.native
        params = native.llama_context_default_params()
        params.n_ctx = -(-size // PADDING) * PADDING
        params.n_batch = params.n_ubatch = self._batch = min(BATCH, params.n_ctx)
        params.n_outputs_max = self.output_limit = output_limit(
            self._model.vocabulary_size, self._batch
        )
        params.n_threads = params.n_threads_batch = self._model.threads
        try:
            self._context = make_context(path, self._model.handle, params, size)
        except BaseException:
            self._model.close()
            raise
        use_adapters(self._context, self._model.adapters, self._model.scales)
        self._memory = native.llama_get_memory(self._context)

    @property
    def tokenizer(self) -> LlamaCppModel:
        """The model's vocabulary."""
        return self._model

    @property
    def vocabulary_size(self) -> int:
        """The number of logits after a token."""
        return self._model.vocabulary_size

    def restart(self) -> None:
        """Forget the text so far."""
        self._native.llama_memory_clear(self._memory, True)

    def extend(
        self, tokens: Sequence[int], cancelled: Callable[[], bool], *, outputs: bool
    ) -> npt.NDArray[np.float32]:
        """Evaluate the next tokens; see `edgellm.backends.base.Scorer.extend`.

        The logits lie in llama.cpp's memory, until the next call.
        """
        native, step = self._native, self._batch
        if outputs and len(tokens) > self.output_limit:
            raise BackendError(f"{self.path}: logits of {len(tokens)} tokens at a time")
        quiet()
        log.clear()
        with abortable(native, self._context, cancelled) as stopped:
            for start in range(0, len(tokens), step):
                if stopped():
                    raise CancelledError
                self._evaluate(tokens[start : start + step], outputs)
        if not outputs or not tokens:
            return np.empty((0, self.vocabulary_size), np.float32)
        logits = native.llama_get_logits(self._context)
        if not logits:
            raise BackendError(f"{self.path}: the model gives no logits")
        return np.ctypeslib.as_array(logits, (len(tokens), self.vocabulary_size))

    def _evaluate(self, tokens: Sequence[int], outputs: bool) -> None:
        """Evaluate one batch; positions go on where the text ends."""
        batch = marked_batch(tokens, [outputs] * len(tokens))
        status = self._native.llama_decode(self._context, batch)
        if status == ABORTED:
            raise CancelledError
        check_evaluated(self.path, status)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        if self._context:
            self._native.llama_free(self._context)
            self._context = None
            self._native = CLOSED
        self._model.close()
