"""A GGUF file as a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures import Architecture, Decoder, by_gguf_name
from edgellm_converters.architectures.base import U32, Keys, Side
from edgellm_converters.architectures.scaling import VECTORS, restore_scaling
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.checkpoints.gguf_adapter import refuse_adapter
from edgellm_converters.checkpoints.gguf_split import (
    ARCHITECTURE,
    SPLIT_COUNT,
    SPLIT_NUMBER,
    SPLIT_TENSORS,
)
from edgellm_converters.errors import ConfigError, CorruptFileError
from edgellm_converters.plan import Step, make_plan
from edgellm_converters.sources.base import (
    DTYPE_NAMES,
    QUANTIZATION_VERSION,
    Files,
    Plan,
    check_mlx,
    facts_for,
    facts_of,
    provenance,
)
from edgellm_converters.streams import GGUFTensors, Tensors
from edgellm_converters.targets import Choice
from edgellm_converters.tokenizers.metadata import vocabulary_from_metadata
from edgellm_converters.tokenizers.rebuild import end_ids, tokenizer_config, tokenizer_json
from edgellm_converters.writers.gguf import Entries, pack, repack
from edgellm_converters.writers.mlx import quantization_config

__all__ = ["GGUFSource"]

MAX_NAME = 64  # of an architecture, in characters

# Keys that belong to the source's own file, not to the model.
LEFT_OUT = (SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS)


class GGUFSource:
    """A GGUF file.

    Raises:
        UnsupportedError: it holds an adapter.
    """

    side = Side.GGUF

    def __init__(self, checkpoint: GGUFCheckpoint) -> None:
        refuse_adapter(checkpoint.header)
        self._header = checkpoint.header
        self.path = checkpoint.path
        self.files: tuple[Path, ...] = checkpoint.files
        self.tensors: Tensors = GGUFTensors(checkpoint)
        self.alignment = checkpoint.header.alignment
        self._metadata = Values(self.path, checkpoint.header.metadata)

    def model(self) -> tuple[Architecture, Decoder]:
        """Give what the metadata says."""
        architecture = by_gguf_name(self.path, self._name(), self._header.metadata)
        keys = self._metadata.under(f"{architecture.name}.")
        decoder = architecture.from_metadata(keys, self.tensors.shapes)
        present = [name for name in VECTORS if name in self.tensors.shapes]
        vectors = {name: self._factors(name, decoder.rotary // 2) for name in present}
        return architecture, restore_scaling(keys, decoder, vectors)

    def plan(self, target: Side) -> Plan:
        """Plan a folder by the architecture's rules; to GGUF, every tensor is taken over."""
        if target is Side.GGUF:
            return self._plan_copy()
        architecture, decoder = self.model()
        notes: list[str] = []
        if target is Side.MLX:
            check_mlx(self.path, architecture)
            architecture.mlx_config(decoder, notes)
        steps = make_plan(
            self.path,
            architecture.rules(decoder),
            self.tensors.shapes,
            Side.GGUF,
            target,
            unused=tuple(architecture.generated(decoder)),
        )
        name = architecture.name
        return Plan(name, target, steps, facts_for(decoder, architecture), notes=notes)

    def _plan_copy(self) -> Plan:
        """Plan to copy every tensor, whatever the architecture is."""
        name = self._name()
        steps = [Step.copy(tensor, shape) for tensor, shape in self.tensors.shapes.items()]
        return Plan(name, Side.GGUF, steps, facts_of(name, self._metadata))

    def entries(self, plan: Plan, choice: Choice) -> Entries:  # noqa: ARG002
        """Copy all keys with their types, but for those of the quantization."""
        stored = self._header.metadata
        entries: Entries = {}
        for key in stored:
            if key not in LEFT_OUT:
                value = stored.stored(key)
                entries[key] = repack(value.type, value[1], stored.raw(key))
        if choice.changes:
            keys: Keys = {
                "general.file_type": (U32, choice.file_type),
                "general.quantization_version": (U32, QUANTIZATION_VERSION),
            }
            keys |= provenance(self.path, choice)
            entries |= {key: pack(*typed) for key, typed in keys.items()}
        return entries

    def _name(self) -> str:
        if ARCHITECTURE not in self._metadata:
            raise CorruptFileError(self.path, f"there is no {ARCHITECTURE}")
        name = self._metadata.raw(ARCHITECTURE)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise CorruptFileError(self.path, f"{ARCHITECTURE} is not a short name")
        return name

    def _factors(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Read a vector of rope factors."""
        if self.tensors.format(name).name != "F32":
            raise ConfigError(f"{self.path}: {name} is not of type F32")
        if self.tensors.shapes[name] != (size,):
            raise ConfigError(f"{self.path}: {name} is no vector of {size}")
        values: npt.NDArray[np.float32] = self.tensors.rows(name, 0, 1).view(np.float32)[0]
        return values

    def files_for(self, plan: Plan, choice: Choice) -> Files:
        """Build config.json, tokenizer.json and tokenizer_config.json from the metadata."""
        architecture, decoder = self.model()
        vocabulary = vocabulary_from_metadata(self._metadata)
        if len(vocabulary.tokens) != decoder.vocabulary:
            raise ConfigError(
                f"{self.path}: {len(vocabulary.tokens)} tokens, but token_embd.weight has "
                f"{decoder.vocabulary} rows"
            )
        config = architecture.config(decoder)
        for role in ("bos", "eos", "pad"):
            config[f"{role}_token_id"] = vocabulary.special.get(role)
        ends = end_ids(vocabulary)
        # transformers 4 reads "torch_dtype", transformers 5 either.
        config["torch_dtype"] = DTYPE_NAMES[choice.dense]
        config["_name_or_path"] = self._metadata.text("general.name", self.path.stem)
        if plan.target is Side.MLX:
            config |= architecture.mlx_config(decoder, [])
            config |= quantization_config(plan.steps, choice.formats)
        files: dict[str, object] = {
            "config.json": config,
            "tokenizer.json": tokenizer_json(self.path, vocabulary),
            "tokenizer_config.json": tokenizer_config(vocabulary, decoder.context),
        }
        if len(ends) > 1:
            ids = {key: config[key] for key in ("bos_token_id", "pad_token_id")}
            files["generation_config.json"] = ids | {"eos_token_id": ends}
        return Files(files | architecture.files(decoder))
