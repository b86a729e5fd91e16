"""llama.cpp itself, as far as tests compare with it: its tokenizer, and greedy tokens."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp


@llama_cpp.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: Any) -> None:
    pass


class LlamaModel:
    """A model file opened by llama.cpp; `vocab_only` reads no tensors.

    `lora` is an adapter that counts `scale` times.
    """

    def __init__(
        self,
        path: Path,
        *,
        vocab_only: bool = False,
        lora: Path | None = None,
        scale: float = 1.0,
    ) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = 0
        # Weights as the file has them: some kernels for repacked ones need more than the CPU says.
        params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp refuses {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.adapter: Any = None
        self.scale = scale
        if lora is not None:
            # The model frees it.
            self.adapter = llama_cpp.llama_adapter_lora_init(self.model, str(lora).encode())
            if not self.adapter:
                self.close()
                raise RuntimeError(f"llama.cpp refuses {lora}")

    def close(self) -> None:
        llama_cpp.llama_model_free(self.model)

    def tokenize(self, text: str, *, special: bool = True, parse: bool = True) -> list[int]:
        data = text.encode()
        size = len(data) + 8
        tokens = (ctypes.c_int32 * size)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, size, special, parse)
        assert count >= 0
        return list(tokens[:count])

    def logits(self, tokens: list[int]) -> list[list[float]]:
        """The logits after every token: (len(tokens), vocabulary)."""
        with self._context(len(tokens)) as context:
            return [self._step(context, token, at) for at, token in enumerate(tokens)]

    def embeddings(self, tokens: list[int], *, pooled: bool = False) -> list[list[float]]:
        """The vector of every token, or the one of the text as the file says: (rows, columns)."""
        own = llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED
        pooling = own if pooled else llama_cpp.LLAMA_POOLING_TYPE_NONE
        with self._context(len(tokens), embeddings=True, pooling_type=pooling) as context:
            assert llama_cpp.llama_pooling_type(context) or not pooled, "the file says no pooling"
            self._encode(context, tokens)
            size = llama_cpp.llama_model_n_embd_out(self.model)
            if pooled:
                return [llama_cpp.llama_get_embeddings_seq(context, 0)[:size]]
            count = len(tokens)
            return [llama_cpp.llama_get_embeddings_ith(context, at)[:size] for at in range(count)]

    def translate(
        self, prompt: list[int], count: int, start: int
    ) -> tuple[list[list[float]], list[int], list[list[float]]]:
        """Encode a prompt and decode greedily from the token `start`.

        Give the encoder's vectors of the prompt, the decoder's tokens after `start`, and the logits
        that gave each.
        """
        none = llama_cpp.LLAMA_POOLING_TYPE_NONE
        with self._context(len(prompt), embeddings=True, pooling_type=none) as context:
            self._encode(context, prompt)
            size = llama_cpp.llama_model_n_embd(self.model)
            # Those of the whole prompt lie one after the other.
            flat = llama_cpp.llama_get_embeddings(context)[: size * len(prompt)]
            vectors = [flat[at : at + size] for at in range(0, len(flat), size)]
        found, rows = [start], []
        with self._context(max(len(prompt), count)) as context:
            self._encode(context, prompt)
            for at in range(count):
                rows.append(self._step(context, found[-1], at))
                found.append(max(range(len(rows[-1])), key=rows[-1].__getitem__))
        return vectors, found[1:], rows

    def _encode(self, context: Any, tokens: list[int]) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        assert llama_cpp.llama_encode(context, batch) == 0

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The `count` most probable tokens after the prompt, one by one."""
        found: list[int] = []
        with self._context(len(prompt) + count) as context:
            for at, token in enumerate(prompt):
                row = self._step(context, token, at)
            for at in range(len(prompt), len(prompt) + count):
                best = max(range(len(row)), key=row.__getitem__)
                found.append(best)
                row = self._step(context, best, at)
        return found

    def _step(self, context: Any, token: int, position: int) -> list[float]:
        array = (ctypes.c_int32 * 1)(token)
        batch = llama_cpp.llama_batch_get_one(array, 1)
        assert llama_cpp.llama_decode(context, batch) == 0
        size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        return llama_cpp.llama_get_logits(context)[:size]

    @contextlib.contextmanager
    def _context(self, size: int, **changes: Any) -> Iterator[Any]:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(64, size)
        params.n_threads = params.n_threads_batch = 1
        # Plain float32 throughout: what a reference computes.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.swa_full = True
        for name, value in changes.items():
            setattr(params, name, value)
        context = llama_cpp.llama_init_from_model(self.model, params)
        assert context
        if self.adapter:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self.adapter)
            scales = (ctypes.c_float * 1)(self.scale)
            assert llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) == 0
        try:
            yield context
        finally:
            llama_cpp.llama_free(context)


@contextlib.contextmanager
def opened(
    path: Path, *, vocab_only: bool = False, lora: Path | None = None, scale: float = 1.0
) -> Iterator[LlamaModel]:
    """Open a model and free it."""
    model = LlamaModel(path, vocab_only=vocab_only, lora=lora, scale=scale)
    try:
        yield model
    finally:
        model.close()
