"""A model whose evaluation is watched: what its weights are multiplied with, node by node.

llama.cpp calls `cb_eval` twice: with `ask` for each node of the graph before it is computed, and
again after a node that was asked for is computed. All nodes up to one that is asked for are
computed in one go, so every question that is answered yes costs some speed; an answer of no to the
second call ends the evaluation, which makes the first layers of a model cheap to watch alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.backends.base import CancelledError
from edgellm.backends.llama_cpp.calls import check_evaluated, load_model, make_context
from edgellm.backends.llama_cpp.interrupt import noted_interrupt
from edgellm.backends.llama_cpp.library import library, log
from edgellm.backends.llama_cpp.model import ENCODERS
from edgellm.backends.llama_cpp.tensor import Tensor, check_layout
from edgellm.device.cpu import default_threads
from edgellm.errors import ContextOverflowError, UsageError

__all__ = ["GraphNode", "ObservedModel"]

# Logits of all tokens of one evaluation are held twice (the graph's and the context's): so many
# tokens are evaluated at once that they take no more than this, in bytes.
LOGITS_BYTES = 256 << 20
SMALLEST_BATCH = 32
ADDED = 2  # tokens around a text: its start and its end
SOURCES_READ = 3  # weight, input, numbers of experts


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node as it was while the graph ran.

    Attributes:
        graph: 0, or 1 for the decoder's graph beside an encoder; addresses are used again in it.
        address: tells tensors of one graph apart.
        op: ggml's name of the operation; NONE for a weight.
        name: the tensor's name.
        shape: four dimensions, the fastest last.
        view_offset: bytes from the start of the tensor that it is a view of.
        sources: its first operands, their own sources left out.
    """

    graph: int
    address: int
    op: str
    name: str
    shape: tuple[int, ...]
    view_offset: int
    sources: tuple[GraphNode, ...]


