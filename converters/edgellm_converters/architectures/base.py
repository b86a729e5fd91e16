"""What every architecture file gives: a model's measures, and rules for its tensors as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.rope import RopeScaling
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf_values import StoredType, Value, ValueType

__all__ = [
    "BOOL",
    "F32",
    "TEXT",
    "U32",
    "Architecture",
    "Decoder",
    "Keys",
    "Sizes",
    "TensorRule",
    "Transform",
]

U32 = StoredType(ValueType.UINT32)
F32 = StoredType(ValueType.FLOAT32)
BOOL = StoredType(ValueType.BOOL)
TEXT = StoredType(ValueType.STRING)

Keys: TypeAlias = dict[str, tuple[StoredType, Value]]
"""GGUF metadata to be written: key -> its type and value, in order."""


class Transform(Enum):
    """What happens to a tensor's values between the two layouts."""

    PLAIN = "as it is"
    ROPE = "rows of each head reordered between the two layouts of rotary embeddings"
    PLUS_ONE = "GGUF stores 1 + w where Hugging Face stores w"


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One tensor in both layouts. `shape` is (rows, columns) or (values,), as numpy counts.

    `head_dim` is the number of rows in a head, for `Transform.ROPE` alone.
    """

    gguf: str
    hf: str
    shape: tuple[int, ...]
    transform: Transform = Transform.PLAIN
    head_dim: int = 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """What every decoder-only transformer has: sizes in elements, `context` in tokens.

    `explicit_head_dim` tells that the file names the head size rather than implying it.
    """

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    heads_kv: int
    head_dim: int
    explicit_head_dim: bool
    vocabulary: int
    context: int
    norm_epsilon: float


@dataclass(frozen=True, slots=True)
class Decoder(Sizes):
    """The measures of one model.

    `rotary` is how many values of each head are rotated.
    `scaling` is how rotary frequencies are stretched; `rope_theta_local`, `sliding_window` and
    `sliding_pattern` (every n-th layer looks at the whole context) are 0 where layers are alike.
    """

    rope_theta: float
    scaling: RopeScaling | None
    tied: bool
    rotary: int
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    parallel: bool = False
    rope_theta_local: float = 0.0
    sliding_window: int = 0
    sliding_pattern: int = 0
    original_context: int = 0
    embedding_scale: float = 0.0
    residual_scale: float = 0.0
    attention_scale: float = 0.0
    logit_scale: float = 0.0
    attention_softcap: float = 0.0
    final_softcap: float = 0.0


class Architecture(Protocol):
    """One family of models: reads its configuration from either side and names its tensors."""

    @property
    def name(self) -> str:
        """The value of general.architecture."""
        ...

    @property
    def hf_names(self) -> tuple[str, ...]:
        """The class names in the `architectures` of config.json; the first is written."""
        ...

    def from_config(self, config: Values, notes: list[str]) -> Decoder:
        """Read config.json; `notes` takes sentences on what GGUF cannot say.

        Raises:
            ConfigError: a value is missing or wrong.
            UnsupportedError: the model uses what GGUF or llama.cpp cannot express.
        """
        ...

    def from_metadata(self, metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> Decoder:
        """Read GGUF metadata; what it leaves open is read off the tensors' `shapes`.

        Raises:
            ConfigError: a value is missing or wrong.
            UnsupportedError: the model uses what Hugging Face's class cannot express.
        """
        ...

    def config(self, decoder: Decoder) -> dict[str, object]:
        """Give config.json, but for token ids and dtype."""
        ...

    def metadata(self, decoder: Decoder) -> Keys:
        """Give the GGUF keys of the architecture."""
        ...

    def rules(self, decoder: Decoder) -> list[TensorRule]:
        """Give a rule for each tensor, in the order in which they are written."""
        ...

    def generated(self, decoder: Decoder) -> dict[str, npt.NDArray[np.float32]]:
        """Give the tensors that a GGUF file holds and a Hugging Face folder computes."""
        ...

    def unused(self, decoder: Decoder) -> tuple[str, ...]:
        """Give endings of the Hugging Face tensor names that are left out on purpose."""
        ...
