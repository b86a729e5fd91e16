"""The packages of the extra `rag`, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgellm.errors import UsageError

__all__ = ["package"]


def package(module: str, project: str) -> ModuleType:
    """Import a module of an optional package.

    Raises UsageError: the package is not installed; its hint is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise UsageError(
            f"{project} is not installed", hint="pip install 'edgellm[rag]'"
        ) from error