class ObservedModel:
    """A model and a context that evaluates one sequence at a time, watched.

    Weights are kept as the file has them (not repacked for a processor), attention is computed
    with its probabilities in memory (no flash attention), keys and values are float32, and every
    token is an output: llama.cpp leaves rows out of the last layer otherwise.
    """

    def __init__(
        self,
        path: Path,
        *,
        longest: int,
        threads: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load a file that has passed the safety check.

        Args:
            path: a GGUF file.
            longest: the tokens of the longest text, without those that `sequence` adds.
            threads: how many to use; None for one on each physical core.
            cancelled: asked during loading and evaluation; CancelledError where it says yes.

        Raises:
            BackendError: llama.cpp cannot load it, or lays its tensors out in an unknown way.
        """
        check_layout()
        native = self._native = library()
        self._path, self._cancelled = path, cancelled
        self._model: Any = None
        self._context: Any = None
        self._memory: Any = None
        self._start = self._end = -1  # tokens around a sequence; -1 for none
        self._encodes = self._decodes = False
        self.batch = longest = longest + ADDED
        self.vocabulary = self._trained = 0
        self._failure: BaseException | None = None
        self._ask: Callable[[Tensor], bool] = lambda _node: False
        self._see: Callable[[Tensor], bool] = lambda _node: False
        self._going = False
        self._graph = 0
        self._interrupted: Callable[[], bool] = lambda: False
        self._callback = native.ggml_backend_sched_eval_callback(self._called)
        try:
            self._load(longest, threads or default_threads())
        except BaseException:
            self.close()
            raise

    def _load(self, longest: int, threads: int) -> None:
        native = self._native
        params = native.llama_model_default_params()
        params.use_extra_bufts = False
        params.n_gpu_layers = 0
        self._model = load_model(self._path, params, self._cancelled)
        self._trained = int(native.llama_model_n_ctx_train(self._model))
        vocab = native.llama_model_get_vocab(self._model)
        self.vocabulary = int(native.llama_vocab_n_tokens(vocab))
        if native.llama_vocab_get_add_bos(vocab):
            self._start = int(native.llama_vocab_bos(vocab))
        self._encodes = bool(native.llama_model_has_encoder(self._model))
        self._decodes = bool(native.llama_model_has_decoder(self._model))
        if not self._whole():
            self.batch = min(longest, max(SMALLEST_BATCH, LOGITS_BYTES // (8 * self.vocabulary)))
        self._open(longest, threads)
        # Without a memory every token sees the whole text, and there is nothing to go on from.
        self._memory = native.llama_get_memory(self._context)
        if not self._memory:
            self._encodes, self._decodes = True, False
            if native.llama_vocab_get_add_sep(vocab):
                self._end = int(native.llama_vocab_sep(vocab))
            elif native.llama_vocab_get_add_eos(vocab):
                self._end = int(native.llama_vocab_eos(vocab))

    def _whole(self) -> bool:
        """Whether tokens see those after them, so that a sequence is evaluated in one piece."""
        kind = self._metadata("general.architecture")
        return bool(
            self._encodes
            or not self._decodes
            or self._native.llama_model_is_diffusion(self._model)
            or self._metadata(f"{kind}.attention.causal") == "false"
            or kind in ENCODERS
        )

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        self._native.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def _open(self, longest: int, threads: int) -> None:
        native = self._native
        params = native.llama_context_default_params()
        params.n_ctx = longest
        params.n_batch = params.n_ubatch = self.batch
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = native.GGML_TYPE_F32
        params.swa_full = True  # the cells of the cache are then the positions of the text
        params.embeddings = True
        params.pooling_type = native.LLAMA_POOLING_TYPE_NONE
        params.cb_eval = self._callback
        self._context = make_context(self._path, self._model, params, longest)

    def sequence(self, tokens: Sequence[int]) -> list[int]:
        """Give the tokens with those around them that the model wants, where they are not there.

        Raises:
            UsageError: no tokens, or one that is not in the vocabulary.
            ContextOverflowError: more than the model was trained for.
        """
        found = list(tokens)
        if not found:
            raise UsageError("a text of no tokens")
        if not all(0 <= token < self.vocabulary for token in found):
            raise UsageError(f"{self._path}: tokens beyond its vocabulary of {self.vocabulary}")
        if self._start >= 0 and found[0] != self._start:
            found.insert(0, self._start)
        if self._end >= 0 and found[-1] != self._end:
            found.append(self._end)
        if len(found) > self._trained:
            raise ContextOverflowError(
                f"{self._path}: a text of {len(found)} tokens for a context of {self._trained}",
                hint="cut the text into shorter chunks",
            )
        return found

    def graph(self, tokens: Sequence[int]) -> list[GraphNode]:
        """Evaluate some tokens and give the nodes of the graph, in order."""
        found: list[GraphNode] = []

        def ask(node: Tensor) -> bool:
            sources = (node.source(index) for index in range(SOURCES_READ))
            graph = self._graph
            operands = tuple(_note(each, graph, ()) for each in sources if each is not None)
            found.append(_note(node, graph, operands))
            return False

        self.clear()
        self.evaluate(tokens[: self.batch], ask, lambda _node: True)
        return found

    def clear(self) -> None:
        """Forget what was evaluated: a new sequence begins."""
        if self._memory:
            self._native.llama_memory_clear(self._memory, True)

    def evaluate(
        self, tokens: Sequence[int], ask: Callable[[Tensor], bool], see: Callable[[Tensor], bool]
    ) -> None:
        """Evaluate the next tokens of the sequence, at most `batch`.

        Args:
            tokens: go on where the last evaluation stopped, or begin after `clear`.
            ask: is called for each node before it is computed, and says whether to see it.
            see: is called with such a node, computed; where it gives False, nothing more is
                computed. What the nodes point to is valid within the call alone.

        Raises:
            BackendError: llama.cpp fails; what `ask` and `see` raise is raised as it is.
            CancelledError, KeyboardInterrupt: it was stopped.
        """
        native = self._native
        self._ask, self._see = ask, see
        self._failure, self._going = None, True
        log.clear()
        decoder = list(tokens)
        if self._encodes and self._decodes:
            decoder = [self._first_word(), *decoder[:-1]]
        with noted_interrupt() as self._interrupted:
            self._graph = 0
            if self._encodes:
                self._call(native.llama_encode, tokens)
            if self._decodes and self._going:
                self._graph = int(self._encodes)
                self._call(native.llama_decode, decoder)
        if self._failure is not None:
            raise self._failure
        if self._cancelled():
            raise CancelledError

    def _first_word(self) -> int:
        native = self._native
        token = int(native.llama_model_decoder_start_token(self._model))
        return max(0, token if token >= 0 else self._start)

    def _call(self, function: Any, tokens: Sequence[int]) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        status = function(self._context, self._native.llama_batch_get_one(array, len(tokens)))
        if self._failure is None:
            check_evaluated(self._path, status)

    def _called(self, address: int, ask: bool, _data: object) -> bool:
        # What is raised in a callback of ctypes is printed and lost: it is kept instead.
        if not self._going:
            return False
        try:
            if ask:
                return bool(self._ask(Tensor(address)))
            self._going = bool(self._see(Tensor(address)))
            if self._interrupted() or self._cancelled():
                self._going = False
        except BaseException as error:
            self._failure, self._going = error, False
        return self._going

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        if self._context:
            self._native.llama_free(self._context)
            self._context = self._memory = None
        if self._model:
            self._native.llama_model_free(self._model)
            self._model = None


def _note(node: Tensor, graph: int, sources: tuple[GraphNode, ...]) -> GraphNode:
    return GraphNode(graph, node.address, node.op, node.name, node.shape, node.view_offset, sources)
