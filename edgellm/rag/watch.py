"""Following folders with watchfiles: one event for each burst of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgellm.rag.optional import package

__all__ = ["changes"]

DEBOUNCE_MS = 1600  # changes that come one after another are one
STEP_MS = 50
TURN_MS = 1000  # how often `stop` is asked


def changes(paths: Sequence[Path], stop: Callable[[], bool]) -> Iterator[None]:
    """Give an event whenever something below the paths has changed, until `stop` gives True.

    Raises:
        NotFoundError: the package is missing; raised at once, not at the first event.
    """
    watchfiles = package("watchfiles", "watchfiles")

    def events() -> Iterator[None]:
        # Ctrl-C ends the process, and is not swallowed.
        for found in watchfiles.watch(
            *paths,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=TURN_MS,
            yield_on_timeout=True,
            raise_interrupt=True,
        ):
            if stop():
                return
            if found:
                yield

    return events()
