"""A loaded model the weights of which are changed in place, without loading it again.

Weights are read into memory of their own (a mapped file cannot be written to) and kept as the file
has them (not repacked for a processor), so that the blocks of a file are what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.backends.base import CancelledError
from edgellm.backends.llama_cpp.calls import (
    check_evaluated,
    load_model,
    make_context,
    marked_batch,
)
from edgellm.backends.llama_cpp.interrupt import noted_interrupt
from edgellm.backends.llama_cpp.library import library, log
from edgellm.backends.llama_cpp.tensor import Tensor, check_layout
from edgellm.device.cpu import default_threads
from edgellm.errors import BackendError

__all__ = ["SwapModel"]

READ = 0  # llama_load_mode: into memory, not mapped
NEVER = 0  # llama_lazy_mode: no weight stays mapped until it is used
SOURCES_READ = 3  # a weight is the first operand of a product, of rows taken out, or the second


class SwapModel:
    """A model, a context for one text at a time, and its weights by their names.

    Attributes:
        vocabulary: the number of logits after a token.
        weights: the names of what can be written.
    """

    def __init__(
        self,
        path: Path,
        longest: int,
        *,
        threads: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load a file that has passed the safety check.

        Args:
            path: a GGUF file.
            longest: the tokens of the longest text.
            threads: how many to use; None for one on each physical core.
            cancelled: asked during loading and between texts.

        Raises:
            BackendError: llama.cpp cannot load it, or lays its tensors out in an unknown way.
            CancelledError: `cancelled` gave True.
        """
        check_layout()
        native = self._native = library()
        self.path, self._longest, self._cancelled = path, longest, cancelled
        self._model: Any = None
        self._context: Any = None
        self._addresses: dict[str, int] = {}
        self._looking = True
        self._moved: tuple[str, NDArray[np.float32]] | None = None
        self._tokens: Sequence[int] = ()
        self._callback = native.ggml_backend_sched_eval_callback(self._called)
        try:
            self._load(threads or default_threads())
            self.logits([0] * min(2, longest), 0)
        except BaseException:
            self.close()
            raise
        self._looking = False

    def _load(self, threads: int) -> None:
        native, path = self._native, self.path
        params = native.llama_model_default_params()
        params.load_mode = READ
        params.lazy_mode = NEVER
        params.use_extra_bufts = False
        params.n_gpu_layers = 0
        self._model = load_model(path, params, self._cancelled)
        if not native.llama_model_has_decoder(self._model):
            raise BackendError(f"{path}: a model without logits")
        vocab = native.llama_model_get_vocab(self._model)
        self.vocabulary = int(native.llama_vocab_n_tokens(vocab))
        context = native.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = self._longest
        context.n_threads = context.n_threads_batch = threads
        context.cb_eval = self._callback
        self._context = make_context(path, self._model, context, self._longest)

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that the graph computes with."""
        return tuple(self._addresses)

    def write(self, name: str, blocks: NDArray[np.uint8]) -> None:
        """Put other values in the place of a weight, in the type that it has.

        Raises:
            BackendError: there is no such weight, or it has another number of bytes.
        """
        if name not in self._addresses:
            raise BackendError(f"{self.path}: nothing is computed with {name!r}")
        Tensor(self._addresses[name]).write(blocks)

    def move_rows(self, name: str, moves: NDArray[np.float32] | None) -> None:
        """Let rows that are looked up in a weight come out moved; None takes that back.

        What multiplies with the same weight sees nothing of it.

        Args:
            name: of the weight.
            moves: float32 (rows, columns), what is added to each row.
        """
        self._moved = None if moves is None else (name, moves)

    def logits(self, tokens: Sequence[int], begin: int) -> NDArray[np.float32]:
        """Evaluate a text from its start and give the logits after each token from `begin` on.

        Returns:
            float32 (tokens - begin, vocabulary), in llama.cpp's memory until the next call.

        Raises:
            BackendError: the model fails.
            CancelledError: `cancelled` gave True.
        """
        if self._cancelled():
            raise CancelledError
        native, count = self._native, len(tokens)
        native.llama_memory_clear(native.llama_get_memory(self._context), True)
        self._tokens = tokens
        batch = marked_batch(tokens, [at >= begin for at in range(count)])
        log.clear()
        with noted_interrupt():
            status = native.llama_decode(self._context, batch)
        check_evaluated(self.path, status)
        found = native.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (count - begin, self.vocabulary))

    def _called(self, address: int, ask: bool, _data: object) -> bool:
        """See a node before (`ask`) or after it is computed; True wants it, or goes on."""
        node = Tensor(address)
        if self._looking:
            for index in range(SOURCES_READ):
                source = node.source(index)
                if source is not None and source.op == "NONE" and source.name.endswith(".weight"):
                    self._addresses[source.name] = source.address
        if self._moved is None or node.op != "GET_ROWS":
            return not ask
        name, moves = self._moved
        table = node.source(0)
        if table is None or table.name != name:
            return not ask
        if not ask:
            rows = node.read()  # (1, 1, tokens, columns), in place: weights are in host memory
            rows += moves[list(self._tokens)]
        return True

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        if self._context:
            self._native.llama_free(self._context)
            self._context = None
        if self._model:
            self._native.llama_model_free(self._model)
            self._model = None
        self._addresses = {}
