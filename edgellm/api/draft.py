"""A smaller model that guesses what a larger one writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellm.api.fit import checked_needs
from edgellm.backends.base import Context, LoadOptions, Model, select
from edgellm.device.fit import DEFAULT_CONTEXT, Needs
from edgellm.device.memory import Runtime
from edgellm.errors import UsageError

__all__ = ["DraftModel"]


class DraftModel:
    """A draft model: its file is checked at once, and loaded by `load`.

    Attributes:
        path: its file or folder.
        needs: what its memory depends on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.needs: Needs = checked_needs(path)
        self._model: Model | None = None
        self._context: Context | None = None

    def reserve(self, context: int | None, cache_type: str) -> int:
        """Give the bytes that it takes beside a model with a context of so many tokens."""
        demand = self.needs.demand(Runtime(context or DEFAULT_CONTEXT, cache_type))
        return demand.total - demand.process if demand else self.needs.weights

    def load(
        self, target: Model, target_path: Path, options: LoadOptions, cancelled: Callable[[], bool]
    ) -> None:
        """Load it, and compare its vocabulary with the one of the model that it guesses for.

        Raises:
            UsageError: they differ.
            BackendError: no backend can run it.
        """
        self._model = select(self.path).load(self.path, options, cancelled)
        try:
            difference = _difference(self._model, target)
            if difference:
                raise UsageError(
                    f"{self.path} cannot draft for {target_path}: {difference}",
                    hint="a draft model has the very vocabulary of the model, as smaller ones of "
                    "the same family have",
                )
        except BaseException:
            self.close()
            raise

    def open(self, size: int, cache_type: str) -> Context:
        """Give its context, of at least so many tokens or all that it was trained on."""
        assert self._model is not None
        size = min(size, self._model.trained_context)
        if self._context is None or self._context.size < size:
            if self._context is not None:
                self._context.close()
            self._context = self._model.open_context(size, cache_type)
        return self._context

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        if self._context is not None:
            self._context.close()
        if self._model is not None:
            self._model.close()
        self._context = self._model = None


def _difference(draft: Model, target: Model) -> str | None:
    """Say in what two vocabularies differ; None if they do not."""
    ours, theirs = draft.vocabulary_size, target.vocabulary_size
    if ours != theirs:
        return f"its vocabulary has {ours} tokens and the model's {theirs}"
    for token in range(ours):
        text, other = draft.token_text(token), target.token_text(token)
        if text != other:
            return f"token {token} is {text!r} in it and {other!r} in the model"
        if draft.control_text(token) != target.control_text(token):
            return f"token {token}, {text!r}, is a control token in only one of them"
    ends, others = draft.end_tokens, target.end_tokens
    if ends != others:
        token = min(ends ^ others)
        return f"token {token}, {draft.token_text(token)!r}, ends a text in only one of them"
    return None
