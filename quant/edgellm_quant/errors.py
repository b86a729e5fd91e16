"""The errors of this package.

QuantError
├── UnknownTypeError         a type or recipe name that is not in the tables
├── ShapeError               an array that the block format cannot hold
├── ValueRangeError          NaN, infinity, or a value too large for the block format
├── ImportanceRequiredError  a type that ggml encodes only with an importance vector
├── BudgetError              a budget that no choice of formats keeps
└── LibraryError             libggml is missing or does not answer as declared
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ImportanceRequiredError",
    "LibraryError",
    "QuantError",
    "ShapeError",
    "UnknownTypeError",
    "ValueRangeError",
]


class QuantError(Exception):
    """The root of this package's errors.

    `hint` says what a person can do about it; it is shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UnknownTypeError(QuantError):
    """A type or recipe name that is not in the tables."""


class ShapeError(QuantError):
    """An array whose shape or dtype the block format cannot hold."""


class ValueRangeError(QuantError):
    """NaN, infinity, or a value too large for the block format."""


class ImportanceRequiredError(QuantError):
    """A type that ggml encodes only with an importance vector."""


class BudgetError(QuantError):
    """A budget that no choice of formats keeps."""


class LibraryError(QuantError):
    """The ggml library is missing or does not answer as declared."""
