"""The errors of this package; exit codes are given to them in `edgellm.cli.errors`.

EdgellmError
├── UsageError            options that contradict each other, or a value out of range
│   └── SettingsError     an EDGELLM_* variable that is unknown or has a wrong value
├── NotFoundError         a model, file or session that is not there
├── DoesNotFitError       the model or the context needs more memory than there is
├── UnsafeModelError      a model file that must not reach native code
├── CorruptLibraryError   a library of documents that is damaged, or none
├── ContextOverflowError  the prompt is longer than the context
├── CheckFailedError      a verification or threshold did not hold
├── TemplateError         a chat template that fails, or tries to do harm
├── BackendError          llama.cpp or MLX refuses or fails
└── FetchError            a download or a package that did not arrive whole
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CheckFailedError",
    "ContextOverflowError",
    "CorruptLibraryError",
    "DoesNotFitError",
    "EdgellmError",
    "FetchError",
    "NotFoundError",
    "SettingsError",
    "TemplateError",
    "UnsafeModelError",
    "UsageError",
]


class EdgellmError(Exception):
    """The root of this package's errors.

    `hint` says what a person can do about it; it is shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgellmError):
    """Options that contradict each other, or a value out of its range."""


class SettingsError(UsageError):
    """An EDGELLM_* variable that is unknown or has a wrong value."""


class NotFoundError(EdgellmError):
    """A model, file or session that is not there."""


class DoesNotFitError(EdgellmError):
    """The model or the context needs more memory than there is."""


class UnsafeModelError(EdgellmError):
    """A model file that must not reach native code."""


class CorruptLibraryError(EdgellmError):
    """A library of documents that is damaged, or a file that is none."""


class ContextOverflowError(EdgellmError):
    """The prompt is longer than the context."""


class CheckFailedError(EdgellmError):
    """A verification or a threshold did not hold."""


class TemplateError(EdgellmError):
    """A chat template that fails, or tries to do harm."""


class BackendError(EdgellmError):
    """The backend (llama.cpp or MLX) refuses or fails."""


class FetchError(EdgellmError):
    """A download or a package that did not arrive whole."""
