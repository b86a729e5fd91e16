"""What lies in huggingface_hub's cache: used where it is there, never written.

Its layout is documented: `models--USER--REPO/` holds `blobs/`, named by sha256 (large files) or
git's sha1, and `snapshots/COMMIT/` with links to them; `refs/main` names the newest commit.
"""

from __future__ import annotations

from pathlib import Path

from edgellm.models.hub import RemoteFile, Repository
from edgellm.models.reference import HubReference, is_safe_name

__all__ = ["cached_file", "cached_repository"]

_MAX_REF = 200
_MAX_FILES = 10_000


def cached_file(repo: str, revision: str, file: RemoteFile) -> Path | None:
    """Find a file of the hub in the cache, by its content; None if it is not there whole."""
    folder = _folder(repo)
    blob = folder / "blobs" / (file.sha256 or file.oid or "-")
    # Where links cannot be made, the file itself lies among the snapshots.
    for path in (blob, folder / "snapshots" / revision / file.name):
        try:
            real = path.resolve(strict=True)
            if real.is_file() and real.stat().st_size == file.size:
                return real
        except OSError:
            continue
    return None


def cached_repository(reference: HubReference) -> Repository | None:
    """Describe a repository by what the cache has of it, without network; None if nothing."""
    folder = _folder(reference.repo)
    revision = reference.revision or "main"
    if is_safe_name(revision):
        try:
            with (folder / "refs" / revision).open("rb") as file:
                revision = file.read(_MAX_REF).decode("ascii").strip()
        except (OSError, ValueError):
            pass
    snapshot = folder / "snapshots" / revision
    if not is_safe_name(revision) or "/" in revision or not snapshot.is_dir():
        return None
    files = []
    for path in sorted(snapshot.rglob("*"))[:_MAX_FILES]:
        name = path.relative_to(snapshot).as_posix()
        found = _file(name, path) if is_safe_name(name) else None
        if found is not None:
            files.append(found)
    return Repository(reference.repo, revision, None, False, frozenset(), tuple(files))


def _file(name: str, path: Path) -> RemoteFile | None:
    """Describe a file by the name of the blob that it links to."""
    try:
        if not path.is_file():
            return None
        blob = path.readlink().name if path.is_symlink() else ""
        size = path.stat().st_size
    except OSError:
        return None
    return RemoteFile(
        name, size, blob if len(blob) == 64 else None, blob if len(blob) == 40 else None
    )


def _folder(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{repo.replace('/', '--')}"
