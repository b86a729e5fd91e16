"""A context that takes states of prompts from a cache on disk, and gives its own to it."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgellm.backends.base import Backend, Constraint, Context, Drafter, Sampling
from edgellm.generate.promptcache import PromptCache, log, prompts_dir
from edgellm.models.adapter import Adapter
from edgellm.models.identity import model_identity

__all__ = ["MIN_TOKENS", "CachedContext", "open_cache"]

# Fewer tokens are evaluated about as fast as a file is written or read.
MIN_TOKENS = 256
# A state is read whole. A token of it costs a fiftieth of evaluating one (SmolLM2 on two cores),
# and more beside an accelerator: it is read if this part of it is of use.
PART = 8


def open_cache(
    context: Context,
    limit: int,
    backend: Backend,
    path: Path,
    cache_type: str,
    adapters: Sequence[Adapter] = (),
) -> CachedContext:
    """Put a cache of so many bytes around an empty context.

    States are found again where all is the same that they depend on: the model's files, the
    backend's build, the context's size and type, and the adapters that count. The chat
    template is none of it: it makes other tokens, and a state is found by its tokens.
    """
    identity = functools.cache(model_identity)

    def fingerprint(scales: Sequence[float]) -> str:
        used = [
            (adapter.digest, scale)
            for adapter, scale in zip(adapters, scales, strict=True)
            if scale
        ]
        parts = [backend.name, backend.build, identity(path), cache_type, context.size, used]
        return hashlib.sha256(json.dumps([sys.byteorder, *parts]).encode()).hexdigest()

    cache = PromptCache(prompts_dir(), limit, worth=MIN_TOKENS)
    return CachedContext(context, cache, fingerprint, [adapter.scale for adapter in adapters])


class CachedContext:
    """See `edgellm.backends.base.Context`, which it is around another one.

    Attributes:
        restored_tokens: how many tokens' state came from the cache so far.
    """

    def __init__(
        self,
        context: Context,
        cache: PromptCache,
        fingerprint: Callable[[Sequence[float]], str],
        scales: Sequence[float] = (),
    ) -> None:
        self._context = context
        self._cache = cache
        self._fingerprint = fingerprint
        self._scales = tuple(scales)
        self.restored_tokens = 0
        self._stored: list[int] = []  # the tokens whose state the cache is known to have
        self._whole = False
        # The loop calls it for each token: no other function stands in between.
        self.next_piece: Callable[[], bytes | None] = context.next_piece
        self.put: Callable[[Sequence[int], Callable[[], bool]], None] = context.put
        self.constrain: Callable[[Constraint | None], None] = context.constrain
        self.speculate: Callable[[Drafter], None] = context.speculate

    @property
    def size(self) -> int:
        """How many tokens it can hold."""
        return self._context.size

    @property
    def prefills(self) -> int:
        """How many prompts it was given."""
        return self._context.prefills

    @property
    def held(self) -> Sequence[int]:
        """The tokens that are evaluated."""
        return self._context.held

    @property
    def sampled(self) -> int | None:
        """The token that was sampled last."""
        return self._context.sampled

    @property
    def draft_limit(self) -> int:
        """The most tokens of a draft."""
        return self._context.draft_limit

    @property
    def state_size(self) -> int:
        """How many bytes `save_state` writes, nearly."""
        return self._context.state_size

    def prefill(
        self, tokens: Sequence[int], sampling: Sampling, cancelled: Callable[[], bool]
    ) -> int:
        """Evaluate a prompt but what the context holds, or the cache has, of its beginning."""
        self._whole = False
        restored = self._restore(tokens)
        kept = self._context.prefill(tokens, sampling, cancelled)
        self.restored_tokens += min(restored, kept)
        self._whole = True
        return kept

    def adapt(self, scales: Sequence[float]) -> None:
        """Use adapters so many times; states with others are not looked at any more."""
        if tuple(scales) != self._scales:
            self._context.adapt(scales)
            self._scales = tuple(scales)
            self._stored = []
            self._whole = False

    def keep(self) -> bool:
        """Write the state to the cache, if enough of it is not there; tells whether it is now."""
        tokens = list(self._context.held)
        new = len(tokens) - _common(tokens, self._stored)
        key = self._key() if self._whole and new >= MIN_TOKENS else None
        if key is None:
            return False
        context = self._context
        kept = self._cache.add(key, tokens, context.state_size, context.save_state)
        if kept:
            self._stored = tokens
        return kept

    def save_state(self, path: Path) -> None:
        """Write keys and values to a file."""
        self._context.save_state(path)

    def load_state(self, path: Path, tokens: Sequence[int]) -> None:
        """Take keys and values from a file."""
        self._context.load_state(path, tokens)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._context.close()

    def _key(self) -> str | None:
        """Give what states are found by; None where the model's files cannot be looked at."""
        try:
            return self._fingerprint(self._scales)
        except OSError as error:
            log.debug("no state is looked for: %s", error)
            return None

    def _restore(self, tokens: Sequence[int]) -> int:
        """Take the best state from the cache if it is worth it; gives how much of it is of use."""
        wanted = tokens[:-1]  # the last one is evaluated in any case
        held = _common(self._context.held, wanted)
        if len(wanted) - held < MIN_TOKENS:
            return 0
        key = self._key()
        found = self._cache.find(key, wanted) if key else None
        if found is None:
            return 0
        entry, common = found
        if common - held < max(MIN_TOKENS, entry.count // PART):
            return 0
        all_tokens = entry.token_list()
        if len(all_tokens) > self.size:
            return 0
        if not self._cache.read(entry, lambda path: self._context.load_state(path, all_tokens)):
            return 0
        self._stored = all_tokens
        return common


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two begin with alike."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
