"""The command line: one file per command, and the only place that prints."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the `edgellm` command; the entry point of the installed script."""
    try:
        open_streams()
        from edgellm.cli.generation import prepare_stdout
        from edgellm.cli.main import run

        prepare_stdout()
        status = run()
    except KeyboardInterrupt:  # while modules are imported
        status = 130
    raise SystemExit(status)


def open_streams() -> None:
    """Put the null device where a standard stream is closed.

    Otherwise the next file that is opened takes its number, and what native code writes to stderr
    lands in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # in this order the lowest free number is the stream's own
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
