"""A model in llama.cpp: its vocabulary and metadata."""

from __future__ import annotations

import ctypes
import functools
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edgellm.backends.base import LoadOptions
from edgellm.backends.llama_cpp.adapters import load_adapter
from edgellm.backends.llama_cpp.branches import LlamaCppBranches
from edgellm.backends.llama_cpp.calls import load_model
from edgellm.backends.llama_cpp.context import LlamaCppContext
from edgellm.backends.llama_cpp.library import CLOSED, library
from edgellm.device.cpu import default_threads
from edgellm.errors import BackendError, UsageError

__all__ = ["ENCODERS", "LlamaCppModel", "Purpose"]

CONTROL = 1 << 3  # llama_token_attr
UNKNOWN = 1 << 0
NO_VOCABULARY = 0  # llama_vocab_type
# Architectures whose tokens see those after them, though no key says so.
ENCODERS = ("gemma-embedding",)
COMPOSING = frozenset({"qwen2"})  # pre-tokenizers of models that compose their texts (NFC)
METADATA_LIMIT = 4096  # bytes of one metadata value that is read here

# What a model is loaded for: to write, to give vectors of texts, or its tokens alone.
Purpose = Literal["text", "vectors", "tokens"]


class LlamaCppModel:
    """See `edgellm.backends.base.Model`.

    Loaded for "tokens" it is a tokenizer alone: no weights are read. Only one that is loaded for
    "text" is known to write.
    """

    def __init__(
        self,
        path: Path,
        options: LoadOptions,
        cancelled: Callable[[], bool],
        purpose: Purpose = "text",
    ) -> None:
        native = self.native = library()
        self.path = path
        self.threads = options.threads or default_threads()
        self.offloaded = options.gpu_layers != 0 and bool(native.llama_supports_gpu_offload())
        self.handle: Any = None
        # token -> its bytes, None for a token that ends the text; filled as tokens are met.
        self.pieces: dict[int, bytes | None] = {}
        params = native.llama_model_default_params()
        params.vocab_only = purpose == "tokens"
        if options.gpu_layers is not None:
            params.n_gpu_layers = options.gpu_layers
        self.handle = load_model(path, params, cancelled)
        self.vocab = native.llama_model_get_vocab(self.handle)
        self.scales = tuple(adapter.scale for adapter in options.adapters)
        try:
            self.adapters = [load_adapter(a.path, path, self.handle) for a in options.adapters]
            if native.llama_vocab_type(self.vocab) == NO_VOCABULARY:
                raise BackendError(f"{self.path}: the file holds no tokenizer")
            if purpose == "text":
                self._refuse_other_kinds()
        except BaseException:
            self.close()
            raise
        # llama.cpp leaves the normalizer of such models out; a Persian text may hold letters in two
        # characters that the model knows as one.
        self._composes = self.metadata("tokenizer.ggml.pre") in COMPOSING

    def _refuse_other_kinds(self) -> None:
        """Refuse models that hold no decoder for text: sampling from them would abort."""
        native, kind = self.native, self.architecture
        if not native.llama_model_has_decoder(self.handle) or not self.causal:
            raise BackendError(
                f"{self.path}: {kind} is an encoder, which writes no text",
                hint="it gives vectors of texts: edgellm embed, edgellm.load_embedder()",
            )
        if native.llama_model_has_encoder(self.handle):
            raise BackendError(f"{self.path}: {kind} models with an encoder cannot be run yet")
        if native.llama_model_is_diffusion(self.handle):
            raise BackendError(f"{self.path}: {kind} is a diffusion model, which cannot be run yet")

    @property
    def architecture(self) -> str:
        """Its architecture's name."""
        return self.metadata("general.architecture") or "unknown"

    @property
    def head(self) -> tuple[int, int]:
        """How many values a key has in one head, 0 if that is not known, and heads of queries."""
        native, heads = self.native, int(self.native.llama_model_n_head(self.handle))
        length = self.metadata(f"{self.architecture}.attention.key_length")
        if length is not None and length.isdecimal():
            return int(length), heads
        return int(native.llama_model_n_embd(self.handle)) // heads if heads else 0, heads

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it."""
        kind = self.architecture
        return self.metadata(f"{kind}.attention.causal") != "false" and kind not in ENCODERS

    @property
    def description(self) -> str:
        """A line about it for people."""
        # The size in llama_model_desc is the nearest that it has a name for, up to twice the true.
        native, handle = self.native, self.handle
        buffer = ctypes.create_string_buffer(256)
        native.llama_model_desc(handle, buffer, len(buffer))
        architecture = buffer.value.decode("utf-8", "replace").partition(" ")[0]
        weights = int(native.llama_model_n_params(handle))
        size = f"{weights / 1e9:.1f} G" if weights >= 10**9 else f"{weights / 1e6:.1f} M"
        types = (native.llama_ftype_name(native.llama_model_ftype(handle)) or b"").decode()
        return f"{architecture}, {size} weights, {types}"

    @property
    def vocabulary_size(self) -> int:
        """The number of logits after a token."""
        return int(self.native.llama_vocab_n_tokens(self.vocab))

    @property
    def trained_context(self) -> int:
        """The number of tokens that it was trained on."""
        return int(self.native.llama_model_n_ctx_train(self.handle))

    @property
    def chat_template(self) -> str | None:
        """Its own Jinja chat template; None if it has none."""
        raw = self.native.llama_model_chat_template(self.handle, None)
        return raw.decode("utf-8", "replace") if raw else None

    @property
    def start_token(self) -> int | None:
        """The beginning-of-sequence token, where the vocabulary says that texts start with it."""
        native = self.native
        token = int(native.llama_vocab_bos(self.vocab))
        return token if token >= 0 and native.llama_vocab_get_add_bos(self.vocab) else None

    @property
    def bos_text(self) -> str:
        """The text of the beginning-of-sequence token."""
        return self._text(self.native.llama_vocab_bos(self.vocab))

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token."""
        return self._text(self.native.llama_vocab_eos(self.vocab))

    def metadata(self, key: str) -> str | None:
        """Give a metadata value as llama.cpp writes it; None if there is none."""
        buffer = ctypes.create_string_buffer(METADATA_LIMIT)
        size = self.native.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text."""
        ends, vocab = self.native.llama_vocab_is_eog, self.vocab
        return frozenset(token for token in range(self.vocabulary_size) if ends(vocab, token))

    def tokenize(self, text: str, *, special: bool, ends: bool = False) -> list[int]:
        """Give the tokens of a text; see `edgellm.backends.base.Tokenizer.tokenize`."""
        if self._composes:
            text = unicodedata.normalize("NFC", text)
        try:
            raw = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid UTF-8 (at character {error.start})") from error
        room = len(raw) + 16
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = self.native.llama_tokenize(
                self.vocab, raw, len(raw), tokens, room, ends, special
            )
            if count >= 0:
                return tokens[:count]
            if -count <= room:  # INT32_MIN: the text is longer than the library can count
                raise UsageError(f"a text of {len(raw)} bytes is too long to tokenize")
            room = -count

    def control_text(self, token: int) -> str | None:
        """Give the text of a control token; None if the token is not one."""
        attributes = self.native.llama_vocab_get_attr(self.vocab, token)
        return self._text(token) if attributes & (CONTROL | UNKNOWN) else None

    def token_text(self, token: int) -> str:
        """Give a token as the vocabulary writes it."""
        return self._text(token)

    @property
    def batches_pay(self) -> bool:
        """Whether a few tokens in one batch take much less time than one by one."""
        return True

    @property
    def recurrent(self) -> bool:
        """Whether it keeps a state that cannot be cut back to fewer tokens."""
        native, handle = self.native, self.handle
        kinds = (native.llama_model_is_recurrent, native.llama_model_is_hybrid)
        return any(kind(handle) for kind in kinds)

    def open_context(self, size: int, cache_type: str = "f16", drafts: int = 0) -> LlamaCppContext:
        """Make a context; see `edgellm.backends.base.Model.open_context`."""
        return LlamaCppContext(self, size, cache_type, drafts)

    def branch_tokens(self, prompt: int, answer: int, count: int) -> int:
        """Give how many tokens are kept; see `edgellm.backends.base.Model.branch_tokens`."""
        return prompt + count * answer

    def open_branches(
        self, prompt: int, answer: int, count: int, cache_type: str = "f16"
    ) -> LlamaCppBranches:
        """Make room for branches; see `edgellm.backends.base.Model.open_branches`."""
        size = self.branch_tokens(prompt, answer, count)
        return LlamaCppBranches(self, size, count, cache_type)

    def piece(self, token: int) -> bytes | None:
        """Give the bytes of a token and remember them; None for one that ends the text."""
        found: bytes | None = None
        if not self.native.llama_vocab_is_eog(self.vocab, token):
            found = self._bytes(token, special=False)
        self.pieces[token] = found
        return found

    def token_bytes(self, token: int) -> bytes:
        """Give the bytes of a token; see `edgellm.backends.base.Tokenizer.token_bytes`."""
        if not 0 <= token < self.vocabulary_size:
            raise UsageError(f"{token} is no token: there are {self.vocabulary_size}")
        return self._bytes(token, special=True)

    def _bytes(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = self.native.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def close(self) -> None:
        """Free the memory; closing twice does nothing. Contexts on it must be closed before."""
        if self.handle:
            self.native.llama_model_free(self.handle)
            self.handle = None
            self.native = CLOSED

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        raw: bytes | None = self.native.llama_vocab_get_text(self.vocab, token)
        return raw.decode("utf-8", "replace") if raw else ""
