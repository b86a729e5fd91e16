"""The Python packages that a machine without network needs, as wheels for it.

Versions are those that are installed here, so that a bundle holds what was tried and the same
environment gives the same bytes. For machines like this one the packages themselves are taken, as
they lie here, without any network.
"""

from __future__ import annotations

import email
import importlib.metadata
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlparse

from edgellm.deploy.native import PACKAGE, native_wheel
from edgellm.deploy.run import run_quietly
from edgellm.deploy.targets import Target
from edgellm.deploy.wheelfile import repack
from edgellm.errors import FetchError

__all__ = ["collect_wheels", "pip"]

OWN = "edgellm"
# The day on which files of our own wheel are dated, in seconds since 1970: 2020-02-02.
SOURCE_DATE = "1580601600"

Progress = Callable[[str, int, int], None]


def collect_wheels(target: Target, folder: Path, progress: Progress) -> None:
    """Put every wheel that the target needs into `folder`, which is empty; pip's own among them.

    Raises:
        NotFoundError: a compiler is missing.
        FetchError: pip is missing or fails, or there is no wheel for the target.
    """
    if target.cmake is None:
        _collect_installed(folder, progress)
        return
    native_wheel(target, folder, progress)
    progress("building the wheel of edgellm", 0, 0)
    _own_wheel(folder)
    needed = [
        each
        for wheel in sorted(folder.glob("*.whl"))
        for each in _requirements(wheel)
        if _name(each) != PACKAGE
    ]
    with tempfile.TemporaryDirectory() as place:
        constraints = Path(place) / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in _installed()))
        for version in target.pythons:
            progress(f"fetching wheels for Python {version}", 0, 0)
            tag = f"cp{version.replace('.', '')}"
            arguments = ["download", "--only-binary=:all:", "--implementation", "cp"]
            arguments += ["--python-version", version, "--abi", tag, "--abi", "abi3"]
            arguments += ["--abi", "none", "--constraint", str(constraints)]
            for each in target.platforms:
                arguments += ["--platform", each]
            pip([*arguments, "--dest", str(folder), "pip", *needed])


def _collect_installed(folder: Path, progress: Progress) -> None:
    """Make wheels of what edgellm needs and of pip, as they are installed here."""
    from packaging.requirements import Requirement

    progress("packing what is installed here", 0, 0)
    _own_wheel(folder)
    left, found = ["pip", *_requirements(next(folder.glob("*.whl")))], {OWN}
    while left:
        needed = Requirement(left.pop())
        name = _name(needed.name)
        if name in found or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        left += importlib.metadata.requires(name) or []
        repack(name, folder)


def pip(arguments: Sequence[str]) -> None:
    """Run the pip of this Python, without its cache of built wheels.

    Raises:
        FetchError: there is none, or it fails.
    """
    if find_spec("pip") is None:
        raise FetchError(
            f"the Python of edgellm ({sys.executable}) has no pip, which fetches the wheels",
            hint="python -m ensurepip brings it",
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    run_quietly(
        [*command, *arguments],
        "pip cannot fetch what the bundle needs",
        environment={"SOURCE_DATE_EPOCH": SOURCE_DATE},
    )


def _requirements(wheel: Path) -> list[str]:
    """List what a package needs, without its extras."""
    with zipfile.ZipFile(wheel) as members:
        name = next(name for name in members.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(members.read(name))
    found: list[str] = metadata.get_all("Requires-Dist", [])
    return [each for each in found if not re.search(r";.*\bextra\b", each)]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _installed() -> Iterable[str]:
    """List the versions that are installed here, as constraints."""
    for each in importlib.metadata.distributions():
        name = _name(each.metadata["Name"] or "")
        if name and name != OWN and "+" not in each.version:
            yield f"{name}=={each.version}"


def _own_wheel(folder: Path) -> None:
    """Make the wheel of edgellm: from its sources if it runs from them, else as it is installed."""
    source = _source_folder()
    if source is None:
        repack(OWN, folder)
        return
    with tempfile.TemporaryDirectory() as place:
        # With the build tool that is here, if it is: another one has to be fetched.
        own_tool = ["--no-build-isolation"] if find_spec("hatchling") is not None else []
        arguments = ["wheel", "--no-deps", "--no-cache-dir", *own_tool, "--wheel-dir", place]
        pip([*arguments, str(source)])
        for wheel in Path(place).glob("*.whl"):
            shutil.copyfile(wheel, folder / wheel.name)


def _source_folder() -> Path | None:
    """Give the folder of the sources, where edgellm is installed to be edited (PEP 610)."""
    text = importlib.metadata.distribution(OWN).read_text("direct_url.json")
    found = json.loads(text) if text else {}
    if not found.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(found["url"]).path))
