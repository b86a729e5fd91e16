"""mlx and mlx-lm: their import, and the device that computes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import resource
from dataclasses import dataclass
from typing import Any

from edgellm.errors import BackendError, UsageError

__all__ = ["CLOSED", "Library", "library", "missing", "sentence"]


@dataclass(frozen=True, slots=True)
class Library:
    """What is used of both packages.

    Attributes:
        core: mlx.core.
        tree: mlx.utils.
        utils: mlx_lm.utils.
        cache: mlx_lm.models.cache.
    """

    core: Any
    tree: Any
    utils: Any
    cache: Any


class Closed:
    """Stands in the place of what a closed model or context held."""

    def __getattr__(self, _name: str) -> Any:
        raise UsageError("the model is closed, or its context made way for a larger one")


CLOSED: Any = Closed()


def missing() -> str | None:
    """Say why MLX cannot be used; None if its packages are installed."""
    for package, project in (("mlx", "mlx"), ("mlx_lm", "mlx-lm")):
        if importlib.util.find_spec(package) is None:
            return f"{project} is not installed (pip install 'edgellm[mlx]')"
    return None


@functools.cache
def library() -> Library:
    """Import both packages.

    Raises:
        BackendError: one is not there, or its native library cannot be loaded.
    """
    # mlx-lm sets how many files this process may open when it is imported, and fails where it may
    # not: a lower hard limit could never be raised again.
    setrlimit = resource.setrlimit
    resource.setrlimit = lambda _kind, _limits: None
    try:
        core, tree, utils, cache = map(
            importlib.import_module,
            ("mlx.core", "mlx.utils", "mlx_lm.utils", "mlx_lm.models.cache"),
        )
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"MLX cannot be loaded: {sentence(error)}") from error
    finally:
        resource.setrlimit = setrlimit
    importlib.import_module("transformers").logging.set_verbosity_error()
    return Library(core, tree, utils, cache)


def sentence(error: BaseException) -> str:
    """Give an error's text on one line, cut to what fits a sentence."""
    return " ".join(str(error).split())[:300] or type(error).__name__
