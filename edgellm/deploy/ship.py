"""Bringing a bundle to another machine: only what it lacks is copied, and the old version stays.

There, files lie by their sha256 in `blobs/`; a version is put together of further names for them
(hard links), and its own `install.sh` does the rest.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgellm.deploy.archive import MANIFEST, SUMS, Manifest, check_archive
from edgellm.deploy.remote import Remote
from edgellm.errors import DoesNotFitError, FetchError

__all__ = ["Plan", "Shipped", "deploy", "plan", "rollback"]

PREFIX = ".local/share/edgellm-bundles"  # in the person's home there

Progress = Callable[[str, int, int], None]

# $1: the prefix. Tells what is there, one fact a line.
_PROBE = r"""
set -u
cd "$HOME" && mkdir -p "$1/blobs" && cd "$1" || exit 1
echo "prefix $(pwd)"
echo "system $(uname -sm)"
echo "title $( (. /etc/os-release && echo "$PRETTY_NAME") 2>/dev/null)"
echo "memory $(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo 2>/dev/null)"
echo "free $(df -Pk . | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\) .*/\1/p')"
for link in current previous; do
    if [ -L $link ]; then echo "$link $(basename "$(readlink $link)")"; fi
done
ls blobs | sed -n 's/^[0-9a-f]\{64\}$/blob &/p'
"""
# $1: the prefix, $2: the version; what stands in SHA256SUMS gets its name there.
_ASSEMBLE = r"""
set -eu
cd "$1"
rm -rf "incoming/$2"
mkdir -p "incoming/$2"
cp blobs/sums "incoming/$2/SHA256SUMS"
while read -r digest name; do
    mkdir -p "incoming/$2/$(dirname "$name")"
    ln "blobs/$digest" "incoming/$2/$name" 2>/dev/null || cp "blobs/$digest" "incoming/$2/$name"
