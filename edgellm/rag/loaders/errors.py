"""Why a file was not read."""

from __future__ import annotations

from edgellm.errors import EdgellmError

__all__ = ["LoaderError"]


class LoaderError(EdgellmError):
    """A file that is not read; `reason` is a phrase that a list of files shows beside its path."""

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason
