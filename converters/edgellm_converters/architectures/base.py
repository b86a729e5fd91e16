"""What every architecture file gives: a model's measures, and rules for its tensors as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
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
    "Place",
    "Side",
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


class Side(StrEnum):
    """A layout of tensors: names, shapes, and how values are written."""

    GGUF = "gguf"
    HF = "hf"
    MLX = "mlx"


class Transform(Enum):
    """What happens to values on the way from Hugging Face's layout to another."""

    PLAIN = "as it is"
    ROPE = "rows of each head reordered between the two layouts of rotary embeddings"
    PLUS_ONE = "stored as 1 + w where Hugging Face stores w"
    TRANSPOSED = "rows and columns change places"


@dataclass(frozen=True, slots=True)
class Place:
    """Where values lie on one side: `rows` rows of the tensor `name`, from `row` on; 0 for all.

    `shape` is that of the whole tensor in numpy's order (columns last). Rows are counted over all
    dimensions but the last; those of a vector are its values.
    """

    name: str
    shape: tuple[int, ...]
    row: int = 0
    rows: int = 0

    @property
    def height(self) -> int:
        """The number of rows that are meant."""
        return self.rows or self.all_rows

    @property
    def all_rows(self) -> int:
        """The rows of the whole tensor."""
        return self.shape[0] if len(self.shape) == 1 else math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """The values in a row."""
        return 1 if len(self.shape) == 1 else self.shape[-1]


@dataclass(frozen=True, slots=True)
class TensorRule:
    """The same values on each side.

    Most rules are about whole tensors. Several rules about parts of one tensor say how it is cut or
    put together: experts that are stacked, queries and keys and values in one matrix.

    Args:
        gguf: the place in GGUF.
        hf: the place in a Hugging Face folder.
        mlx: the place in an MLX folder; None for that of Hugging Face.
        transform: from Hugging Face to GGUF.
        mlx_transform: from Hugging Face to MLX.
        head_dim: rows in a head, for `Transform.ROPE` alone.
    """

    gguf: Place
    hf: Place
    mlx: Place | None = None
    transform: Transform = Transform.PLAIN
    mlx_transform: Transform = Transform.PLAIN
    head_dim: int = 0

    def place(self, side: Side) -> Place:
        """Give the place on one side."""
        if side is Side.MLX:
            return self.mlx or self.hf
        return self.gguf if side is Side.GGUF else self.hf

    def transform_to(self, side: Side) -> Transform:
        """Give what happens on the way from Hugging Face's layout to a side's."""
        if side is Side.MLX:
            return self.mlx_transform
        return self.transform if side is Side.GGUF else Transform.PLAIN


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

    `rotary` is how many values of each head are rotated; 0 where positions are not rotated.
    `scaling` is how rotary frequencies are stretched; `rope_theta_local`, `sliding_window` and
    `sliding_pattern` (every n-th layer looks at the whole context) are 0 where layers are alike.
    `experts` are those of a layer, `experts_used` those that a token goes through; `expert_feed`
    and `shared_feed` are the inner sizes of one and of those that every token goes through;
    `leading_dense` layers have none. `two_norms` stand before parallel halves, one for each;
    `head_norms` are over each head of queries and keys. Queries, keys and values are clipped to
    +-`clip_qkv` unless it is 0.
    Experts come in `expert_groups`, of which a token may use
    `expert_groups_used`; their weights are made to sum to 1 (`expert_norm`) and multiplied by
    `expert_scale`. `query_latent` and `key_latent` are the inner sizes of queries and of keys and
    values (0 for whole matrices), `plain_dim` the values of a head that are not rotated beside the
    `rotary` ones, `value_dim` the size of a head's values. `conv_kernel` is the length of short
    convolutions, which stand in all but the `attention_layers`.

    Of encoders: `pooling` is how vectors of tokens become one of the text (a name of
    `sentence.POOLINGS`, "" where nothing says), `normalized` whether that gets the length 1.
    `token_types` counts kinds of segments; the first of learned positions stands at row
    `position_offset` in a Hugging Face folder. `decoder_layers`, `decoder_start` (a token) and
    `buckets` (of distances) are those of T5; `gated` tells of a gate in the feed-forward network,
    `activation` is its function where a family has several (the name of transformers);
    `dense` is the inner size of two dense layers after pooling, 0 without them.
    """

    rope_theta: float
    scaling: RopeScaling | None
    tied: bool
    rotary: int
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    parallel: bool = False
    two_norms: bool = False
    head_norms: bool = False
    rope_theta_local: float = 0.0
    sliding_window: int = 0
    sliding_pattern: int = 0
    original_context: int = 0
    embedding_scale: float = 0.0
    residual_scale: float = 0.0
    attention_scale: float = 0.0
    logit_scale: float = 0.0
    clip_qkv: float = 0.0
    attention_softcap: float = 0.0
    final_softcap: float = 0.0
    experts: int = 0
    experts_used: int = 0
    expert_feed: int = 0
    shared_feed: int = 0
    leading_dense: int = 0
    pooling: str = ""
    normalized: bool = False
    token_types: int = 0
    position_offset: int = 0
    decoder_layers: int = 0
    decoder_start: int = 0
    buckets: int = 0
    gated: bool = False
    activation: str = ""
    dense: int = 0
    expert_groups: int = 0
    expert_groups_used: int = 0
    expert_norm: bool = False
    expert_scale: float = 0.0
    query_latent: int = 0
    key_latent: int = 0
    plain_dim: int = 0
    value_dim: int = 0
    conv_kernel: int = 0
    attention_layers: tuple[int, ...] = ()


class Architecture(Protocol):
    """One family of models: reads its configuration from either side and names its tensors."""

    @property
    def name(self) -> str:
        """The value of general.architecture."""
        ...

    @property
    def in_mlx(self) -> bool:
        """Whether mlx-lm has a model of this family."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Endings of the Hugging Face tensor names that belong to heads for tasks."""
        ...

    @property
    def copies(self) -> tuple[str, ...]:
        """Hugging Face tensors that are left out because they are copies of the embedding."""
        ...

    @property
    def hf_names(self) -> tuple[str, ...]:
        """The class names in the `architectures` of config.json; the first is written."""
        ...

    def claims(self, metadata: Values) -> bool:
        """Tell whether metadata is of this family, and not of another one of the same name."""
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

    def mlx_config(self, decoder: Decoder, notes: list[str]) -> dict[str, object]:
        """Give keys of config.json that mlx-lm reads otherwise than transformers.

        `notes` takes sentences on what mlx-lm cannot be told.
        """
        ...

    def metadata(self, decoder: Decoder) -> Keys:
        """Give the GGUF keys of the architecture."""
        ...

    def rules(self, decoder: Decoder) -> list[TensorRule]:
        """Give the rules of all tensors, in the order in which they are written."""
        ...

    def canonical(self, name: str) -> str:
        """Give the name that the rules have for a tensor of a Hugging Face folder."""
        ...

    def files(self, decoder: Decoder) -> dict[str, object]:
        """Give JSON files that a Hugging Face folder has beyond those that all have, by name."""
        ...

    def generated(self, decoder: Decoder) -> dict[str, npt.NDArray[np.float32]]:
        """Give the tensors that a GGUF file holds and a Hugging Face folder computes."""
        ...

    def unused(self, decoder: Decoder) -> tuple[str, ...]:
        """Give endings of the Hugging Face tensor names that are left out on purpose."""
        ...
