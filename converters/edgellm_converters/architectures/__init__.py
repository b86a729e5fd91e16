"""The families of models that are known here, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgellm_converters.architectures.base import (
    Architecture,
    Decoder,
    Place,
    Side,
    TensorRule,
    Transform,
)
from edgellm_converters.architectures.gemma import GEMMA, GEMMA2
from edgellm_converters.architectures.gemma3 import GEMMA3
from edgellm_converters.architectures.granite import GRANITE
from edgellm_converters.architectures.llama import LLAMA
from edgellm_converters.architectures.olmo2 import OLMO2
from edgellm_converters.architectures.phi3 import PHI3
from edgellm_converters.architectures.qwen import QWEN2, QWEN3
from edgellm_converters.architectures.smollm3 import SMOLLM3
from edgellm_converters.architectures.stablelm import STABLELM
from edgellm_converters.architectures.starcoder2 import STARCODER2
from edgellm_converters.errors import UnsupportedError

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Decoder",
    "Place",
    "Side",
    "TensorRule",
    "Transform",
    "by_gguf_name",
    "by_hf_name",
]

ARCHITECTURES: tuple[Architecture, ...] = (
    LLAMA,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    GEMMA3,
    PHI3,
    SMOLLM3,
    OLMO2,
    GRANITE,
    STABLELM,
    STARCODER2,
)

_BY_HF: Mapping[str, Architecture] = {
    name: architecture for architecture in ARCHITECTURES for name in architecture.hf_names
}
_BY_GGUF: Mapping[str, Architecture] = {each.name: each for each in ARCHITECTURES}


def by_hf_name(path: Path, name: str) -> Architecture:
    """Find the family of a class name in config.json.

    Raises:
        UnsupportedError: it is not known; the hint lists those that are.
    """
    if name not in _BY_HF:
        raise UnsupportedError(
            f"{path}: the architecture {name!r:.80} is not known here",
            hint=f"known are: {', '.join(_BY_HF)}",
        )
    return _BY_HF[name]


def by_gguf_name(path: Path, name: str) -> Architecture:
    """Find the family of a general.architecture.

    Raises:
        UnsupportedError: it is not known; the hint lists those that are.
    """
    if name not in _BY_GGUF:
        raise UnsupportedError(
            f"{path}: the architecture {name!r:.80} is not known here",
            hint=f"known are: {', '.join(_BY_GGUF)}",
        )
    return _BY_GGUF[name]
