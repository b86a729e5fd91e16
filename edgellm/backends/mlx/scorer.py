"""All logits of a text from mlx-lm."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import CancelledError, output_limit
from edgellm.backends.mlx.tokenizer import FolderTokenizer, first_line
from edgellm.errors import BackendError

__all__ = ["MLXScorer", "missing", "trained_context"]

BATCH = 512  # tokens that are evaluated at a time
# Keys that say how many tokens a model was trained on.
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")


def missing() -> str | None:
    """Say why MLX cannot be used; None if its packages are installed."""
    for package, project in (("mlx", "mlx"), ("mlx_lm", "mlx-lm")):
        if importlib.util.find_spec(package) is None:
            return f"{project} is not installed"
    return None


def trained_context(config: dict[str, Any]) -> int | None:
    """Give the number of tokens that config.json says; None if it says none."""
    inner = config.get("text_config")
    for section in (config, inner if isinstance(inner, dict) else {}):
        for key in _CONTEXT_KEYS:
            value = section.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return None


class MLXScorer:
    """See `edgellm.backends.base.Scorer`.

    Floats become float32 before anything is computed: a folder is measured by what its weights
    say, and half precision would round the logits (bfloat16 to 8 bits) more than 8-bit weights do.

    Args:
        path: the folder, whose headers have been checked.
        config: its config.json.

    Raises:
        BackendError: mlx-lm is not installed, or cannot load it.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        reason = missing()
        if reason is not None:
            raise BackendError(
                f"{path}: a folder is run with MLX, and {reason}",
                hint="pip install 'edgellm[mlx]', or: edgellm convert FOLDER -o NAME.gguf",
            )
        if "model_file" in config:
            # A name of Python code in the folder, which mlx-lm can be made to run.
            raise BackendError(f"{path}: the folder brings code of its own, which is not run")
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache
        from mlx_lm.utils import load_model

        self.path = path
        self._mx = mx
        try:
            model, _ = load_model(path, lazy=True)
            model.set_dtype(mx.float32)
            mx.eval(model.parameters())
            # Nothing is computed: an array that was not asked for has a shape already.
            self._width = int(model(mx.array([[0]])).shape[-1])
        except Exception as error:  # whatever a file leads that library to
            raise BackendError(f"{path}: mlx-lm cannot load it: {first_line(error)}") from error
        self.output_limit = output_limit(self._width, BATCH)
        self._model: Any = model
        self._make_cache: Callable[[Any], Any] = make_prompt_cache
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
