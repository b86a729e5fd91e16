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
from edgellm_converters.architectures.bert import BERT, ROBERTA, XLM_ROBERTA
from edgellm_converters.architectures.cohere import COMMAND_R
from edgellm_converters.architectures.exaone import EXAONE, EXAONE4
from edgellm_converters.architectures.falcon import FALCON
from edgellm_converters.architectures.gemma import GEMMA, GEMMA2
from edgellm_converters.architectures.gemma3 import GEMMA3
from edgellm_converters.architectures.gpt2 import GPT2
from edgellm_converters.architectures.gptneox import GPTNEOX
from edgellm_converters.architectures.granite import GRANITE
from edgellm_converters.architectures.internlm2 import INTERNLM2
from edgellm_converters.architectures.llama import LLAMA
from edgellm_converters.architectures.minicpm import MINICPM
from edgellm_converters.architectures.olmo import OLMO
from edgellm_converters.architectures.olmo2 import OLMO2
from edgellm_converters.architectures.phi2 import PHI2
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
    BERT,
    ROBERTA,
    XLM_ROBERTA,
    GPT2,
    GPTNEOX,
    PHI2,
    FALCON,
    OLMO,
    COMMAND_R,
    INTERNLM2,
    MINICPM,
    EXAONE,
    EXAONE4,
)

_BY_HF: Mapping[str, Architecture] = {
    name: architecture for architecture in ARCHITECTURES for name in architecture.hf_names
}
_BY_GGUF: Mapping[tuple[str, str], Architecture] = {
    (each.name, tokenizer): each for each in ARCHITECTURES for tokenizer in each.tokenizers or ("",)
}


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


def by_gguf_name(path: Path, name: str, tokenizer: str = "") -> Architecture:
    """Find the family of a general.architecture; where it has several, by tokenizer.ggml.model.

    Raises:
        UnsupportedError: it is not known; the hint lists those that are.
    """
    found = _BY_GGUF.get((name, "")) or _BY_GGUF.get((name, tokenizer))
    if found is not None:
        return found
    known = [kind for other, kind in _BY_GGUF if other == name]
    if known:
        raise UnsupportedError(
            f"{path}: a tokenizer of type {tokenizer!r:.80} is not known here for {name}",
            hint=f"known are: {', '.join(known)}",
        )
    names = dict.fromkeys(name for name, _ in _BY_GGUF)
    raise UnsupportedError(
        f"{path}: the architecture {name!r:.80} is not known here",
        hint=f"known are: {', '.join(names)}",
    )
