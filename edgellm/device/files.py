"""What the system tells in small files: read with bounds, and empty where there is none.

Each function of this package that reads them takes the folder that stands for `/`, for tests.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT", "cgroups", "listed", "number", "text"]

ROOT = Path("/")
LIMIT = 1 << 20  # /proc/cpuinfo has some 1.5 kB for each processor


def text(path: Path) -> str:
    """Give what stands in a file, a mebibyte at most; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(LIMIT).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """Give the whole number of a file; None if there is none, such as `max` for no limit."""
    try:
        return int(text(path))
    except ValueError:
        return None


def listed(path: Path) -> set[int]:
    """Read a list of numbers such as `0-7,9`; empty where there is no such file."""
    try:
        spans = [span.partition("-") for span in text(path).split(",")]
        return {n for low, _, high in spans for n in range(int(low), int(high or low) + 1)}
    except ValueError:
        return set()


def cgroups(kind: str, root: Path = ROOT) -> list[Path]:
    """Give the folders of the groups that limit this process, its own first and the top last.

    Args:
        kind: the controller (cpu, memory), which has a tree of its own with older kernels.
        root: the folder that stands for `/`.
    """
    top, where = root / "sys/fs/cgroup", ""
    if not (top / "cgroup.controllers").exists() and (top / kind).is_dir():
        top = top / kind
    for line in text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers or kind in controllers.split(","):
            where = path
            if controllers:
                break
    own = top / where.strip("/")
    # A container sees its own group as the top, and may see the path of its host.
    folders = [own, *own.parents] if own.is_dir() and ".." not in own.parts else [top]
    return [folder for folder in folders if folder == top or top in folder.parents]
