"""The command line: one file per command, and the only place that prints."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the `edgellm` command; the entry point of the installed script."""
    from edgellm.cli.main import run

    raise SystemExit(run())
