"""The families of models that are known here, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

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
from edgellm_converters.architectures.deepseek import DEEPSEEK2, DEEPSEEK3
from edgellm_converters.architectures.ernie4_5 import ERNIE4_5
from edgellm_converters.architectures.exaone import EXAONE, EXAONE4
from edgellm_converters.architectures.falcon import FALCON
from edgellm_converters.architectures.gemma import GEMMA, GEMMA2
from edgellm_converters.architectures.gemma3 import GEMMA3
from edgellm_converters.architectures.gemma_embedding import GEMMA_EMBEDDING
from edgellm_converters.architectures.gpt2 import GPT2
from edgellm_converters.architectures.gptneox import GPTNEOX
from edgellm_converters.architectures.granite import GRANITE
from edgellm_converters.architectures.granite_moe import GRANITE_MOE, GRANITE_MOE_SHARED
from edgellm_converters.architectures.internlm2 import INTERNLM2
from edgellm_converters.architectures.jina import JINA_BERT
from edgellm_converters.architectures.lfm2 import LFM2, LFM2_MOE
from edgellm_converters.architectures.llama import LLAMA
from edgellm_converters.architectures.minicpm import MINICPM
from edgellm_converters.architectures.mixtral import MIXTRAL
from edgellm_converters.architectures.modernbert import MODERN_BERT
from edgellm_converters.architectures.nomic import NOMIC_BERT
from edgellm_converters.architectures.olmo import OLMO
from edgellm_converters.architectures.olmo2 import OLMO2
from edgellm_converters.architectures.phi2 import PHI2
from edgellm_converters.architectures.phi3 import PHI3
from edgellm_converters.architectures.qwen import QWEN2, QWEN3
from edgellm_converters.architectures.qwen_moe import OLMOE, QWEN2_MOE, QWEN3_MOE
from edgellm_converters.architectures.smollm3 import SMOLLM3
from edgellm_converters.architectures.stablelm import STABLELM
from edgellm_converters.architectures.starcoder2 import STARCODER2
from edgellm_converters.architectures.t5 import T5, T5_ENCODER
from edgellm_converters.architectures.values import Values
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

# Of families of one name in GGUF, the first that claims the metadata has it.
ARCHITECTURES: tuple[Architecture, ...] = (
    MIXTRAL,
    LLAMA,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA_EMBEDDING,
    PHI3,
    SMOLLM3,
    OLMO2,
    GRANITE,
    STABLELM,
    STARCODER2,
    ERNIE4_5,
    BERT,
    ROBERTA,
    XLM_ROBERTA,
    NOMIC_BERT,
    MODERN_BERT,
    JINA_BERT,
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
    QWEN2_MOE,
    QWEN3_MOE,
    OLMOE,
    GRANITE_MOE_SHARED,
    GRANITE_MOE,
    DEEPSEEK3,
    DEEPSEEK2,
    LFM2,
    LFM2_MOE,
    T5,
    T5_ENCODER,
)

_BY_HF: Mapping[str, Architecture] = {
    name: architecture for architecture in ARCHITECTURES for name in architecture.hf_names
}
_GGUF_NAMES = tuple(dict.fromkeys(each.name for each in ARCHITECTURES))


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


def by_gguf_name(
    path: Path, name: str, metadata: Mapping[str, object] = MappingProxyType({})
) -> Architecture:
    """Find the family of a general.architecture.

    Where families share a name (Llama and Mixtral), `metadata`, of the whole file, tells which of
    them it is.

    Raises:
        UnsupportedError: it is not known; the hint lists those that are.
    """
    named = [each for each in ARCHITECTURES if each.name == name]
    if not named:
        raise UnsupportedError(
            f"{path}: the architecture {name!r:.80} is not known here",
            hint=f"known are: {', '.join(_GGUF_NAMES)}",
        )
    keys = Values(path, metadata, f"{name}.")
    found = next((each for each in named if each.claims(keys)), None)
    if found is None:
        raise UnsupportedError(
            f"{path}: a model of the architecture {name} with such a tokenizer and settings is not "
            "known here",
            hint=f"known are: {', '.join(each.hf_names[0] for each in named)}",
        )
    return found
