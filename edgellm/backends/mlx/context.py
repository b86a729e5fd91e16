"""One context of MLX: the cache of a text, the prompt and the token loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm.backends.base import CancelledError, Constraint, Sampling
from edgellm.backends.mlx.caches import Caches
from edgellm.backends.mlx.device import on_cpu
from edgellm.backends.mlx.library import CLOSED, sentence
from edgellm.backends.mlx.loading import check_memory
from edgellm.errors import BackendError

if TYPE_CHECKING:
    from edgellm.backends.mlx.model import MLXModel

__all__ = ["MLXContext"]

# Tokens of a prompt that are evaluated at a time: it can be stopped only in between. A processor
# gains little by more, and takes seconds for as many.
CHUNK, CPU_CHUNK = 512, 32


class MLXContext:
    """See `edgellm.backends.base.Context`."""

    def __init__(self, model: MLXModel, size: int, cache_type: str) -> None:
        loaded = model.loaded
        self._native = loaded.native
        self._module: Any = loaded.model
        self._adapters: Any = model.adapters
        self._scales = model.scales
        self._width = loaded.width
        self._tokenizer = model.tokenizer
        self._make_sampler = model.sampler
        self._path = model.path
        self._size = size
        self.prefills = 0
        try:
            self._caches: Any = Caches(loaded.native, loaded.model, cache_type)
        except BackendError as error:
            raise BackendError(f"{model.path}: {error}", hint="--cache-type f16") from error
        check_memory(f"{model.path}: {size} tokens of context", self._caches.nbytes(size))
        self._chunk = CPU_CHUNK if on_cpu() else CHUNK
        self._held: list[int] = []  # the tokens whose keys and values are in the cache
        self._whole = True  # whether the cache holds these and nothing of a broken evaluation
        self._sampled: int | None = None  # sampled, but not evaluated yet
        self._constraint: Constraint | None = None
        self._drawn_under: Constraint | None = None  # what takes the sampled token
        self._sampler: Any = None
        self._logits: Any = None  # after the last token: (vocabulary,)
        self._pieces: dict[int, bytes | None] = {}

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
        if not 0 < len(tokens) <= self._size:
            raise BackendError(f"a prompt of {len(tokens)} tokens for a context of {self._size}")
        if not 0 <= min(tokens) <= max(tokens) < self._width:
            # mlx reads what lies there in memory
            raise BackendError(f"{self._path}: the prompt has a token beyond the vocabulary")
        self.prefills += 1
        self._sampled = None
        self._constraint = None
        kept = self._keep(tokens)
        last = len(tokens) - 1
        for start in range(kept, last, self._chunk):
            if cancelled():
                raise CancelledError
            self._evaluate(tokens[start : min(start + self._chunk, last)])
        if cancelled():
            raise CancelledError
        # Logits are computed of the last token alone: a big vocabulary costs much.
        self._logits = self._evaluate(tokens[last:])
        self._sampler = self._make_sampler(sampling, tokens)
        return kept

    def constrain(self, constraint: Constraint | None) -> None:
        """Sample under a constraint; see `edgellm.backends.base.Context.constrain`."""
        self._constraint = constraint

    def next_piece(self) -> bytes | None:
        """Sample one token; the one before it is evaluated first."""
        if self._sampled is not None:
            if len(self._held) >= self._size:
                raise BackendError(f"the context of {self._size} tokens is full")
            token, self._sampled = self._sampled, None
            self._logits = self._evaluate([token])
            if self._drawn_under is not None:
                self._drawn_under.take(token)
        if self._logits is None:
            raise BackendError("there is no prompt to continue")
        constraint = self._drawn_under = self._constraint
        logits = np.array(self._logits)
        if constraint is not None:
            if constraint.complete:
                return None
            logits[~constraint.mask()] = -np.inf
        self._sampled = token = self._sampler.choose(logits)
        if token not in self._pieces:
            self._pieces[token] = self._tokenizer.piece(token)
        return self._pieces[token]

    def adapt(self, scales: Sequence[float]) -> None:
        """Use adapters so many times; see `edgellm.backends.base.Context.adapt`."""
        if tuple(scales) == self._scales:
            return
        self._scales = tuple(scales)
        self.prefills += 1
        self._sampled = self._logits = None
        self._caches.reset()
        self._whole = True
        self._held = []

    @property
    def state_size(self) -> int:
        """How many bytes `save_state` would write now, nearly."""
        return int(self._caches.nbytes(len(self._held)))

    def save_state(self, path: Path) -> None:
        """Write keys and values; see `edgellm.backends.base.Context.save_state`."""
        self._caches.save(path, len(self._held))

    def load_state(self, path: Path, tokens: Sequence[int]) -> None:
        """Take keys and values; see `edgellm.backends.base.Context.load_state`."""
        self.prefills += 1
        self._sampled = self._logits = None
        self._held = []
        self._caches.load(path, len(tokens))
        self._whole = True
        self._held = list(tokens)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._caches = self._module = self._adapters = self._sampler = self._logits = CLOSED
        self._sampled = None

    def _evaluate(self, tokens: Sequence[int]) -> Any:
        """Evaluate tokens; gives the logits after the last one, float32 (vocabulary,), if one."""
        mx = self._native.core
        self._whole = False
        self._adapters.use(self._scales)  # another context may have used others
        try:
            logits = self._module(mx.array([list(tokens)]), cache=self._caches.layers)
            # Of several tokens nobody asks for logits, so that they are not computed.
            found = logits[0, -1].astype(mx.float32) if len(tokens) == 1 else None
            mx.eval(found, self._caches.computed())
        except (RuntimeError, ValueError, MemoryError) as error:
            raise BackendError(
                f"{self._path}: evaluating tokens failed: {sentence(error)}"
            ) from error
        self._whole = True
        self._held.extend(tokens)
        return found

    def _keep(self, tokens: Sequence[int]) -> int:
        """Drop what is in the cache beyond the common prefix; gives the prefix's length.

        The last token is always evaluated again, because its logits are needed.
        """
        common = 0
        for held, wanted in zip(self._held, tokens[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        # Ctrl-C may have stopped an evaluation in the middle of the layers.
        if not self._whole or not self._caches.cut(len(self._held), common):
            self._caches.reset()
            self._whole = True
            common = 0
        del self._held[common:]
        return common
