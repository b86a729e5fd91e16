"""One context of MLX: the cache of a text, the prompt and the token loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm.backends.base import CancelledError, Constraint, Drafter, Sampling
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

    def __init__(self, model: MLXModel, size: int, cache_type: str, drafts: int = 0) -> None:
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
        self.draft_limit = drafts if self._caches.trimmable else 0
        self.sampled: int | None = None  # not evaluated yet, or as the first of `_ahead`
        self._drafter: Drafter | None = None
        # What is left of a draft, the next token last: it is in the cache behind `_held`.
        self._ahead: list[int] = []
        self._row = 0  # of the logits: the token after which is sampled
        self._constraint: Constraint | None = None
        self._drawn_under: Constraint | None = None  # what takes the sampled token
        self._sampler: Any = None
        self._logits: Any = None  # after the last token, and those of a draft: (some, vocabulary)
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
        self.sampled = None
        self._constraint = self._drafter = None
        kept = self._keep(tokens)
        self._evaluate_all(tokens[kept:], cancelled)
        self._sampler = self._make_sampler(sampling, tokens)
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
        if not 0 <= min(tokens) <= max(tokens) < self._width:
            raise BackendError(f"{self._path}: a token is beyond the vocabulary")
        self.sampled = None
        self._take_back()
        self._evaluate_all(tokens, cancelled)
        if self._drafter is not None:
            self._drafter.begin(self._held)
        for token in tokens:
            self._sampler.take(token)
            if self._constraint is not None:
                self._constraint.take(token)

    def next_piece(self) -> bytes | None:
        """Sample one token; the one before it is evaluated first."""
        if self.sampled is not None:
            if len(self._held) >= self._size:
                raise BackendError(f"the context of {self._size} tokens is full")
            token, self.sampled = self.sampled, None
            self._advance(token)
            if self._drawn_under is not None:
                self._drawn_under.take(token)
        if self._logits is None:
            raise BackendError("there is no prompt to continue")
        constraint = self._drawn_under = self._constraint
        logits = np.array(self._logits[self._row])
        if constraint is not None:
            if constraint.complete:
                return None
            logits[~constraint.mask()] = -np.inf
        self.sampled = token = self._sampler.choose(logits)
        if token not in self._pieces:
            self._pieces[token] = self._tokenizer.piece(token)
        return self._pieces[token]

    def adapt(self, scales: Sequence[float]) -> None:
        """Use adapters so many times; see `edgellm.backends.base.Context.adapt`."""
        if tuple(scales) == self._scales:
            return
        self._scales = tuple(scales)
        self.prefills += 1
        self.sampled = self._logits = None
        self._caches.reset()
        self._whole = True
        self._held, self._ahead = [], []

    @property
    def state_size(self) -> int:
        """How many bytes `save_state` would write now, nearly."""
        return int(self._caches.nbytes(len(self._held)))

    def save_state(self, path: Path) -> None:
        """Write keys and values; see `edgellm.backends.base.Context.save_state`."""
        self._take_back()
        self._caches.save(path, len(self._held))

    def load_state(self, path: Path, tokens: Sequence[int]) -> None:
        """Take keys and values; see `edgellm.backends.base.Context.load_state`."""
        self.prefills += 1
        self.sampled = self._logits = None
        self._held, self._ahead = [], []
        self._caches.load(path, len(tokens))
        self._whole = True
        self._held = list(tokens)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._caches = self._module = self._adapters = self._sampler = CLOSED
        self._logits = [CLOSED]
        self._row, self.sampled = 0, None

    def _evaluate_all(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Evaluate tokens, of which there is one at least, some at a time."""
        last = len(tokens) - 1
        for start in range(0, last, self._chunk):
            if cancelled():
                raise CancelledError
            self._evaluate(tokens[start : min(start + self._chunk, last)], outputs=False)
        if cancelled():
            raise CancelledError
        # Logits are computed of the last token alone: a big vocabulary costs much.
        self._logits = self._evaluate(tokens[last:])
        self._row = 0

    def _advance(self, token: int) -> None:
        """Make the logits after a token, and after those of a new draft behind it, be there."""
        if self._ahead and self._ahead[-1] == token and self._drafter is not None:
            self._ahead.pop()
            self._held.append(token)
            self._row += 1
            self._drafter.accept()
            return
        self._take_back()
        draft: Sequence[int] = ()
        if self._drafter is not None:
            limit = min(self.draft_limit, self._size - len(self._held) - 1)
            draft = self._drafter.propose(self._held, token, limit)
        self._logits = self._evaluate([token, *draft])
        self._row = 0
        if draft:
            del self._held[-len(draft) :]
            self._ahead = list(draft[::-1])

    def _take_back(self) -> None:
        """Remove what is left of a draft from the cache."""
        if self._ahead:
            held = len(self._held)
            self._caches.cut(held + len(self._ahead), held)
            self._ahead = []

    def _evaluate(self, tokens: Sequence[int], *, outputs: bool = True) -> Any:
        """Evaluate tokens; gives the logits after each, float32 (tokens, vocabulary), if asked."""
        mx = self._native.core
        self._whole = False
        self._adapters.use(self._scales)  # another context may have used others
        try:
            logits = self._module(mx.array([list(tokens)]), cache=self._caches.layers)
            found = logits[0].astype(mx.float32) if outputs else None  # else not computed
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
        if not self._whole or not self._caches.cut(len(self._held) + len(self._ahead), common):
            self._caches.reset()
            self._whole = True
            common = 0
        self._ahead = []
        del self._held[common:]
        return common
