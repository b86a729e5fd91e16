"""Which files of a repository on the hub make the model that is meant.

GGUF files are told apart by the type in their names. Where none is asked for, `ORDER` decides.
Parts of a split file belong together. A repository without GGUF files gives its folder: settings,
tokenizer and safetensors by a list of allowed names, so that neither pickles nor program code are
ever fetched.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgellm.errors import FetchError, NotFoundError, UsageError
from edgellm.models.hub import RemoteFile, Repository
from edgellm.models.reference import SUFFIX

__all__ = ["MLX", "ORDER", "SAFETENSORS", "Candidate", "candidates", "choose"]

ORDER = (
    "Q4_K_M", "Q4_K_S", "Q4_K_L", "Q4_K_XL", "UD-Q4_K_XL", "IQ4_XS", "IQ4_NL", "Q4_1", "Q4_0",
    "MXFP4", "MXFP4_MOE", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M",
    "IQ3_M", "Q3_K_S", "BF16", "F16", "FP16", "F32",
)  # fmt: skip
"""The first of these that is there is taken where no type is asked for."""

MLX, SAFETENSORS = "MLX", "safetensors"
MAX_PARTS = 1024

_TYPE = re.compile(
    r"(?:^|[-_.])((?:UD-)?I?Q[1-8](?:_(?:[KSML01]|X{1,2}[SL]|NL|\d+))*|TQ[12]_0|MXFP4(?:_MOE)?"
    r"|NVFP4|BF16|F[PB]?16|F[P]?32)(?=$|[-_.])",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.DOTALL)
# Not models of their own: the eyes of a model that sees, and statistics for quantization.
_BESIDE = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_ALLOWED = frozenset(
    {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
        "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
        "chat_template.json", "model.safetensors.index.json", "modules.json",
        "sentence_bert_config.json", "config_sentence_transformers.json",
    }
)  # fmt: skip
# The layers of sentence-transformers behind the model.
_MODULE = re.compile(r"\d_[A-Za-z]+/(?:config\.json|model\.safetensors)")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Files that make a model together: `label` is what stands behind the colon.

    A GGUF model's `files` are its parts in order.
    """

    label: str
    kind: Literal["gguf", "folder"]
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """The sum of the files."""
        return sum(file.size for file in self.files)


def candidates(repository: Repository) -> list[Candidate]:
    """Find what a repository offers, GGUF models in the order of the listing, then its folder."""
    found = _gguf(repository.files)
    folder = _folder(repository)
    return [*found, folder] if folder else found


def choose(repository: Repository, wanted: str | None) -> Candidate:
    """Pick the model that `wanted` names: a type in any case, a file's name, or the usual one.

    Raises:
        NotFoundError: the repository has no model, or not that one; all are listed.
        UsageError: several would do.
        FetchError: parts of a split file are missing.
    """
    offered = candidates(repository)
    if not offered:
        raise NotFoundError(
            f"{repository.repo} holds no GGUF file, and no folder with config.json and safetensors",
            hint="a model in another format must be converted elsewhere first",
        )
    picked = _usual(offered) if wanted is None else _matching(offered, wanted)
    listed = ", ".join(_described(each) for each in offered[:40])
    if not picked:
        raise NotFoundError(f"{repository.repo} has no {wanted}", hint=f"it has: {listed}")
    if len(picked) > 1:
        names = ", ".join(each.label for each in picked[:40])
        what = f"{wanted} means several files of" if wanted else "say which one is meant of"
        raise UsageError(f"{what} {repository.repo}", hint=f"behind a colon, one of: {names}")
    _check_parts(repository.repo, picked[0])
    return picked[0]


def _described(candidate: Candidate) -> str:
    return f"{candidate.label} ({candidate.bytes / 1e6:,.0f} MB)"


def _usual(offered: Sequence[Candidate]) -> list[Candidate]:
    models = [each for each in offered if each.kind == "gguf"] or list(offered)
    if len(models) == 1:
        return models
    for label in ORDER:
        found = [each for each in models if _type_of(each) == label]
        if found:
            return found
    return models


