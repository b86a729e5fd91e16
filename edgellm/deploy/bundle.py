"""Putting a bundle together: wheels, the model, what belongs to it, and the scripts."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgellm.deploy.archive import Entry, Manifest, compression, write_archive
from edgellm.deploy.targets import Target
from edgellm.deploy.wheels import collect_wheels
from edgellm.errors import UsageError
from edgellm.models.adapter import Adapter
from edgellm_converters.writers.atomic import atomic_file

__all__ = ["Contents", "write_bundle"]

# What an installation takes beside the models and the wheels: the wheels' contents.
UNPACKED = 4
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")

# (what is going on, done, all or 0 where nobody knows)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle is made of, beside the program.

    Attributes:
        model: a GGUF file.
        name: what the model is called.
        memory: bytes that it takes with its context; 0 if not known.
        adapters: LoRA adapters that apply to it.
        library: a library of documents (SQLite), or None.
        embedder: the name and the GGUF file of what the library was indexed with, or None.
    """

    model: Path
    name: str
    memory: int = 0
    adapters: Sequence[Adapter] = ()
    library: Path | None = None
    embedder: tuple[str, Path] | None = None


def write_bundle(
    target: Target, contents: Contents, output: Path, progress: Progress, *, force: bool = False
) -> Manifest:
    """Write a bundle at `output`, whole or not at all; the same inputs give the same bytes.

    Raises:
        UsageError: the output's name is not one of an archive.
        NotFoundError: a compiler is missing.
        FetchError: a package cannot be had for the target.
        OSError: a file cannot be read or written.
    """
    kind = compression(output)
    with tempfile.TemporaryDirectory(prefix="edgellm-bundle-") as place:
        wheels = Path(place)
        collect_wheels(target, wheels, progress)
        packed = sorted(wheels.glob("*.whl"))
        entries = [Entry(f"wheels/{each.name}", each) for each in packed]
        model = f"models/{plain_name(contents.name)}.gguf"
        entries.append(Entry(model, contents.model))
        loras = []
        for number, adapter in enumerate(contents.adapters):
            # Two may have one name.
            name = f"adapters/{number}-{plain_name(adapter.name)}.gguf"
            entries.append(Entry(name, adapter.path))
            loras.append(f"{name}:{adapter.scale:g}")
        library = None
        if contents.library is not None:
            library = f"libraries/{plain_name(contents.library.name)}"
            entries.append(Entry(library, contents.library))
        embedder = ""
        if contents.embedder is not None:
            embedder = f"embedders/{plain_name(contents.embedder[0])}.gguf"
            entries.append(Entry(embedder, contents.embedder[1]))
        for version in target.pythons:
            text = _locked(packed, version)
            entries.append(Entry(f"requirements-{version}.txt", text.encode()))
        copied = sum(e.bytes for e in entries if not e.name.startswith("wheels/"))
        unpacked = UNPACKED * sum(each.stat().st_size for each in packed)
        values = {
            "TARGET": target.name,
            "MACHINE": target.machine,
            "FEATURES": " ".join(target.features),
            "PYTHONS": " ".join(target.pythons),
            "GLIBC": ".".join(map(str, target.glibc)),
            "MEMORY": str(contents.memory),
            "COPIED": str(copied),
            "UNPACKED": str(unpacked),
            "MODEL": model,
            "LORAS": " ".join(loras),
            "LIBRARY": library or "",
            "EMBEDDER": embedder,
        }
        entries.append(Entry("install.sh", _script("install.sh", values), executable=True))
        entries.append(Entry("uninstall.sh", _script("uninstall.sh", {}), executable=True))
        fields: dict[str, Any] = {
            "target": target.name,
            "machine": target.machine,
            "features": list(target.features),
            "pythons": list(target.pythons),
            "glibc": values["GLIBC"],
            "edgellm": importlib.metadata.version("edgellm"),
            "model": model,
            "memory_bytes": contents.memory,
            "unpacked_bytes": unpacked,
            "adapters": loras,
            "library": library,
            "embedder": embedder or None,
        }

        def report(done: int, total: int) -> None:
            progress("writing the bundle", done, total)

        with atomic_file(output, force=force) as partial, partial.open("wb") as stream:
            return write_archive(stream, kind, entries, fields, report)


def plain_name(name: str) -> str:
    """Give a name that every system and shell can bear.

    Raises:
        UsageError: nothing is left of it.
    """
    plain = _UNSAFE.sub("-", name).strip("-.")
    if not plain:
        raise UsageError(
            f"{name!r} has no letter from A to Z or digit in it, which a name in a bundle needs",
            hint="edgellm cp gives a model another name",
        )
    return plain


def _script(name: str, values: dict[str, str]) -> bytes:
    """Fill a script in; every value stands in single quotes there."""
    text = (files("edgellm.deploy") / "files" / name).read_text(encoding="utf-8")
    for key, value in values.items():
        if not re.fullmatch(r"[A-Za-z0-9 ._+:/-]*", value):
            raise UsageError(f"{value!r} cannot stand in the bundle's script")
        text = text.replace(f"@{key}@", value)
    return text.encode()


def _locked(wheels: Sequence[Path], version: str) -> str:
    """List the packages of one Python with their hashes, as pip reads them (--require-hashes)."""
    import hashlib

    tag = f"cp{version.replace('.', '')}"
    lines = []
    for wheel in wheels:
        name, release, python, _, _ = _parts(wheel)
        if name == "pip" or (re.fullmatch(r"cp3\d+", python) and _other_python(wheel, tag)):
            continue
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"{name}=={release} --hash=sha256:{digest}\n")
    return "".join(lines)


def _other_python(wheel: Path, tag: str) -> bool:
    """Tell whether a wheel with native code is for another Python alone."""
    _, _, python, abi, _ = _parts(wheel)
    return abi != "abi3" and python != tag


def _parts(wheel: Path) -> tuple[str, str, str, str, str]:
    """Take a wheel's name apart: name, version, Python, ABI, platform (PEP 427)."""
    name, release, *_, python, abi, platform = wheel.name.removesuffix(".whl").split("-")
    return name, release, python, abi, platform
