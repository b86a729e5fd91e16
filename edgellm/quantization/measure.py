"""What a receipt says of files: their hashes, and the quality of one against another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.quantization.receipt import Quality, SourceFacts

if TYPE_CHECKING:
    from edgellm.evaluate.quality import Quality as Measured
    from edgellm.evaluate.texts import Text
    from edgellm.quantization.job import Watcher

__all__ = ["ALL", "data_sha256", "measure", "size_of", "source_facts"]

ALL = "all"
CHUNK = 1 << 22


def measure(
    reference: Path,
    model: Path,
    texts: Sequence[Text],
    max_tokens: int,
    *,
    threads: int | None,
    watcher: Watcher,
) -> tuple[int, tuple[Quality, ...]]:
    """Measure a model against its source: the context, and the quality for each text and for all.

    Raises:
        UsageError, BackendError, DoesNotFitError: as in `edgellm.evaluate.compare`.
    """
    from edgellm.backends.base import LoadOptions
    from edgellm.evaluate.compare import compare

    result = compare(
        reference,
        [model],
        texts,
        max_tokens=max_tokens,
        options=LoadOptions(threads=threads),
        progress=lambda done, total: watcher.stage("measuring", done, total),
        cancelled=watcher.cancelled,
    )
    evaluation = result.evaluations[0]
    by_name = {text.name: text for text in texts}
    found = [
        _quality(scores.name, by_name[scores.name], scores.quality) for scores in evaluation.scores
    ]
    return result.context, (*found, _quality(ALL, None, evaluation.quality))


def _quality(name: str, text: Text | None, measured: Measured) -> Quality:
    kld = measured.kld
    assert kld is not None  # there is a reference
    assert measured.reference_perplexity is not None
    assert measured.top1_agreement is not None
    return Quality(
        name=name,
        language="mul" if text is None else text.language,
        sha256="" if text is None else text.sha256,
        tokens=measured.tokens,
        perplexity=_rounded(measured.perplexity),
        reference_perplexity=_rounded(measured.reference_perplexity),
        kld={
            "mean": _rounded(kld.mean),
            "error": _rounded(kld.error),
            "median": _rounded(kld.median),
            "p99": _rounded(kld.p99),
            "p999": _rounded(kld.p999),
        },
        top1_agreement=round(measured.top1_agreement, 4),
    )


def _rounded(value: float) -> float:
    """Keep six digits, which is more than the noise."""
    return float(f"{value:.6g}")


def source_facts(path: Path) -> SourceFacts:
    """Hash a file; of a folder, what `sha256sum` prints for its files by their names."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    if not path.is_dir():
        return SourceFacts(path.resolve().name, size, _sha256(path))
    lines = "".join(f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    return SourceFacts(path.resolve().name, size, hashlib.sha256(lines.encode()).hexdigest())


def size_of(path: Path) -> int:
    """Give the bytes of a file, or of a folder's files."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def data_sha256(path: Path) -> str:
    """Hash the bytes of all tensors, by their names in order: no edit of metadata changes it.

    Raises:
        ConvertersError: the file or folder cannot be read.
    """
    from edgellm_converters.sources import open_source

    found = hashlib.sha256()
    with open_source(path) as source:
        tensors = source.tensors
        for name in sorted(tensors.shapes):
            shape = tensors.shapes[name]
            rows = 1
            for size in shape[:-1]:
                rows *= size
            found.update(f"{name}\0{tensors.format(name).name}\0{list(shape)}\0".encode())
            width = max(1, tensors.format(name).row_bytes(shape[-1]) if shape else 1)
            slab = max(1, CHUNK // width)
            for start in range(0, rows, slab):
                found.update(tensors.rows(name, start, min(start + slab, rows)).tobytes())
    return found.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
