"""What a model that is not here yet will need: space on the disk, and memory to run in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellm.device.memory import (
    Runtime,
    cache_bytes,
    cached_layers,
    compute_bytes,
    folder_layers,
    process_bytes,
)
from edgellm.device.profiles import THIS, get_profile
from edgellm.errors import BackendError, DoesNotFitError

__all__ = ["Needs", "free_bytes", "memory_needs", "require_space"]

CONTEXT = 4096  # as `run` and `chat` take it, unless the model was trained on less
# What other programs may need while a download runs.
SPARE = 64 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory in bytes that the model takes at `context` tokens, and what this device leaves to it.

    `available` is None where the system does not say.
    """

    context: int
    memory: int
    available: int | None

    @property
    def fits(self) -> bool:
        """Whether it fits, as far as anybody knows."""
        return self.available is None or self.memory <= self.available


def memory_needs(
    metadata: Mapping[str, object], weights: int, *, folder: bool = False
) -> Needs | None:
    """Estimate the memory from a GGUF file's metadata, or a folder's config.json.

    None where they do not tell.
    """
    trained = metadata.get(
        "max_position_embeddings"
        if folder
        else f"{metadata.get('general.architecture')}.context_length"
    )
    context = min(CONTEXT, trained) if type(trained) is int and trained > 0 else CONTEXT
    runtime = Runtime(context)
    layers = folder_layers(metadata) if folder else cached_layers(metadata)
    if layers is None:
        return None
    compute = 0 if folder else compute_bytes(metadata, runtime) or 0
    total = weights + cache_bytes(layers, runtime) + compute + process_bytes(metadata)
    try:
        available = get_profile(THIS).available
    except BackendError:
        available = None
    return Needs(context, total, available)


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
