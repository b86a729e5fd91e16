"""What a model that is not here yet will need: space on the disk, and memory to run in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellm.device import fit
from edgellm.device.memory import Runtime
from edgellm.device.profiles import THIS, get_profile
from edgellm.errors import BackendError, DoesNotFitError

__all__ = ["MemoryNeeds", "free_bytes", "memory_needs", "require_space"]

# What other programs may need while a download runs.
SPARE = 64 << 20


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Memory in bytes that a model takes at `context` tokens, and what this device leaves to it.

    `context` is the largest that fits, up to the usual one of `chat`; the least, where none does.
    `available` is None where the system does not say.
    """

    context: int
    memory: int
    available: int | None

    @property
    def fits(self) -> bool:
        """Whether it fits, as far as anybody knows."""
        return self.available is None or self.memory <= self.available


def memory_needs(metadata: Mapping[str, object], weights: int) -> MemoryNeeds | None:
    """Estimate the memory from metadata as of a GGUF file; None where they do not tell."""
    needs = fit.Needs(metadata, {"weights": weights})
    try:
        available = get_profile(THIS).available
    except BackendError:
        available = None
    usual = min(needs.trained_context or fit.DEFAULT_CONTEXT, fit.DEFAULT_CONTEXT)
    try:
        choice = fit.choose_context(needs, weights * 1000 if available is None else available)
        context, demand = choice.context, choice.demand
    except DoesNotFitError:
        context = min(fit.SMALLEST_CONTEXT, usual)
        demand = needs.demand(Runtime(context))
    return None if demand is None else MemoryNeeds(context, demand.total, available)


def free_bytes(folder: Path) -> int:
    """Give the free space where `folder` lies, or will lie."""
    for path in (folder, *folder.parents):
        if path.exists():
            return shutil.disk_usage(path).free
    return 0


def require_space(what: str, count: int, folder: Path) -> None:
    """Refuse what the disk has no room for.

    Raises:
        DoesNotFitError: `count` bytes and a little spare are more than is free.
    """
    free = free_bytes(folder)
    if count and count + SPARE > free:
        raise DoesNotFitError(
            f"{what} needs {count} bytes of disk space, and {folder} has {free} free",
            hint="make room (edgellm rm), or let EDGELLM_HOME name a folder on another disk",
        )
