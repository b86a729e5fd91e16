"""The errors of this package.

ConvertersError
├── SourceNotFoundError   the path, or a file that belongs to the checkpoint, is not there
├── CorruptFileError      a file that breaks its format's rules, or tries to do harm
├── ConfigError           a config.json, tokenizer.json or metadata value missing or of a wrong kind
├── UnsupportedError      well formed, but an architecture, tokenizer, type or layout not known here
├── IncompletePlanError   source tensors that nothing uses, or outputs that nothing fills
├── NotFiniteError        NaN or infinity among the weights, and nobody allowed it
├── RequantizeError       the source is quantized already and nobody asked for a second time
└── OutputError           the target exists, or cannot be written
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ConfigError",
    "ConvertersError",
    "CorruptFileError",
    "IncompletePlanError",
    "NotFiniteError",
    "OutputError",
    "RequantizeError",
    "SourceNotFoundError",
    "UnsupportedError",
]


class ConvertersError(Exception):
    """The root of this package's errors.

    `hint` says what a person can do about it; it is shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SourceNotFoundError(ConvertersError):
    """The path, or a file that belongs to the checkpoint, is not there."""


class CorruptFileError(ConvertersError):
    """A file that breaks the rules of its format, or tries to do harm.

    `offset` is the byte at which the reader stopped, where one is known.
    """

    def __init__(
        self, path: Path, reason: str, *, offset: int | None = None, hint: str | None = None
    ) -> None:
        at = "" if offset is None else f" (at byte {offset})"
        super().__init__(f"{path}: {reason}{at}", hint=hint)
        self.path = path
        self.reason = reason
        self.offset = offset


class ConfigError(ConvertersError):
    """A value in config.json, tokenizer.json or GGUF metadata is missing or of a wrong kind."""


class UnsupportedError(ConvertersError):
    """Well formed, but an architecture, tokenizer, type or layout that is not known here."""


class IncompletePlanError(ConvertersError):
    """Source tensors that nothing uses, or outputs that nothing fills."""


class NotFiniteError(ConvertersError):
    """NaN or infinity among the weights, and nobody allowed it."""


class RequantizeError(ConvertersError):
    """The source is quantized already and nobody asked to quantize it a second time."""


class OutputError(ConvertersError):
    """The target exists already, or cannot be written."""
