"""A family of models as data: which tensors it has, and what config.json and metadata call a thing.

A file of a family is one `Family`. Tensors are listed once, with the names of both sides and sizes
by name ("query hidden"); settings are listed once, with the key of either side. What no table can
say is in small functions that the family names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.base import BOOL, F32, U32, Decoder, Keys, Sizes, TensorRule
from edgellm_converters.architectures.checks import check_experts
from edgellm_converters.architectures.common import (
    RMS,
    STORED_KEYS,
    Norm,
    common_config,
    common_keys,
    read_sizes,
    read_stored_sizes,
    shortest,
)
from edgellm_converters.architectures.neutral import refuse_config, refuse_metadata
from edgellm_converters.architectures.rope import (
    FREQS,
    LONG,
    SHORT,
    RopeScaling,
    factors,
    from_metadata,
    mlx_scaling,
    read_partial,
    read_rope,
)
from edgellm_converters.architectures.sentence import (
    DENSE_KEYS,
    POOLING_KEY,
    dense_keys,
    module_files,
    normalized_keys,
    pooling_keys,
    read_modules,
    read_stored_dense,
    read_stored_modules,
)
from edgellm_converters.architectures.tensors import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    GATED,
    HEAD,
    Flag,
    Part,
    Stack,
    Tensor,
    expand,
    expand_stack,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = [
    "ATTENTION",
    "EMBEDDING",
    "FINAL_NORM",
    "GATED",
    "HEAD",
    "Family",
    "Flag",
    "Part",
    "Setting",
    "Stack",
    "Tensor",
]

Extra: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of `Decoder` with its key in config.json and in metadata (without the prefix).

    `default` stands where config.json has no such key (None: it must have it), `stored` where the
    metadata has none. An `optional` one may be null or absent, and is 0 then on this side and
    absent on the other. Whole numbers are at least `least`. A flag may be told by a `tensor` of the
    GGUF file instead of a key.
    """

    field: str
    config: str
    gguf: str = ""
    kind: Literal["number", "integer", "flag"] = "number"
    default: float | bool | None = None
    stored: float | bool | None = None
    optional: bool = False
    least: int = 1
    tensor: str = ""

    def read(self, config: Values) -> Any:
        """Read it from config.json."""
        if self.optional and self.config not in config:
            return 0
        # Absent is not null: transformers fills in what is absent, null switches it off.
        if self.kind != "flag" and self.config not in config and self.config in list(config):
            raise UnsupportedError(
                f"{config.path}: {self.config} is null, but GGUF always has one in this family"
            )
        return self._of(config, self.config, self.default)

    def read_stored(self, metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """Read it from metadata, or off the names of tensors."""
        if self.tensor:
            return self.tensor in shapes
        if self.optional and metadata.raw(self.gguf) in (None, 0):
            return 0
        value = self._of(metadata, self.gguf, self.stored)
        return shortest(value) if self.kind == "number" else value

    def _of(self, values: Values, key: str, default: Any) -> Any:
        if self.kind == "integer":
            return values.integer(key, default, least=self.least)
        return getattr(values, self.kind)(key, default)

    def key(self, decoder: Decoder) -> Keys:
        """Give its key in metadata, if it has one there."""
        value = getattr(decoder, self.field)
        if not self.gguf or (self.optional and not value):
            return {}
        return {self.gguf: ({"number": F32, "integer": U32, "flag": BOOL}[self.kind], value)}


@dataclass(frozen=True, slots=True)
class Family:
    """One family; see `Architecture` for its methods.

    Args:
        name: general.architecture.
        hf_names: the `architectures` of config.json; the first is written.
        model_type: `model_type` of config.json.
        layer: the tensors of each layer, in the order in which they are written.
        ends: those outside of the layers.
        blocks: what stands before those of layer "{}" in a Hugging Face folder.
        gguf_blocks: the same in GGUF.
        mlx_blocks: the same in MLX where it is another.
        stacks: further layers, of other kinds.
        in_mlx: whether mlx-lm has a model of this family.
        for_mlx: gives keys of config.json that mlx-lm reads otherwise, and takes notes of what it
            cannot be told.
        names: keys of config.json for sizes where the family has its own, such as "n_embd" for
            "hidden_size"; those of rotation ("rope_theta", "partial_rotary_factor") too.
        rename: gives the name that the tables have for a tensor that goes by several.
        leaves: endings of tensors that are left out on purpose.
        more_files: gives JSON files of a Hugging Face folder beyond those that all have.
        feed_factor: the inner size as a multiple of the hidden one where config.json has none.
        context: positions where config.json has no number; 0 if it must have one.
        rotates: whether positions are rotated; else nothing is read or written of them.
        grouped: whether key-value heads have keys of their own.
        settings: fields with a key on either side, beyond the sizes that all have.
        fixed: keys of config.json that change the model and have one place in its graph; the first
            of the values is what a missing key means and what is written.
        written: keys of config.json that are written for its readers' sake.
        norm: the kind of norm, with its keys.
        theta: base of the rotary frequencies where config.json has none.
        stored_theta: the same where the metadata has none.
        partial: the share of each head that is rotated where config.json has none; 0 if the graph
            rotates whole heads.
        head_dim: size of a head where config.json has none; 0 for hidden / heads.
        square: llama.cpp needs heads x head size = hidden.
        scalings: kinds of rope scaling that the graph of llama.cpp follows.
        tied: whether the output is the embedding where config.json does not say.
        names_head_dim: the size of a head is always written to metadata.
        names_rope: vocabulary and rotated size are written to metadata.
        claimed: tells whether metadata is of this family, where others have its name too.
        usual: gives config.json with the usual keys where the family says it otherwise.
        usual_stored: the same of the metadata, of which sizes and rotation are read.
        read: gives fields from config.json that the tables do not; raises what is not supported.
        read_stored: the same from metadata.
        more_config: gives keys of config.json that the tables do not.
        more_keys: gives keys of the metadata that the tables do not.
        checks: refuse, or take notes of, what of config.json has no place in GGUF.
        reads: keys of config.json that the functions above read.
        reads_stored: keys of the metadata that they read, or that llama.cpp passes over.
        bidirectional: tokens see those after them, and the metadata say so.
        copies: tensors that are left out because they are copies of the embedding.
        heads: endings of tensors of heads for tasks, which are left out with a note.
        after: tensors outside of layers that come after all others.
        pools: the files of sentence-transformers tell what becomes of the vectors.
        densifies: so they do of two dense layers after that.
        whole_keys: gives keys of the metadata by their whole names.
    """

    name: str
    hf_names: tuple[str, ...]
    model_type: str
    layer: tuple[Tensor, ...]
    ends: tuple[Tensor, ...]
    blocks: str = "model.layers.{}."
    gguf_blocks: str = "blk.{}."
    mlx_blocks: str = ""
    stacks: tuple[Stack, ...] = ()
    in_mlx: bool = True
    for_mlx: Callable[[Decoder, list[str]], dict[str, object]] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    rename: Callable[[str], str] | None = None
    leaves: tuple[str, ...] = ()
    more_files: Callable[[Decoder], dict[str, object]] | None = None
    feed_factor: int = 0
    context: int = 0
    rotates: bool = True
    grouped: bool = True
    settings: tuple[Setting, ...] = ()
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    written: Mapping[str, object] = field(default_factory=dict)
    norm: Norm = RMS
    theta: float = 10_000.0
    stored_theta: float = 10_000.0
    partial: float = 0.0
    head_dim: int = 0
    square: bool = False
    scalings: tuple[str, ...] = ("linear", "yarn")
    tied: bool = False
    names_head_dim: bool = False
    names_rope: bool = False
    claimed: Callable[[Values], bool] | None = None
    usual: Callable[[Values], Values] | None = None
    usual_stored: Callable[[Values], Values] | None = None
    read: Callable[[Values, Sizes], Extra] | None = None
    read_stored: Callable[[Values, Mapping[str, tuple[int, ...]]], Extra] | None = None
    more_config: Callable[[Decoder], dict[str, object]] | None = None
    more_keys: Callable[[Decoder], Keys] | None = None
    checks: Sequence[Callable[[Values, Sizes, list[str]], None]] = ()
    reads: tuple[str, ...] = ()
    reads_stored: tuple[str, ...] = ()
    bidirectional: bool = False
    copies: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    after: tuple[Tensor, ...] = ()
    pools: bool = False
    densifies: bool = False
    whole_keys: Callable[[Decoder], Keys] | None = None

    # -- in -------------------------------------------------------------------------------------

    def claims(self, metadata: Values) -> bool:
        """Tell whether metadata is of this family; see `Architecture`."""
        return self.claimed is None or self.claimed(metadata)

    def from_config(self, config: Values, notes: list[str]) -> Decoder:
        """Read config.json; see `Architecture`."""
        config = self.usual(config) if self.usual is not None else config
        self._check_fixed(config)
        own = {each.config for each in self.settings} | self.fixed.keys()
        refuse_config(config, own | {"partial_rotary_factor", *self.reads})
        sizes = read_sizes(
            config, self.norm, self.head_dim, self.names, self.feed_factor, self.context
        )
        self._check_heads(config, sizes)
        for check in self.checks:
            check(config, sizes, notes)
        found: Extra = asdict(sizes) | {"tied": config.flag("tie_word_embeddings", self.tied)}
        found |= self._read_positions(config, sizes)
        found |= {each.field: each.read(config) for each in self.settings}
        if self.read is not None:
            found |= self.read(config, sizes)
        if self.pools:
            found |= read_modules(
                config.path.parent, sizes.hidden, found["context"], notes, dense=self.densifies
            )
        return check_experts(config, Decoder(**found))

    def _check_heads(self, config: Values, sizes: Sizes) -> None:
        if self.square and sizes.heads * sizes.head_dim != sizes.hidden:
            raise UnsupportedError(
                f"{config.path}: {sizes.heads} heads of {sizes.head_dim} are not hidden_size "
                f"{sizes.hidden}, which llama.cpp needs for {self.name}"
            )
        if not self.grouped and sizes.heads_kv != sizes.heads:
            raise UnsupportedError(
                f"{config.path}: {sizes.heads_kv} key-value heads for {sizes.heads} heads are not "
                f"known here for {self.name}"
            )

    def _read_positions(self, config: Values, sizes: Sizes) -> Extra:
        if not self.rotates:
            return {"rope_theta": 0.0, "scaling": None, "rotary": 0}
        theta, scaling = read_rope(config, self.theta, self._key("rope_theta"))
        self._check_scaling(config, scaling)
        rotary = self._rotary(config, sizes)
        if scaling is not None and scaling.kind == "longrope" and len(scaling.short) * 2 != rotary:
            raise ConfigError(
                f"{config.path}: short_factor has {len(scaling.short)} numbers, but "
                f"{rotary} values of a head are rotated"
            )
        return {"rope_theta": theta, "scaling": scaling, "rotary": rotary}

    def _check_scaling(self, values: Values, scaling: RopeScaling | None) -> None:
        if scaling is not None and scaling.kind not in self.scalings:
            raise UnsupportedError(
                f"{values.path}: llama.cpp has no rope scaling of type {scaling.kind!r} for "
                f"{self.name}",
                hint=f"it has: {', '.join(self.scalings) or 'none'}",
            )

    def _check_fixed(self, config: Values) -> None:
        for key, allowed in self.fixed.items():
            value = config.raw(key)
            if value is None or any(value == one and type(value) is type(one) for one in allowed):
                continue
            raise UnsupportedError(
                f"{config.path}: {key} is {value!r:.80}; {self.name} in GGUF has "
                f"{' or '.join(repr(one) for one in allowed)} alone"
            )

    def _key(self, usual: str) -> str:
        return self.names.get(usual, usual)

    def _rotary(self, config: Values, sizes: Sizes) -> int:
        share = read_partial(config, self.partial or 1.0, self._key("partial_rotary_factor"))
        if not self.partial and share != 1:
            raise UnsupportedError(
                f"{config.path}: partial_rotary_factor is {share:g}; {self.name} in GGUF rotates "
                "whole heads"
            )
        rotary = int(sizes.head_dim * share)
        if not 0 < rotary <= sizes.head_dim or rotary % 2:
            raise UnsupportedError(
                f"{config.path}: partial_rotary_factor {share:g} rotates {rotary} of "
                f"{sizes.head_dim} values of a head; llama.cpp rotates an even number"
            )
        return rotary

    def from_metadata(self, metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> Decoder:
        """Read GGUF metadata; see `Architecture`. The caller reads tensors of rope factors."""
        own = {each.gguf for each in self.settings} | {self.norm.gguf}
        if self.bidirectional and metadata.flag("attention.causal", True):
            raise metadata.wrong("attention.causal", "false")
        own |= {"attention.causal"} if self.bidirectional else set()
        own |= {POOLING_KEY} if self.pools else set()
        own |= set(DENSE_KEYS) if self.densifies else set()
        refuse_metadata(metadata, own | {*STORED_KEYS, *self.reads_stored})
        if metadata.integer("expert_count", 0, least=0) and "expert_count" not in own:
            raise UnsupportedError(
                f"{metadata.path}: mixtures of experts are not known here for {self.name}"
            )
        usual = self.usual_stored(metadata) if self.usual_stored is not None else metadata
        sizes = read_stored_sizes(usual, shapes, self.norm, partial=self.partial > 0)
        found: Extra = asdict(sizes) | {"tied": "output.weight" not in shapes}
        found |= self._read_stored_positions(metadata, shapes, sizes)
        found |= {each.field: each.read_stored(metadata, shapes) for each in self.settings}
        if self.read_stored is not None:
            found |= self.read_stored(metadata, shapes)
        if self.pools:
            found |= read_stored_modules(metadata)
        if self.densifies:
            found |= {"dense": read_stored_dense(metadata, sizes.hidden)}
        return check_experts(metadata, Decoder(**found))

    def _read_stored_positions(
        self, metadata: Values, shapes: Mapping[str, tuple[int, ...]], sizes: Sizes
    ) -> Extra:
        if not self.rotates:
            return {"rope_theta": 0.0, "scaling": None, "rotary": 0}
        # Longrope's divisors are in tensors; the caller reads them.
        scaling = None if LONG in shapes else from_metadata(metadata)
        self._check_scaling(metadata, scaling)
        return {
            "rope_theta": shortest(metadata.number("rope.freq_base", self.stored_theta)),
            "scaling": scaling,
            "rotary": metadata.integer("rope.dimension_count", sizes.head_dim),
        }

    # -- out ------------------------------------------------------------------------------------

    def config(self, decoder: Decoder) -> dict[str, object]:
        """Give config.json; see `Architecture`."""
        found = common_config(
            self.hf_names[0],
            self.model_type,
            decoder,
            self.norm,
            self.names,
            grouped=self.grouped,
        )
        if decoder.explicit_head_dim or self.names_head_dim:
            found[self.names.get("head_dim", "head_dim")] = decoder.head_dim
        found |= {key: allowed[0] for key, allowed in self.fixed.items()}
        found |= self.written
        if self.partial:
            found[self._key("partial_rotary_factor")] = _share(decoder.rotary, decoder.head_dim)
        for each in self.settings:
            value = getattr(decoder, each.field)
            found[each.config] = None if each.optional and not value else value
        if self.more_config is not None:
            found |= self.more_config(decoder)
        return found

    def mlx_config(self, decoder: Decoder, notes: list[str]) -> dict[str, object]:
        """Give what mlx-lm reads otherwise; see `Architecture`."""
        found: dict[str, object] = {}
        if decoder.rotary:
            found |= {"rope_theta": decoder.rope_theta}
            found |= {"rope_scaling": mlx_scaling(decoder.scaling)}
        return found | (self.for_mlx(decoder, notes) if self.for_mlx is not None else {})

    def metadata(self, decoder: Decoder) -> Keys:
        """Give the GGUF keys; see `Architecture`."""
        keys = common_keys(
            decoder, self.norm, names_head_dim=self.names_head_dim, grouped=self.grouped
        )
        if self.names_rope:
            keys["vocab_size"] = (U32, decoder.vocabulary)
        if self.names_rope or self.partial:
            keys["rope.dimension_count"] = (U32, decoder.rotary)
        for each in self.settings:
            keys |= each.key(decoder)
        if self.more_keys is not None:
            keys |= self.more_keys(decoder)
        if self.bidirectional:
            keys["attention.causal"] = (BOOL, False)
        if self.pools:
            keys |= pooling_keys(decoder) | dense_keys(decoder)
        found = {f"{self.name}.{key}": value for key, value in keys.items()}
        if self.pools:
            found |= normalized_keys(decoder)
        return found | (self.whole_keys(decoder) if self.whole_keys is not None else {})

    def rules(self, decoder: Decoder) -> list[TensorRule]:
        """Give the tensors; see `Architecture`."""
        first = Stack(self.gguf_blocks, self.blocks, self.layer, mlx=self.mlx_blocks)
        found = [rule for each in self.ends for rule in expand(each, decoder)]
        for stack in (first, *self.stacks):
            found += expand_stack(stack, decoder)
        return found + [rule for each in self.after for rule in expand(each, decoder)]

    def canonical(self, name: str) -> str:
        """Give the name that the rules have for a tensor; see `Architecture`."""
        return self.rename(name) if self.rename is not None else name

    def files(self, decoder: Decoder) -> dict[str, object]:
        """Give further JSON files of a folder; see `Architecture`."""
        found = self.more_files(decoder) if self.more_files is not None else {}
        return found | (module_files(decoder) if self.pools else {})

    def generated(self, decoder: Decoder) -> dict[str, npt.NDArray[np.float32]]:
        """Give the factors of llama3's or longrope's scaling; see `Architecture`."""
        scaling = decoder.scaling
        if scaling is None:
            return {}
        if scaling.kind == "llama3":
            return {FREQS: factors(scaling, decoder.rope_theta, decoder.rotary)}
        if scaling.kind == "longrope":
            return {
                LONG: np.array(scaling.long, dtype=np.float32),
                SHORT: np.array(scaling.short, dtype=np.float32),
            }
        return {}

    def unused(self, decoder: Decoder) -> tuple[str, ...]:
        """Give the endings of names to leave out; see `Architecture`."""
        # Old checkpoints carry the frequencies; a tied model may carry its embedding twice.
        tied = ("lm_head.weight",) if decoder.tied else ()
        return (".rotary_emb.inv_freq", *tied, *self.leaves, *self.heads, *self.copies)


def _share(rotary: int, head_dim: int) -> float:
    """Give the share of a head that readers turn into just this number of values."""
    share = rotary / head_dim
    return share if int(head_dim * share) == rotary else (rotary + 0.5) / head_dim
