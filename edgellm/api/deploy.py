"""Bringing a bundle to another machine over ssh, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.deploy.ship import Plan, Shipped

__all__ = ["deploy", "plan_deployment", "roll_back"]

Progress = Callable[[str, int, int], None]


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def deploy(
    bundle: str | Path,
    host: str,
    *,
    port: int | None = None,
    identity: Path | None = None,
    force: bool = False,
    progress: Progress = _silent,
) -> Shipped:
    """Copy what a machine lacks of a bundle, install it there and let it answer once.

    What was interrupted goes on where it was. The version in use there stays until the new one
    has answered.

    Args:
        bundle: the archive.
        host: [USER@]HOST, or a name of ssh's own configuration.
        port: ssh's port; None for its configuration's.
        identity: a file with a private key; None for ssh's own choice.
        force: install it even if the machine has too little memory.
        progress: called often: what is going on, how much is done, of how much.

    Raises:
        UnsafeModelError: the bundle is damaged.
        DoesNotFitError: the disk there has no room.
        FetchError: the machine cannot be reached, does not suit, or gives no answer.
        UsageError: a name that is none of a host.
        NotFoundError: ssh is not installed.
    """
    from edgellm.deploy.remote import Remote
    from edgellm.deploy.ship import deploy as ship

    with Remote(host, port=port, identity=identity) as remote:
        return ship(remote, Path(bundle), progress, force=force)


def plan_deployment(
    bundle: str | Path, host: str, *, port: int | None = None, identity: Path | None = None
) -> Plan:
    """Tell what `deploy` would do; copies nothing.

    Raises: what `deploy` raises, but for what the bundle's own check of the machine finds.
    """
    from edgellm.deploy.archive import read_manifest
    from edgellm.deploy.remote import Remote
    from edgellm.deploy.ship import plan

    path = Path(bundle)
    manifest = read_manifest(path)
    with Remote(host, port=port, identity=identity) as remote:
        return plan(remote, path, manifest)


def roll_back(host: str, *, port: int | None = None, identity: Path | None = None) -> str:
    """Make the version before the current one current again; gives it.

    Raises:
        FetchError: the machine cannot be reached, or has no version before.
        UsageError: a name that is none of a host.
        NotFoundError: ssh is not installed.
    """
    from edgellm.deploy.remote import Remote
    from edgellm.deploy.ship import rollback

    with Remote(host, port=port, identity=identity) as remote:
        return rollback(remote)
