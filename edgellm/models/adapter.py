"""LoRA adapters on the way to a backend: found, checked, and converted where it needs another form.

llama.cpp loads GGUF files and MLX folders of mlx-lm. What people have may be either, or a folder of
PEFT: it is converted on its first use, into the cache, under a name that is a digest of all that
the result depends on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import NotFoundError, UsageError
from edgellm.models import store
from edgellm.models.identity import model_identity
from edgellm.settings import cache_dir

if TYPE_CHECKING:
    from edgellm_converters.adapters import Adapter as OpenedAdapter
    from edgellm_converters.checkpoints.gguf_header import GGUFHeader

__all__ = [
    "MOST_SCALE",
    "Adapter",
    "check_scale",
    "parse_lora",
    "prepare_adapters",
]

MOST_SCALE = 100.0
MOST_ADAPTERS = 64
CONVERSION = 1  # goes up when conversion gives other values
_SCALED = re.compile(
    r"(?P<file>.+):(?P<scale>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?inf|nan)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that has passed the check, in the form that its model's backend loads.

    Attributes:
        name: what it is called in a conversation.
        source: the file or folder that was given.
        path: the file or folder that is loaded.
        digest: of the contents of what is loaded.
        scale: how many times it counts at first; 0 leaves it out.
        rank: the largest of its pairs of matrices.
        tensors: bytes of each of its matrices, by its name.
    """

    name: str
    source: Path
    path: Path
    digest: str
    scale: float
    rank: int
    tensors: Mapping[str, int] = field(repr=False)


def parse_lora(text: str) -> tuple[str, float]:
    """Split FILE[:SCALE]; without a scale it is 1.

    What stands behind the last colon is a scale if it is a number, unless there is a file of the
    whole name: a path with a drive's letter is a file, and so is a style:2 that is there.

    Raises:
        UsageError: nothing is left for a name, or the scale is out of its range.
    """
    found = _SCALED.fullmatch(text)
    if found is None or os.path.lexists(text):
        if not text.strip():
            raise UsageError("the name of the adapter is empty", hint="--lora FILE[:SCALE]")
        return text, 1.0
    scale = float(found["scale"])
    check_scale(scale)
    return found["file"], scale


def check_scale(scale: float) -> None:
    """Refuse a scale that no adapter can have.

    Raises:
        UsageError: it is not finite, or beyond `MOST_SCALE`.
    """
    if not math.isfinite(scale) or abs(scale) > MOST_SCALE:
        raise UsageError(
            f"an adapter's scale is {scale}, and must lie between {-MOST_SCALE:g} and "
            f"{MOST_SCALE:g}"
        )


def prepare_adapters(given: Sequence[tuple[str, float]], base: Path) -> tuple[Adapter, ...]:
    """Find adapters, check them against their model and convert those that need it.

    Args:
        given: a file or folder, or the name of one in the store, and its scale.
        base: the model's file or folder, which has passed its own check.

    Raises:
        NotFoundError: there is no such file or folder.
        UsageError: one is given twice, or too many.
        ConvertersError: it is damaged, of another kind, or belongs to another model.
    """
    if not given:
        return ()
    if len(given) > MOST_ADAPTERS:
        raise UsageError(f"{len(given)} adapters are given, and {MOST_ADAPTERS} are the most")
    found: list[Adapter] = []
    prepare = _for_folder if base.is_dir() else _ForFile(base)
    for text, scale in given:
        check_scale(scale)
        source = _find(text)
        if any(source.resolve() == other.source.resolve() for other in found):
            raise UsageError(
                f"the adapter {source} is given twice", hint="its scale says how much it counts"
            )
        adapter = replace(prepare(source, base), name=source.stem or source.resolve().name)
        name = _unique(adapter.name, [other.name for other in found])
        found.append(replace(adapter, name=name, scale=scale))
    return tuple(found)


def _find(text: str) -> Path:
    path = Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser fails on unknown users
    if os.path.lexists(path):
        return path
    stored = store.find(text)
    if stored is not None:
        return stored.path
    behind = text.rpartition(":")[2]
    raise NotFoundError(
        f"there is no adapter {text}",
        hint=f"FILE[:SCALE] takes a number as scale, not {behind!r:.40}" if ":" in text else None,
    )


def _unique(name: str, others: Sequence[str]) -> str:
    """Give a name that no other has, without spaces: it is one word of a command."""
    name = "-".join(name.split()) or "adapter"
    count, found = 1, name
    while found in others:
        count += 1
        found = f"{name}-{count}"
    return found


class _ForFile:
    """Prepares adapters for a GGUF file that llama.cpp runs."""

    def __init__(self, base: Path) -> None:
        from edgellm_converters.checkpoints.gguf import GGUFCheckpoint

        with GGUFCheckpoint(base) as checkpoint:
            self._header: GGUFHeader = checkpoint.header

    def __call__(self, source: Path, base: Path) -> Adapter:
        """Check or convert one."""
        from edgellm_converters.adapters import open_adapter
        from edgellm_converters.adapters.gguf import check_base
        from edgellm_converters.architectures.base import Side

        opened = open_adapter(source)
        path = source
        if opened.side is not Side.GGUF:
            path = _converted(opened, base, ".gguf")
            opened = open_adapter(path)
        check_base(opened, self._header)
        return _prepared(source, opened, [path])


def _for_folder(source: Path, base: Path) -> Adapter:
    """Prepare an adapter for a folder that MLX runs; its modules are looked for once it is loaded.

    mlx-lm's own folders are taken as they are, so that models work that are not known here.
    """
    from edgellm_converters.adapters import open_adapter
    from edgellm_converters.architectures.base import Side

    opened = open_adapter(source)
    if opened.side is not Side.MLX:
        opened = open_adapter(_converted(opened, base, ""))
    return _prepared(source, opened, _files(opened.path))


def _prepared(source: Path, opened: OpenedAdapter, files: Iterable[Path]) -> Adapter:
    """Read all of its matrices, so that no value is NaN, and say what it is.

    MLX gets them as float32.
    """
    for pair in opened.pairs:
        opened.read(pair)
    narrow = ("F16", "BF16") if opened.path.is_file() else ()
    sizes = {
        f"{pair.module}.weight.lora_{letter}": (2 if pair.dtype in narrow else 4) * math.prod(shape)
        for pair in opened.pairs
        for letter, shape in (("a", pair.a_shape), ("b", pair.b_shape))
    }
    rank = max(pair.rank for pair in opened.pairs)
    return Adapter("", source, opened.path, _digest(files), 1.0, rank, sizes)


def _converted(opened: OpenedAdapter, base: Path, end: str) -> Path:
    """Give the converted adapter in the cache; it is made if it is not there."""
    from edgellm_converters.adapters.convert import convert_adapter
    from edgellm_converters.architectures.base import Side

    parts = [CONVERSION, model_identity(base), _digest(_files(opened.path)), end]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = cache_dir() / "adapters"
    path = folder / f"{opened.path.resolve().stem[:64]}-{key[:16]}{end}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        to = Side.GGUF if end else Side.MLX
        convert_adapter(opened.path, base, path, to=to, force=True)
    return path


def _files(path: Path) -> list[Path]:
    """Give the files that make an adapter."""
    if path.is_file():
        return [path]
    found = (file for file in path.iterdir() if file.name.startswith("adapter"))
    return sorted(file for file in found if file.is_file())


def _digest(files: Iterable[Path]) -> str:
    """Give one sha256 of the names and contents of files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.suffix}:{content}\n".encode())
    return digest.hexdigest()
