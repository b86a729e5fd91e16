"""Bundles: all that a machine without network needs, in one file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.api.adapters import Lora, lora_pairs, with_adapters
from edgellm.api.fit import checked_needs
from edgellm.deploy.archive import FOLDER
from edgellm.device.fit import DEFAULT_CONTEXT
from edgellm.device.memory import Runtime
from edgellm.errors import UsageError
from edgellm.models.adapter import prepare_adapters

if TYPE_CHECKING:
    from edgellm.deploy.archive import Manifest
    from edgellm.quantization.job import Watcher

__all__ = ["FOLDER", "Bundle", "bundle", "is_bundle", "verify_bundle"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was written or checked.

    Attributes:
        path: the archive.
        bytes: its size.
        fingerprint: the sha256 of its list of files: it stands for the whole bundle.
        target: what it is for.
        model: the model's path in it.
        files: how many files it has beside its lists.
        memory: bytes that the model takes with its context; 0 if not known.
    """

    path: Path
    bytes: int
    fingerprint: str
    target: str
    model: str
    files: int
    memory: int


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def bundle(
    model: str,
    output: str | Path,
    target: str = "this",
    *,
    name: str | None = None,
    context: int | None = None,
    lora: Lora | Sequence[Lora] = (),
    library: str | Path | None = None,
    force: bool = False,
    quantization: dict[str, Any] | None = None,
    progress: Progress = _silent,
    watcher: Watcher | None = None,
) -> Bundle:
    """Write a bundle: edgellm for the target, a model, and a script that installs both.

    Args:
        model: a GGUF file or a name in the store; with `quantization`, anything that can be
            quantized.
        output: the archive to write: .tar, .tar.gz or .tar.zst.
        target: what it is for, such as "rpi5"; "this" for machines like the one at hand.
        name: what the model is called there; None takes the name of its file.
        context: tokens whose memory the target must have; None takes 4096, or what the model was
            trained on.
        lora: adapters, as in `edgellm.load`; they apply where the bundle is used.
        library: a library of documents; its embedding model comes along.
        force: replace `output` if it exists.
        quantization: arguments of `edgellm.api.quantize.quantize`, such as `{"type": "Q4_K_M"}`.
        progress: called often: what is going on, how much is done, of how much.
        watcher: who is told how the quantization goes.

    Raises:
        UsageError: no such target, or an output that is no archive.
        NotFoundError: there is no such model, or a compiler is missing.
        FetchError: a package cannot be had for the target, or llama.cpp does not compile for it.
        ConvertersError: the model is damaged, or the output exists.
    """
    from edgellm.deploy.archive import compression
    from edgellm.deploy.bundle import Contents, write_bundle
    from edgellm.deploy.targets import get_target
    from edgellm.models.resolve import resolve
    from edgellm_converters.writers.atomic import check_target

    where = Path(output)
    chosen = get_target(target)
    compression(where)
    check_target(where, folder=False, force=force)
    with ExitStack() as stack:
        if quantization is not None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=where.parent)))
            path = place / "model.gguf"
            _quantize(model, path, quantization, context, watcher)
            name = name or f"{Path(model).name.removesuffix('.gguf')}-{_kind(quantization)}"
        else:
            path = resolve(model)
            if path.is_dir():
                raise UsageError(
                    f"{path} is a folder, and a bundle takes a GGUF file",
                    hint="--type Q4_K_M (or --bits, --size, --fit) quantizes it on the way",
                )
        adapters = prepare_adapters(lora_pairs(lora), path)
        needs = with_adapters(checked_needs(path), adapters)
        tokens = context or min(needs.trained_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        demand = needs.demand(Runtime(tokens))
        contents = Contents(
            path,
            name or path.stem,
            demand.total if demand else 0,
            adapters,
            None if library is None else Path(library),
            None if library is None else _embedder(library),
        )
        manifest = write_bundle(chosen, contents, where, progress, force=force)
    return _bundle(where, manifest)


def verify_bundle(path: str | Path, *, progress: Progress = _silent) -> Bundle:
    """Check every file of a bundle against the hashes that it holds, running none.

    Raises:
        UnsafeModelError: a file is changed, missing or one too many, or leads out of the folder.
        UsageError: the name is not one of an archive.
        OSError: it cannot be read.
    """
    from edgellm.deploy.archive import check_archive

    where = Path(path)

    def report(done: int, total: int) -> None:
        progress("checking", done, total)

    return _bundle(where, check_archive(where, report))


def is_bundle(path: str) -> bool:
    """Tell by its name whether something is a bundle."""
    return re.search(r"\.(tar|tgz|tar\.gz|tar\.zst)$", path.lower()) is not None


def _bundle(path: Path, manifest: Manifest) -> Bundle:
    memory = manifest.fields.get("memory_bytes")
    return Bundle(
        path,
        path.stat().st_size,
        manifest.fingerprint,
        str(manifest.fields.get("target")),
        str(manifest.fields.get("model")),
        len(manifest.files),
        memory if type(memory) is int else 0,
    )


def _embedder(library: str | Path) -> tuple[str, Path] | None:
    """Give the name and the file of a library's embedding model; None if it has none."""
    from edgellm.api.rag import open_library
    from edgellm.models import store
    from edgellm.models.resolve import resolve

    with open_library(library) as opened:
        reference = opened.embedder
    if reference is None:
        return None
    path = resolve(reference)
    if path.parent != store.models_dir():
        raise UsageError(
            f"{library} was indexed with {reference}, which is not in the store: the other machine "
            "would not find it",
            hint=f"edgellm cp {reference} NAME, and index again with --embedder NAME",
        )
    return reference, path


def _quantize(
    model: str,
    path: Path,
    quantization: dict[str, Any],
    context: int | None,
    watcher: Watcher | None,
) -> None:
    from edgellm.api.quantize import quantize

    if quantization.get("fit") is not None:
        quantization = {**quantization, "context": context}
    quantize(model, path, watcher=watcher, **quantization)


def _kind(quantization: dict[str, Any]) -> str:
    """Name a quantization for a file's name."""
    for key in ("type", "bits", "size", "fit"):
        value = quantization.get(key)
        if value is not None:
            return f"{value}bit" if key == "bits" else str(value)
    return "quantized"