done <"incoming/$2/SHA256SUMS"
cp blobs/manifest "incoming/$2/manifest.json"
"""
# $1: the prefix. Keeps the blobs of versions that are installed.
_TIDY = r"""
set -eu
cd "$1"
rm -rf incoming
kept=$(cat versions/*/SHA256SUMS | cut -c 1-64 | sort -u)
for blob in blobs/*; do
    printf '%s\n' "$kept" | grep -Fxq -- "$(basename "$blob")" || rm -f "$blob"
done
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment will do.

    Attributes:
        host: as it was given.
        system: the other machine's system, kernel and processor.
        memory: its memory in bytes; 0 if it does not tell.
        free: bytes free on its disk.
        prefix: the folder there.
        version: the version that the bundle installs, by the bundle's fingerprint.
        current: the version in use there; None if there is none.
        missing: the files that are copied, as (name, sha256, bytes).
        present: bytes of the bundle that are there already.
    """

    host: str
    system: str
    memory: int
    free: int
    prefix: str
    version: str
    current: str | None
    missing: tuple[tuple[str, str, int], ...]
    present: int

    @property
    def bytes(self) -> int:
        """Bytes that are copied."""
        return sum(size for _, _, size in self.missing)


@dataclass(frozen=True, slots=True)
class Shipped:
    """What a deployment did.

    Attributes:
        plan: what was to be done.
        text: the first answer there.
        tokens_per_s: how fast it was written.
    """

    plan: Plan
    text: str
    tokens_per_s: float


def plan(remote: Remote, path: Path, manifest: Manifest, prefix: str = PREFIX) -> Plan:
    """Look at the other machine and tell what has to be done.

    Raises:
        FetchError: it cannot be reached.
        DoesNotFitError: its disk has no room.
    """
    facts: dict[str, str] = {}
    blobs: set[str] = set()
    for line in remote.run(_PROBE, [prefix]).splitlines():
        key, _, value = line.partition(" ")
        if key == "blob":
            blobs.add(value)
        else:
            facts.setdefault(key, value.strip()[:200])
    files = sorted((name, digest, size) for name, (digest, size) in manifest.files.items())
    missing, seen = [], set(blobs)
    for name, digest, size in files:
        if digest not in seen:
            missing.append((name, digest, size))
            seen.add(digest)
    found = Plan(
        host=remote.host,
        system=f"{facts.get('title') or 'unknown system'}, {facts.get('system', '')}",
        memory=_number(facts.get("memory")) * 1024,
        free=_number(facts.get("free")) * 1024,
        prefix=facts.get("prefix", ""),
        version=manifest.fingerprint[:12],
        current=facts.get("current"),
        missing=tuple(missing),
        present=sum(size for _, digest, size in files if digest in blobs),
    )
    if not found.prefix.startswith("/"):
        raise FetchError(f"{remote.host} does not tell where {prefix} is")
    unpacked = manifest.fields.get("unpacked_bytes")
    needed = found.bytes + (unpacked if type(unpacked) is int else 0)
    if found.version != found.current and needed > found.free:
        raise DoesNotFitError(
            f"{remote.host} has {found.free / 1e6:.0f} MB free on its disk, and {path.name} needs "
            f"{needed / 1e6:.0f} MB there"
        )
    return found


def deploy(
    remote: Remote, path: Path, progress: Progress, *, prefix: str = PREFIX, force: bool = False
) -> Shipped:
    """Copy what the other machine lacks of a bundle, and install it.

    The version in use there stays until the new one has answered.

    Args:
        remote: the machine.
        path: the bundle.
        progress: called often: what is going on, how much is done, of how much.
        prefix: the folder there, from the person's home on.
        force: install it even if the machine has too little memory.

    Raises:
        UnsafeModelError: the bundle is damaged.
        DoesNotFitError: the disk there has no room.
        FetchError: the machine cannot be reached, does not suit, or gives no answer.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".edgellm-deploy-") as place:
        folder = Path(place)

        def create(name: str, _executable: bool) -> IO[bytes]:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            return target.open("wb")

        manifest = check_archive(
            path, lambda done, total: progress("checking the bundle", done, total), into=create
        )
        todo = plan(remote, path, manifest, prefix)
        _check_machine(remote, folder, todo, force=force)
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress(f"copying to {remote.host}", done, todo.bytes)

        for name, digest, _ in todo.missing:
            remote.send(folder / name, f"{todo.prefix}/blobs/{digest}", digest, report)
        _send_text(remote, folder / SUMS, manifest.sums, f"{todo.prefix}/blobs/sums")
        _send_text(remote, folder / MANIFEST, manifest.text, f"{todo.prefix}/blobs/manifest")
    remote.run(_ASSEMBLE, [todo.prefix, todo.version])
    progress(f"installing on {remote.host}", 0, 0)
    script = 'cd "$1/incoming/$2" && shift 2 && sh install.sh "$@"'
    options = ["--prefix", todo.prefix, *(["--force"] if force else [])]
    remote.run(script, [todo.prefix, todo.version, *options], shown=True)
    answer = remote.run('cat "$1/current/first.json"', [todo.prefix])
    remote.run(_TIDY, [todo.prefix])
    return _shipped(todo, answer)


def rollback(remote: Remote, prefix: str = PREFIX) -> str:
    """Make the version before the current one current again; gives it.

    Raises:
        FetchError: the machine cannot be reached, or has no version before.
    """
    script = """
cd "$HOME" && cd "$1" 2>/dev/null && [ -e current/install.sh ] || {
    echo "nothing is installed there" >&2; exit 1
}
sh current/install.sh --rollback --prefix "$(pwd)" >&2 && basename "$(readlink current)"
"""
    return remote.run(script, [prefix]).strip()


def _check_machine(remote: Remote, folder: Path, todo: Plan, *, force: bool) -> None:
    """Let the bundle's own script look at the machine, before much is copied."""
    script = (folder / "install.sh").read_text(encoding="utf-8")
    options = ["--check-machine", "--prefix", todo.prefix, *(["--force"] if force else [])]
    remote.run(script, options)


def _send_text(remote: Remote, place: Path, text: str, target: str) -> None:
    from hashlib import sha256

    place.write_text(text, encoding="utf-8")
    remote.run('rm -f "$1.part"', [target])
    remote.send(place, target, sha256(text.encode()).hexdigest(), lambda _count: None)


def _shipped(todo: Plan, answer: str) -> Shipped:
    try:
        first: dict[str, Any] = json.loads(answer)
        return Shipped(todo, str(first["text"]), float(first["completion_tokens_per_s"]))
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{todo.host} gives no answer that can be read: {error}") from error


def _number(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,15}", text) else 0
