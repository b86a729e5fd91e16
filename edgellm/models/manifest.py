"""What the store writes down of a model that was pulled."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.models.reference import is_safe_name

__all__ = ["Manifest", "ManifestFile", "parse_manifest"]


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a model that is a folder; `name` is relative to it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a model that was pulled.

    `bytes` and `sha256` are the model file's. Of a folder, `bytes` is the sum of `files` and
    `sha256` the digest of what `sha256sum` prints for them in the order of their names. `repo` and
    `revision` (a commit) say where on the hub it came from.
    """

    name: str
    title: str
    licence: str
    source: str
    bytes: int
    sha256: str
    repo: str | None = None
    revision: str | None = None
    files: tuple[ManifestFile, ...] = ()


def parse_manifest(values: object) -> Manifest | None:
    """Read what a manifest's JSON holds; None if it is not one of ours."""
    if not isinstance(values, dict):
        return None
    words = {key: values.get(key) for key in ("name", "title", "licence", "source", "sha256")}
    size, repo, revision = (values.get(key) for key in ("bytes", "repo", "revision"))
    listed = values.get("files", [])
    if type(size) is not int or not all(isinstance(word, str) for word in words.values()):
        return None
    if not all(word is None or isinstance(word, str) for word in (repo, revision)):
        return None
    if not isinstance(listed, list):
        return None
    files = []
    for each in listed:
        name, count, digest = (
            (each.get(key) for key in ("name", "bytes", "sha256"))
            if isinstance(each, dict)
            else (None, None, None)
        )
        if not isinstance(name, str) or not is_safe_name(name) or type(count) is not int:
            return None
        files.append(ManifestFile(name, count, str(digest)))
    return Manifest(
        **{key: str(word) for key, word in words.items()},
        bytes=size,
        repo=repo,
        revision=revision,
        files=tuple(files),
    )
