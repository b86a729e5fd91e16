"""`edgellm rm`: remove models from the store."""

from __future__ import annotations

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.pull import on_terminal
from edgellm.cli.sizes import human_bytes

__all__ = ["command"]


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def command(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove models from the store, or what an interrupted pull has left.

    On a terminal it asks first. Bytes that have another name, such as a copy or a file of
    huggingface_hub's cache, stay on the disk until that goes too. Nothing outside of the store is
    ever removed.

    \b
    edgellm rm mine
    edgellm rm Qwen/Qwen3-0.6B-GGUF:Q8_0 -y
    """
    from edgellm.api.store import find_models, remove_models

    if not yes and on_terminal():
        for model in find_models(names):
            click.echo(
                printable(f"{model.name}  {human_bytes(model.bytes)}  {model.path}"), err=True
            )
        if not click.confirm("Remove?", err=True):
            click.echo("nothing is removed", err=True)
            return
    removed = remove_models(names)
    if as_json:
        echo_json(
            {
                "removed": [
                    {"name": each.name, "freed": each.freed, "kept": each.kept} for each in removed
                ]
            }
        )
        return
    for each in removed:
        text = f"{each.name} is removed, {human_bytes(each.freed)} are free"
        if each.kept:
            text += f"; {human_bytes(each.kept)} stay, since they have another name"
        click.echo(printable(text))
