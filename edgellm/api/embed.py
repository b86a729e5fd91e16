"""Vectors of texts: load an embedding model once, then embed as many texts as there are.

with edgellm.load_embedder("minilm.gguf") as embedder:
    vectors = embedder.embed(["a cat by the river", "گربه‌ای کنار رودخانه"])
"""

from __future__ import annotations

import os
import shlex
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgellm.backends.base import Embedder, LoadOptions, get_backend
from edgellm.errors import BackendError, ContextOverflowError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["LoadedEmbedder", "load_embedder"]

EMBEDS = "llama_cpp"  # the backend that gives vectors of texts
SHOWN = 40  # characters of a text that an error quotes


def _never() -> bool:
    return False


def load_embedder(
    model: str | os.PathLike[str],
    *,
    pooling: str | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    backend: str | None = None,
    cancelled: Callable[[], bool] = _never,
) -> LoadedEmbedder:
    """Find a model, check its file and load it to embed texts.

    Args:
        model: a path or a name in the store: an encoder (BERT, ModernBERT, EmbeddingGemma ...), or
            a decoder that was trained to embed.
        pooling: how the vectors of tokens become one of the text: mean, cls (the first token's) or
            last. None takes what the file says.
        threads: None takes the number of physical cores.
        gpu_layers: layers on an accelerator; None takes all where there is one.
        backend: the backend's name; only llama_cpp embeds.
        cancelled: asked while the model is loaded; True stops that.

    Raises:
        NotFoundError: there is no such model.
        ConvertersError: the file is damaged or would harm native code.
        BackendError: the model gives no vectors of texts, or the backend runs no such models.
        UsageError: a value out of its range, or no pooling where the file says none.
        DoesNotFitError: there is not enough memory.
        CancelledError: `cancelled` gave True.
    """
    from edgellm.backends.llama_cpp.embedder import LlamaCppEmbedder
    from edgellm.backends.llama_cpp.library import let_threads_sleep, missing
    from edgellm.models.check import check_model_file
    from edgellm.models.resolve import resolve

    if backend is not None and get_backend(backend).name != EMBEDS:
        raise BackendError(
            f"{backend} cannot embed texts: mlx-lm runs models that write, and no encoders",
            hint="leave --backend out",
        )
    options = LoadOptions(threads=threads, gpu_layers=gpu_layers)
    reference = os.fspath(model)
    path = resolve(reference)
    if path.is_dir():
        raise BackendError(
            f"{path}: a folder is run with MLX, and mlx-lm runs no encoders",
            hint=f"make a file of it: edgellm convert {shlex.quote(str(path))} -o model.gguf",
        )
    check_model_file(path)
    reason = missing()
    if reason is not None:
        raise BackendError(f"{path}: llama_cpp cannot run it: {reason}")
    let_threads_sleep()
    return LoadedEmbedder(LlamaCppEmbedder(path, options, cancelled, pooling), name=reference)


class LoadedEmbedder:
    """An embedding model in memory; close it, or use it in a `with` statement.

    One thread at a time may embed.

    Attributes:
        path: the model's file.
        name: what the caller called it.
        backend: the name of the backend that runs it.
        dimension: the numbers of a vector.
        max_tokens: the longest text that it reads, the tokens around it included; it may be set to
            less, where a model was trained on shorter texts than it can read.
        pooling: how the vectors of tokens become one of the text: mean, cls or last.
    """

    def __init__(self, embedder: Embedder, *, name: str | None = None) -> None:
        self._embedder = embedder
        self.path: Path = embedder.path
        self.name = name or embedder.path.stem
        self.backend = EMBEDS
        self.dimension = embedder.dimension
        self.max_tokens = embedder.max_tokens
        self.pooling = embedder.pooling
        self._before, self._after = self._ends()

    def __enter__(self) -> LoadedEmbedder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def tokenize(self, text: str) -> list[int]:
        """Give the tokens that the model reads of a text, those around it included.

        The text of a control token is text.

        Raises:
            UsageError: the text has no UTF-8 form (lone surrogates).
        """
        return self._embedder.tokenizer.tokenize(text, special=False, ends=True)

    def embed(
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        normalize: bool = True,
        truncate: bool = False,
        cut: Callable[[int, int], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] = _never,
    ) -> npt.NDArray[np.float32]:
        """Give the vectors of texts: float32 (texts, dimension), in their order.

        Args:
            texts: none of them empty.
            prefix: put before each text, as the model was trained: "query: ", "passage: " ...
            normalize: make each vector's length (L2) 1, so that products are cosines.
            truncate: read only the beginning of a text that is too long.
            cut: called with the index and the tokens of each text that is so.
            progress: called with how many texts are embedded, and how many there are.
            cancelled: asked while texts are evaluated; True stops that.

        Raises:
            UsageError: one string in place of several, or an empty text.
            ContextOverflowError: a text is longer than the model reads, and not `truncate`.
            DoesNotFitError: there is not enough memory for the longest text.
            BackendError: the backend failed, or gave numbers that are not finite.
            CancelledError: `cancelled` gave True.
        """
        import numpy as np

        if isinstance(texts, str):
            raise UsageError("embed() takes a list of texts, and was given a single one")
        # All of them before the first is evaluated: an error comes soon, and not after an hour.
        tokens = [
            self._tokens(index, text, prefix, truncate, cut) for index, text in enumerate(texts)
        ]
        vectors = np.empty((len(tokens), self.dimension), np.float32)
        done = 0
        for some in self._embedder.embed(tokens, cancelled):
            vectors[done : done + len(some)] = some
            done += len(some)
            if progress is not None:
                progress(done, len(tokens))
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise BackendError(
                f"{self.path}: the vector of text {int(finite.argmin()) + 1} holds numbers that "
                "are not finite"
            )
        if normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(lengths > 0, lengths, 1)
        return vectors

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._embedder.close()

    def _ends(self) -> tuple[list[int], list[int]]:
        """Give the tokens that the model has before and behind a text."""
        whole, plain = self.tokenize("a"), self._plain("a")
        places = range(len(whole) - len(plain) + 1)
        first = next((at for at in places if whole[at : at + len(plain)] == plain), 0)
        return whole[:first], whole[first + len(plain) :]

    def _plain(self, text: str) -> list[int]:
        return self._embedder.tokenizer.tokenize(text, special=False)

    def _tokens(
        self,
        index: int,
        text: str,
        prefix: str,
        truncate: bool,
        cut: Callable[[int, int], None] | None,
    ) -> array[int]:
        if not text.strip():
            raise UsageError(
                f"text {index + 1} is empty, and has no meaning that a vector could stand for"
            )
        tokens = self.tokenize(prefix + text)
        if len(tokens) > self.max_tokens:
            if not truncate:
                raise ContextOverflowError(
                    f"text {index + 1} ({text[:SHOWN]!r} ...) has {len(tokens)} tokens, and "
                    f"{self.name} reads {self.max_tokens}",
                    hint="split it, or read its beginning alone: --truncate",
                )
            if cut is not None:
                cut(index, len(tokens))
            room = self.max_tokens - len(self._before) - len(self._after)
            first = len(self._before)
            tokens = [*self._before, *tokens[first : first + room], *self._after]
        if not tokens:
            raise UsageError(f"text {index + 1} gives no tokens")
        return array("i", tokens)
