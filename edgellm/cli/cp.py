"""`edgellm cp`: a second name for a model of the store."""

from __future__ import annotations

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.sizes import human_bytes

__all__ = ["command"]


@click.command("cp")
@click.argument("name")
@click.argument("new_name")
@option("--force", is_flag=True, help="Replace a model that has the new name.")
@json_option
def command(name: str, new_name: str, force: bool, as_json: bool) -> None:
    """Give a model of the store a second name.

    Both names share the bytes on the disk where the file system can do that, and each can be
    removed alone.

    \b
    edgellm cp Qwen/Qwen3-0.6B-GGUF:Q8_0 assistant
    """
    from edgellm.api.store import copy_model

    done = copy_model(name, new_name, force=force)
    if as_json:
        echo_json(
            {
                "name": done.name,
                "path": str(done.path),
                "bytes": done.bytes,
                "linked": done.linked,
            }
        )
        return
    how = "no further space" if done.linked else f"{human_bytes(done.bytes)} more"
    click.echo(printable(f"{done.name} is in the store: {done.path} ({how})"))
