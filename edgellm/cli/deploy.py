"""`edgellm deploy`: a bundle on its way to another machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import StatusLine, terminated_like_interrupted
from edgellm.cli.sizes import human_bytes

if TYPE_CHECKING:
    from edgellm.deploy.ship import Plan

__all__ = ["command"]


@click.command("deploy")
@click.argument("words", nargs=-1, metavar="[BUNDLE] [USER@]HOST")
@option("--port", type=click.IntRange(1, 65535), help="Port of ssh.  [default: ssh's own]")
@option(
    "--identity",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with the private key.  [default: ssh's own]",
)
@option("--dry-run", is_flag=True, help="Look at the machine and print the plan; copy nothing.")
@option("--rollback", is_flag=True, help="Make the version before the current one current again.")
@option("--force", is_flag=True, help="Install even where the machine has too little memory.")
@json_option
def command(
    words: tuple[str, ...],
    port: int | None,
    identity: Path | None,
    dry_run: bool,
    rollback: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Install a bundle on another machine over ssh.

    BUNDLE is a file of `edgellm bundle`. The machine is looked at first: system, processor, memory,
    disk, Python. Then what it lacks of the bundle is copied, and no byte twice: files that are
    there already stay, and an interrupted copy goes on where it stopped. Last, the bundle's own
    script installs it and lets it answer once; the version in use stays in use until then, and is
    kept for --rollback. It needs sshd and a shell there, no root and no network.

    \b
    edgellm deploy assistant.tar pi@raspberrypi.local
    edgellm deploy assistant.tar pi@raspberrypi.local --dry-run
    edgellm deploy pi@raspberrypi.local --rollback
    """
    from edgellm.api.deploy import deploy, plan_deployment, roll_back

    if len(words) != (1 if rollback else 2):
        what = "--rollback takes the host alone" if rollback else "give a bundle and a host"
        raise click.UsageError(what)
    host = words[-1]
    if rollback:
        version = roll_back(host, port=port, identity=identity)
        if as_json:
            echo_json({"host": host, "version": version})
        else:
            click.echo(printable(f"{host} is back at version {version}"))
        return
    if dry_run:
        plan = plan_deployment(words[0], host, port=port, identity=identity)
        if as_json:
            echo_json(_plan_json(plan))
        else:
            for text in _plan_lines(plan):
                click.echo(printable(text))
        return
    line = StatusLine()
    with terminated_like_interrupted():
        try:
            done = deploy(
                words[0], host, port=port, identity=identity, force=force, progress=line.show
            )
        finally:
            line.clear()
    if as_json:
        said = {"text": done.text, "completion_tokens_per_s": done.tokens_per_s}
        echo_json(_plan_json(done.plan) | said)
        return
    click.echo(
        printable(
            f"{host}: version {done.plan.version} answers, {done.tokens_per_s:.1f} tokens/s; "
            f"{human_bytes(done.plan.bytes)} were copied, {human_bytes(done.plan.present)} were "
            f"there\n  there: edgellm chat"
        )
    )


def _plan_json(plan: Plan) -> dict[str, object]:
    body = asdict(plan)
    body["missing"] = [{"path": name, "bytes": size} for name, _, size in plan.missing]
    return body | {"bytes": plan.bytes}


def _plan_lines(plan: Plan) -> list[str]:
    now = f"version {plan.current} is in use" if plan.current else "nothing is installed"
    lines = [
        f"{plan.host}: {plan.system}",
        f"  memory {human_bytes(plan.memory)}, {human_bytes(plan.free)} free on the disk, {now}",
        f"  version {plan.version} would go to {plan.prefix}",
        f"  {human_bytes(plan.present)} of it are there, {human_bytes(plan.bytes)} are copied:",
    ]
    return [*lines, *(f"    {name} ({human_bytes(size)})" for name, _, size in plan.missing)]
