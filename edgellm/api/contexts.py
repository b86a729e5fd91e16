"""The context that a model's answers share: opened, used again, kept on disk, dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgellm.api.draft import DraftModel
from edgellm.backends.base import Backend, Constraint, Context, Drafter, Model
from edgellm.device.memory import DRAFT_MAX
from edgellm.errors import UsageError
from edgellm.generate.cached import MIN_TOKENS, CachedContext, open_cache
from edgellm.generate.drafts import Drafts
from edgellm.generate.forced import Forced
from edgellm.generate.options import GenerateOptions
from edgellm.models.adapter import Adapter

__all__ = ["Contexts"]


class Contexts:
    """One context at a time, which the next text uses again where it is large enough.

    Attributes:
        limit: the most tokens that one holds.
        current: the one that is open, if any.
        adapters: the model's, and how many times each counts now.
    """

    def __init__(
        self,
        model: Model,
        backend: Backend,
        path: Path,
        *,
        name: str,
        weights: int,
        limit: int,
        cache_type: str,
        prompt_cache: int,
        adapters: tuple[Adapter, ...],
        draft: DraftModel | None,
    ) -> None:
        self.limit = limit
        self.current: Context | None = None
        self.adapters = adapters
        self._model = model
        self._backend = backend
        self._path = path
        self._name = name
        self._weights = weights
        self._cache_type = cache_type
        self._prompt_cache = prompt_cache
        self._draft = draft
        self._cached: CachedContext | None = None  # the same context, if it has a cache on disk
        self._restored = 0  # tokens that contexts before this one took from there

    @property
    def restored_tokens(self) -> int:
        """How many tokens of prompts were read from the cache on disk so far."""
        return self._restored + (self._cached.restored_tokens if self._cached else 0)

    def keep(self) -> None:
        """Write the state of the last text to the cache on disk, if there is one; a long one."""
        if self._cached is not None:
            self._cached.keep()

    def adapt(self, adapters: tuple[Adapter, ...]) -> None:
        """Let adapters count as many times as these say."""
        self.adapters = adapters
        if self.current is not None:
            self.current.adapt([adapter.scale for adapter in adapters])

    def needed(self, tokens: Sequence[int], options: GenerateOptions) -> int:
        """Give the size of context: a short answer needs no full one, and less is made faster.

        A state on disk fits contexts of one size: a long prompt, which may be kept, always gets it.
        """
        kept = self._prompt_cache and len(tokens) > MIN_TOKENS
        if options.max_tokens < 0 or kept:
            return self.limit
        return min(self.limit, len(tokens) + max(options.max_tokens, 1))

    def open(self, size: int) -> Context:
        """Give a context of so many tokens at least.

        Raises:
            BackendError: the backend failed.
        """
        if self.current is not None and self.current.size < size:
            self.drop()
            size = self.limit  # it has been used twice: it may be used again
        if self.current is None:
            self.current = self._model.open_context(size, self._cache_type, DRAFT_MAX)
            self.current.adapt([adapter.scale for adapter in self.adapters])
            if self._prompt_cache and size == self.limit:
                self.current = self._cached = open_cache(
                    self.current,
                    self._prompt_cache,
                    self._backend,
                    self._path,
                    self._cache_type,
                    self.adapters,
                )
        return self.current

    def drop(self) -> None:
        """Free its memory; the next text gets another one."""
        if self.current is not None:
            self.current.close()
            self._restored = self.restored_tokens
            self.current = self._cached = None

    def drafter(
        self, options: GenerateOptions, constraint: Constraint | None = None
    ) -> Drafter | None:
        """Make what guesses for one text, on the context that is open.

        Raises:
            UsageError: it is asked for, and the model's state cannot be cut back.
        """
        guesses = self._guesses(options)
        return guesses if guesses is None or constraint is None else Forced(constraint, guesses)

    def _guesses(self, options: GenerateOptions) -> Drafter | None:
        """Make what guesses without a constraint."""
        draft, context = self._draft, self.current
        wanted = options.speculate == "ngram" or draft is not None
        if context is None or options.speculate == "off":
            return None
        if not context.draft_limit:
            if not wanted:
                return None
            raise UsageError(
                f"nothing can be drafted for {self._name}: its state cannot be cut back to the "
                "tokens that were right",
                hint="--speculate off, and no --draft",
            )
        if draft is None or options.speculate == "ngram":
            # A batch is rounded otherwise: what is drawn anyway may be, the likeliest text may not.
            pays = wanted or (self._model.batches_pay and options.sampling.temperature > 0)
            return Drafts(options.draft_max) if pays else None
        cost = draft.needs.weights / max(self._weights, 1)
        return Drafts(options.draft_max, draft.open(context.size, self._cache_type), cost)
