"""What the commands of `edgellm rag` share: the library, and which of its files are searched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm.cli.options import option

if TYPE_CHECKING:
    from edgellm.rag.retrieve import Filters

__all__ = ["db_option", "filter_options", "read_filters"]

F = TypeVar("F", bound=Callable[..., Any])


_FILTERS = (
    option(
        "--path",
        "globs",
        envvar="EDGELLM_PATH",
        multiple=True,
        metavar="GLOB",
        help="Search files whose path matches (without a slash: whose name does); may be given "
        "several times.",
    ),
    option(
        "--type",
        "types",
        envvar="EDGELLM_TYPES",
        multiple=True,
        metavar="TYPE",
        help="Search files of this type (pdf, md, html ...); may be given several times.",
    ),
    option(
        "--since", metavar="DATE", help="Search files that changed at this day or time, or later."
    ),
    option("--until", metavar="DATE", help="Search files that changed before this day or time."),
)


def db_option(function: F) -> F:
    """Add `--db`, the library's file."""
    return option(
        "--db",
        envvar="EDGELLM_DB",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The library, one SQLite file  [default: rag/library.db in EDGELLM_HOME].",
    )(function)


def filter_options(function: F) -> F:
    """Add `--path`, `--type`, `--since` and `--until`, which `read_filters` reads."""
    for add in reversed(_FILTERS):
        function = add(function)
    return function


def read_filters(values: dict[str, Any]) -> Filters:
    """Take the filters out of a command's values.

    Raises:
        click.UsageError: a date is none.
    """
    from edgellm.rag.retrieve import Filters

    globs, types = values.pop("globs"), values.pop("types")
    since, until = values.pop("since"), values.pop("until")
    return Filters(globs, types, _moment(since, "--since"), _moment(until, "--until"))


def _moment(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.UsageError(f"{name} {text}: give a date such as 2026-01-31") from None
