"""One table at the edge: which exception becomes which code and exit status.

Lower packages raise their own errors and know nothing of exit codes; this table is the one place
that does. `docs/exit-codes.md` is its documentation and a test keeps the two equal.
"""

from __future__ import annotations

import click

from edgellm import errors as edgellm_errors
from edgellm_converters import errors as converter_errors
from edgellm_quant import errors as quant_errors

__all__ = ["EXIT_CODES", "INTERRUPTED", "describe"]

INTERRUPTED = 130

# The first row whose class matches decides, so subclasses stand before their bases.
EXIT_CODES: tuple[tuple[type[BaseException], str, int], ...] = (
    (KeyboardInterrupt, "interrupted", INTERRUPTED),
    (click.Abort, "interrupted", INTERRUPTED),
    (click.UsageError, "usage", 2),
    (edgellm_errors.UsageError, "usage", 2),
    (converter_errors.RequantizeError, "usage", 2),
    (quant_errors.UnknownTypeError, "usage", 2),
    (quant_errors.ImportanceRequiredError, "usage", 2),
    (edgellm_errors.NotFoundError, "not_found", 3),
    (converter_errors.SourceNotFoundError, "not_found", 3),
    (edgellm_errors.DoesNotFitError, "does_not_fit", 4),
    (quant_errors.BudgetError, "does_not_fit", 4),
    (edgellm_errors.UnsafeModelError, "corrupt_file", 5),
    (edgellm_errors.CorruptLibraryError, "corrupt_file", 5),
    (converter_errors.CorruptFileError, "corrupt_file", 5),
    (edgellm_errors.ContextOverflowError, "context_overflow", 6),
    (edgellm_errors.CheckFailedError, "check_failed", 7),
    (edgellm_errors.EdgellmError, "failed", 1),
    (converter_errors.ConvertersError, "failed", 1),
    (quant_errors.QuantError, "failed", 1),
    (click.ClickException, "failed", 1),
    (OSError, "failed", 1),
)


def describe(error: BaseException) -> tuple[str, int, str, str | None]:
    """Give the code, exit status, sentence and hint of an error.

    An error that is in no row is a defect of ours: it gets code "internal" and status 1.
    """
    for kind, code, status in EXIT_CODES:
        if isinstance(error, kind):
            return code, status, _sentence(error), _hint(error)
    sentence = f"unexpected {type(error).__name__}: {error}"
    return "internal", 1, sentence, "run again with EDGELLM_DEBUG=1 for the traceback"


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)


def _hint(error: BaseException) -> str | None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"see: {error.ctx.command_path} --help"
    hint = getattr(error, "hint", None)
    return hint if isinstance(hint, str) else None