def _matching(offered: Sequence[Candidate], wanted: str) -> list[Candidate]:
    """Compare the word with files, labels, stems and types, until something fits."""
    word = wanted.casefold().removesuffix(SUFFIX)
    for names in (_file_names, _labels, _types):
        found = [each for each in offered if word in names(each)]
        if found:
            return found
    return []


def _file_names(candidate: Candidate) -> set[str]:
    if candidate.kind != "gguf":
        return set()
    path = candidate.files[0].name.casefold().removesuffix(SUFFIX)
    return {path, path.rsplit("/", 1)[-1], _stem(candidate).casefold()}


def _labels(candidate: Candidate) -> set[str]:
    if candidate.kind == "folder":
        return {MLX.casefold(), SAFETENSORS}
    return {candidate.label.casefold()}


def _types(candidate: Candidate) -> set[str]:
    kind = (_type_of(candidate) or "").casefold()
    return {kind, kind.removeprefix("ud-")}


def _gguf(files: Sequence[RemoteFile]) -> list[Candidate]:
    groups: dict[tuple[str, str], list[RemoteFile]] = {}
    for file in files:
        if file.name.lower().endswith(SUFFIX) and not _BESIDE.search(_base(file.name)):
            part = _PART.fullmatch(_base(file.name))
            folder = file.name.rpartition("/")[0]
            stem, count = (part["stem"], part["count"]) if part else (_base(file.name), "")
            groups.setdefault((f"{folder}/{stem}", count), []).append(file)
    types = {key: _type_in(key[0]) for key in groups}
    seen = Counter(types.values())
    found = []
    for key, parts in groups.items():
        kind = types[key]
        label = kind if kind and seen[kind] == 1 else key[0].rsplit("/", 1)[-1]
        ordered = tuple(sorted(parts, key=lambda part: part.name))
        found.append(Candidate(label, "gguf", ordered))
    return found


def _folder(repository: Repository) -> Candidate | None:
    files = {file.name: file for file in repository.files}
    if "config.json" not in files:
        return None
    weights = [f for name, f in files.items() if name.endswith(".safetensors") and "/" not in name]
    # Some repositories hold the same weights again under the names of another program.
    weights = [file for file in weights if file.name.startswith("model")] or weights
    if not weights:
        return None
    others = [f for name, f in files.items() if name in _ALLOWED or _MODULE.fullmatch(name)]
    chosen = {file.name: file for file in (*others, *weights)}
    label = MLX if "mlx" in repository.tags else SAFETENSORS
    return Candidate(label, "folder", tuple(chosen[name] for name in sorted(chosen)))


def _check_parts(repo: str, candidate: Candidate) -> None:
    if candidate.kind != "gguf":
        return
    first = _PART.fullmatch(_base(candidate.files[0].name))
    if first is None:
        return
    count = int(first["count"])
    numbers = [int(_PART.fullmatch(_base(f.name))["number"]) for f in candidate.files]  # type: ignore[index]
    if count > MAX_PARTS or numbers != list(range(1, count + 1)):
        raise FetchError(
            f"{repo} has {len(numbers)} of the {count} parts of {candidate.label}",
            hint="its owner has to upload the others",
        )


def _base(name: str) -> str:
    """Give a file's name without folder and `.gguf`."""
    base = name.rsplit("/", 1)[-1]
    return base[: -len(SUFFIX)] if base.lower().endswith(SUFFIX) else base


def _stem(candidate: Candidate) -> str:
    base = _base(candidate.files[0].name)
    part = _PART.fullmatch(base)
    return part["stem"] if part else base


def _type_in(name: str) -> str | None:
    """Find a type in the name of a file, or else in the name of its folder."""
    for part in reversed(name.split("/")):
        found = _TYPE.findall(part)
        if found:
            return str(found[-1]).upper()
    return None


def _type_of(candidate: Candidate) -> str | None:
    if candidate.kind != "gguf":
        return None
    folder = candidate.files[0].name.rpartition("/")[0]
    return _type_in(f"{folder}/{_stem(candidate)}")
