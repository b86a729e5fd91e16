"""References to models on the Hugging Face hub: `user/repo[:TYPE]`, or an address of the hub.

Parsing only: what a repository holds is asked in `hub`, and `choice` picks from it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = ["HubReference", "is_safe_name", "parse_hub_reference"]

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_REPO = rf"(?P<repo>{_NAME}/{_NAME})"
_SHORT = re.compile(rf"{_REPO}(?::(?P<wanted>[^\s/:][^/:\x00-\x1f]{{0,199}}))?")
_LONG = re.compile(
    rf"{_REPO}/(?:tree|blob|resolve|raw)/(?P<revision>[^/?#\s]{{1,200}})"
    r"(?:/(?P<wanted>[^?#]{1,1000}))?(?:\?[^#\s]*)?/?"
)
_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/", re.IGNORECASE)
SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A model on the hub: `wanted` is a type (Q4_K_M) or a file's name; None for the usual one."""

    repo: str
    wanted: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.wanted is None else f"{self.repo}:{self.wanted}"


def parse_hub_reference(text: str) -> HubReference | None:
    """Read `user/repo[:TYPE]`, the same after `hf.co/`, or an address of the hub.

    Addresses of `HF_ENDPOINT` count too. None for anything else, such as `folder/file.gguf`.
    """
    rest = _after_host(text)
    if rest is not None:
        long = _LONG.fullmatch(rest)
        if long:
            wanted = long["wanted"]
            revision = unquote(long["revision"])
            return HubReference(long["repo"], unquote(wanted) if wanted else None, revision)
        rest = rest.rstrip("/")
    short = _SHORT.fullmatch(text if rest is None else rest)
    if short is None or (rest is None and text.lower().endswith(SUFFIX) and not short["wanted"]):
        return None
    return HubReference(short["repo"], short["wanted"])


def _after_host(text: str) -> str | None:
    """Give what stands behind the hub's address; None if `text` does not begin with one."""
    host = _HOST.match(text)
    if host:
        return text[host.end() :]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") + "/"
    if len(endpoint) > 1 and text.startswith(endpoint):
        return text[len(endpoint) :]
    return None


def is_safe_name(name: str) -> bool:
    """Tell whether a file's name in a listing stays inside of a folder and can be shown.

    The parts between `/` are neither empty nor hidden nor above, and hold nothing that a file
    system or a terminal takes for a command.
    """
    return bool(name) and all(
        part
        and not part.startswith((".", "~"))
        and len(part.encode("utf-8", "surrogatepass")) <= 200
        and not any(c in '\\:*?"<>|' or not (c.isprintable() or c == "\u200c") for c in part)
        for part in name.split("/")
    )
