"""All logits of a text from mlx-lm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import CancelledError, output_limit
from edgellm.backends.mlx.adapters import Adapters
from edgellm.backends.mlx.loading import load
from edgellm.backends.mlx.tokenizer import FolderTokenizer

if TYPE_CHECKING:
    from edgellm.models.adapter import Adapter

__all__ = ["MLXScorer"]

BATCH = 512  # tokens that are evaluated at a time


class MLXScorer:
    """See `edgellm.backends.base.Scorer`.

    Floats become float32 before anything is computed: a folder is measured by what its weights
    say, and half precision would round the logits (bfloat16 to 8 bits) more than 8-bit weights do.

    Args:
        path: the folder, which has passed the safety check.
        cancelled: asked while it is loaded; True stops that.
        given: adapters that count as their scales say.

    Raises:
        CancelledError: `cancelled` gave True.
        BackendError: mlx-lm is not installed, or cannot load it.
        DoesNotFitError: there is not enough memory.
    """

    def __init__(
        self, path: Path, cancelled: Callable[[], bool], given: Sequence[Adapter] = ()
    ) -> None:
        self.path = path
        loaded = load(path, cancelled, exact=True)
        self._mx = loaded.native.core
        adapters = Adapters(loaded.native, loaded.model, given, self._mx.float32)
        adapters.use([adapter.scale for adapter in given])
        self._width = loaded.width
        self.output_limit = output_limit(self._width, BATCH)
        self._model: Any = loaded.model
        self._make_cache: Callable[[Any], Any] = loaded.native.cache.make_prompt_cache
        self._cache: Any = None

    @functools.cached_property
    def tokenizer(self) -> FolderTokenizer:
        """The folder's tokenizer."""
        return FolderTokenizer(self.path)

    @property
    def vocabulary_size(self) -> int:
        """The number of logits after a token."""
        return self._width

    def restart(self) -> None:
        """Forget the text so far."""
        self._cache = None

    def extend(
        self, tokens: Sequence[int], cancelled: Callable[[], bool], *, outputs: bool
    ) -> npt.NDArray[np.float32]:
        """Evaluate the next tokens; see `edgellm.backends.base.Scorer.extend`."""
        mx = self._mx
        if self._cache is None:
            self._cache = self._make_cache(self._model)
        found = []
        for start in range(0, len(tokens), BATCH):
            if cancelled():
                raise CancelledError
            logits = self._model(mx.array([tokens[start : start + BATCH]]), cache=self._cache)
            if outputs:
                found.append(np.array(logits[0].astype(mx.float32)))
            else:
                # Keys and values alone: logits that nobody asks for are not computed.
                mx.eval([cache.state for cache in self._cache])
        return np.concatenate(found) if found else np.empty((0, self._width), np.float32)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._model = self._cache = None
