"""Continuations of one prompt in MLX: rows of a batch, all of the same length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import CancelledError, Sampling
from edgellm.backends.mlx.caches import Caches
from edgellm.backends.mlx.context import CHUNK, CPU_CHUNK
from edgellm.backends.mlx.device import on_cpu
from edgellm.backends.mlx.library import CLOSED, sentence
from edgellm.backends.mlx.loading import check_memory
from edgellm.backends.mlx.sampler import Sampler
from edgellm.errors import BackendError

if TYPE_CHECKING:
    from edgellm.backends.mlx.model import MLXModel

__all__ = ["MLXBranches"]


class MLXBranches:
    """See `edgellm.backends.base.Branches`.

    The prompt is evaluated once, and its keys and values are copied into each row. Each step adds
    one token to every row, so that none is padded and mlx-lm's own caches serve.
    """

    def __init__(self, model: MLXModel, size: int, most: int, cache_type: str) -> None:
        loaded = model.loaded
        self._model = model
        self._native = loaded.native
        self._module: Any = loaded.model
        self._adapters: Any = model.adapters
        self._scales = model.scales
        self._size = size
        self._most = most
        try:
            self._caches: Any = Caches(loaded.native, loaded.model, cache_type)
        except BackendError as error:
            raise BackendError(f"{model.path}: {error}", hint="--cache-type f16") from error
        check_memory(
            f"{model.path}: {most} texts of {size} tokens", most * self._caches.nbytes(size)
        )
        self._chunk = CPU_CHUNK if on_cpu() else CHUNK
        self._held = 0  # tokens in each row
        self._prompt: Sequence[int] = ()
        self._rows: Any = None  # logits of each row, (rows, vocabulary)
        self._branches: list[int] = []  # which row is each branch's; rows are copied when they grow

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._branches)

    def prefill(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Evaluate the prompt; see `edgellm.backends.base.Branches.prefill`."""
        if not 0 < len(tokens) <= self._size:
            raise BackendError(f"a prompt of {len(tokens)} tokens for {self._size}")
        if not 0 <= min(tokens) <= max(tokens) < self._model.vocabulary_size:
            raise BackendError(f"{self._model.path}: the prompt has a token beyond the vocabulary")
        self._caches.reset()
        self._branches, self._held = [], 0
        self._prompt = tokens
        last = len(tokens) - 1
        for start in range(0, last, self._chunk):
            if cancelled():
                raise CancelledError
            self._evaluate([list(tokens[start : min(start + self._chunk, last)])], outputs=False)
        if cancelled():
            raise CancelledError
        self._evaluate([list(tokens[last:])])
        self._branches = [0]

    def adapt(self, scales: Sequence[float]) -> None:
        """Use adapters so many times; see `edgellm.backends.base.Branches.adapt`."""
        self._scales = tuple(scales)
        self._branches = []

    def keep(self, parents: Sequence[int]) -> None:
        """Let copies of branches follow; see `edgellm.backends.base.Branches.keep`."""
        if not 0 < len(parents) <= self._most:
            raise BackendError(f"{len(parents)} branches, where there is room for {self._most}")
        self._branches = [self._branches[parent] for parent in parents]

    def step(self, tokens: Sequence[int]) -> None:
        """Evaluate one token of each; see `edgellm.backends.base.Branches.step`."""
        if len(tokens) != self.count:
            raise BackendError(f"{len(tokens)} tokens for {self.count} branches")
        if self._held >= self._size:
            raise BackendError(f"the context of {self._size} tokens is full")
        if self._branches != list(range(len(self._rows))):
            self._caches.select(self._branches)
        self._branches = list(range(len(tokens)))
        self._evaluate([[token] for token in tokens])

    def logits(self) -> npt.NDArray[np.float32]:
        """Give the logits of all; see `edgellm.backends.base.Branches.logits`."""
        found: npt.NDArray[np.float32] = self._rows[self._branches]
        found[:, self._model.tokenizer.suppressed] = -np.inf
        return found

    def chooser(self, sampling: Sampling) -> Chooser:
        """Make what chooses tokens; see `edgellm.backends.base.Branches.chooser`."""
        return Chooser(self, self._model.sampler(sampling, self._prompt))

    def row(self, branch: int) -> npt.NDArray[np.float32]:
        """Give a copy of the logits of one branch."""
        found: npt.NDArray[np.float32] = self._rows[self._branches[branch]].copy()
        return found

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._caches = self._module = self._adapters = self._rows = CLOSED

    def _evaluate(self, tokens: Sequence[Sequence[int]], *, outputs: bool = True) -> None:
        """Evaluate as many tokens of each row; the logits are those after the last one."""
        mx = self._native.core
        self._adapters.use(self._scales)  # a context may have used others
        try:
            logits = self._module(mx.array(tokens), cache=self._caches.layers)
            found = logits[:, -1].astype(mx.float32) if outputs else None
            mx.eval(found, self._caches.computed())
        except (RuntimeError, ValueError, MemoryError) as error:
            raise BackendError(
                f"{self._model.path}: evaluating tokens failed: {sentence(error)}"
            ) from error
        self._held += len(tokens[0])
        if outputs:
            self._rows = np.array(found)


class Chooser:
    """See `edgellm.backends.base.Chooser`."""

    def __init__(self, branches: MLXBranches, sampler: Sampler) -> None:
        self._branches = branches
        self._sampler = sampler

    def choose(self, branch: int, mask: npt.NDArray[np.bool_] | None = None) -> int:
        """Choose the token that follows a branch."""
        logits = self._branches.row(branch)
        if mask is not None:
            logits[~mask] = -np.inf
        return self._sampler.choose(logits)
