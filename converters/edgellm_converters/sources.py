"""The two kinds of source behind one face: what is planned and written is asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures import Architecture, Decoder, by_gguf_name, by_hf_name
from edgellm_converters.architectures.base import TEXT, U32, Keys, Side
from edgellm_converters.architectures.scaling import VECTORS, restore_scaling
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.checkpoints.gguf_split import (
    ARCHITECTURE,
    SPLIT_COUNT,
    SPLIT_NUMBER,
    SPLIT_TENSORS,
)
from edgellm_converters.checkpoints.quantized import decode_checkpoint
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.errors import (
    ConfigError,
    CorruptFileError,
    SourceNotFoundError,
    UnsupportedError,
)
from edgellm_converters.jsonfile import read_object
from edgellm_converters.plan import Step, make_plan
from edgellm_converters.streams import (
    SLAB_VALUES,
    GGUFTensors,
    HuggingFaceTensors,
    Tensors,
    step_format,
)
from edgellm_converters.targets import Choice
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.metadata import vocabulary_from_metadata, vocabulary_keys
from edgellm_converters.tokenizers.rebuild import end_ids, tokenizer_config, tokenizer_json
from edgellm_converters.writers.gguf import Entries, pack, repack
from edgellm_quant.recipes import ModelFacts

__all__ = ["GGUFSource", "HuggingFaceSource", "Plan", "Source", "open_source"]

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
MAX_NAME = 64  # of an architecture, in characters
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# Keys that belong to the source's own file, not to the model.
LEFT_OUT = (SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written, before any of it is.

    `generated` are tensors of the target without one in the source; `facts` is what recipes ask.
    """

    architecture: str
    steps: Sequence[Step]
    facts: ModelFacts
    generated: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Source(Protocol):
    """An open checkpoint that can be written as GGUF or as a Hugging Face folder.

    `files` are those that must not be written over.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Tensors
    alignment: int

    def plan_gguf(self) -> Plan:
        """Plan a GGUF file."""
        ...

    def entries(self, plan: Plan, choice: Choice) -> Entries:
        """Give the metadata of the GGUF file."""
        ...

    def plan_folder(self) -> Plan:
        """Plan a Hugging Face folder."""
        ...

    def folder_files(self, plan: Plan, dtypes: Sequence[str]) -> dict[str, object]:
        """Give the JSON files of the folder by name."""
        ...


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a GGUF file or a Hugging Face folder and check its headers.

    Raises:
        ConvertersError: see its subclasses.
    """
    if path.is_dir():
        yield HuggingFaceSource(path)
        return
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise SourceNotFoundError(
            f"{path}: a single file of a checkpoint; its folder is needed",
            hint=f"give {path.parent}",
        )
    with GGUFCheckpoint(path) as checkpoint:
        yield GGUFSource(checkpoint)


class HuggingFaceSource:
    """A folder with config.json, safetensors files and tokenizer.json."""

    alignment = 32

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        file = path / "config.json"
        if not file.exists():
            inside = sorted(path.glob("*.gguf"))
            hint = f"did you mean {inside[0]}?" if inside else "a Hugging Face model folder has one"
            raise SourceNotFoundError(f"{path}: there is no config.json in this folder", hint=hint)
        self._raw_config = read_object(file)
        self._config = Values(file, self._raw_config)
        self._architecture = self._find(file)
        self._notes: list[str] = []
        self._decoder = self._architecture.from_config(self._config, self._notes)
        checkpoint = SafetensorsCheckpoint.open(path)
        decoded = decode_checkpoint(self._config, checkpoint)
        self._notes += decoded.notes
        self.tensors: Tensors = HuggingFaceTensors(
            path, checkpoint, self._architecture.canonical, decoded
        )

    def _find(self, file: Path) -> Architecture:
        names = self._config.raw("architectures")
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            raise self._config.wrong("architectures", "a list of one name")
        return by_hf_name(file, names[0])

    def plan_gguf(self) -> Plan:
        """Plan a GGUF file by the architecture's rules."""
        decoder, architecture = self._decoder, self._architecture
        steps = make_plan(
            self.path,
            architecture.rules(decoder),
            self.tensors.shapes,
            Side.HF,
            Side.GGUF,
            unused=architecture.unused(decoder),
        )
        for step in steps:
            step_format(self.tensors, step)
        if decoder.tied and HEAD in self.tensors.shapes:
            self._check_tied()
        generated = architecture.generated(decoder)
        return Plan(architecture.name, steps, _facts(decoder, architecture), generated, self._notes)

    def _check_tied(self) -> None:
        """Refuse an output matrix that would be left out though it is not the embedding's copy."""
        of = self.tensors
        rows, columns = of.shapes[EMBEDDING]
        same = of.shapes[HEAD] == (rows, columns) and of.format(HEAD) == of.format(EMBEDDING)
        slab = max(1, SLAB_VALUES // columns)
        for start in range(0, rows if same else 0, slab):
            part = (start, min(start + slab, rows))
            same = same and np.array_equal(of.rows(HEAD, *part), of.rows(EMBEDDING, *part))
        if not same:
            raise ConfigError(
                f"{self.path}: tie_word_embeddings is true, but {HEAD} is not {EMBEDDING}",
                hint='if the output matrix is one of its own, set "tie_word_embeddings": false in '
                "config.json",
            )

    def entries(self, plan: Plan, choice: Choice) -> Entries:
        """Give general keys, the architecture's and the tokenizer's."""
        keys: Keys = {
            ARCHITECTURE: (TEXT, plan.architecture),
            "general.type": (TEXT, "model"),
            "general.name": (TEXT, self._name()),
        }
        keys |= self._architecture.metadata(self._decoder)
        keys["general.file_type"] = (U32, choice.file_type)
        keys["general.quantization_version"] = (U32, QUANTIZATION_VERSION)
        keys |= vocabulary_keys(
            read_vocabulary(self.path, self._raw_config, self._decoder.vocabulary, self._notes)
        )
        return {key: pack(*value) for key, value in (keys | _provenance(self.path, choice)).items()}

    def plan_folder(self) -> Plan:
        """Refuse: the source is such a folder."""
        raise UnsupportedError(
            f"{self.path}: this is a Hugging Face folder already",
            hint="write GGUF: -o NAME.gguf",
        )

    def folder_files(self, plan: Plan, dtypes: Sequence[str]) -> dict[str, object]:
        """Not reached: `plan_folder` refuses."""
        raise NotImplementedError

    def _name(self) -> str:
        given = self._config.raw("_name_or_path")
        name = Path(given).name if isinstance(given, str) else ""
        return name or self.path.resolve().name


class GGUFSource:
    """A GGUF file."""

    def __init__(self, checkpoint: GGUFCheckpoint) -> None:
        self._header = checkpoint.header
        self.path = checkpoint.path
        self.files: tuple[Path, ...] = checkpoint.files
        self.tensors: Tensors = GGUFTensors(checkpoint)
        self.alignment = checkpoint.header.alignment
        self._metadata = Values(self.path, checkpoint.header.metadata)

    def plan_gguf(self) -> Plan:
        """Plan to copy every tensor, whatever the architecture is."""
        name = self._name()
        steps = [Step.copy(tensor, shape) for tensor, shape in self.tensors.shapes.items()]
        keys = self._metadata.under(f"{name}.")
        heads = _first(keys, "attention.head_count", 0)
        facts = ModelFacts(
            name,
            _first(keys, "block_count", 0),
            heads,
            _first(keys, "attention.head_count_kv", heads),
            _first(keys, "expert_count", 0),
        )
        return Plan(name, steps, facts)

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
            keys |= _provenance(self.path, choice)
            entries |= {key: pack(*typed) for key, typed in keys.items()}
        return entries

    def plan_folder(self) -> Plan:
        """Plan a folder by the architecture's rules."""
        name = self._name()
        architecture = by_gguf_name(self.path, name)
        decoder = self._decoder(architecture)
        generated = architecture.generated(decoder)
        steps = make_plan(
            self.path,
            architecture.rules(decoder),
            self.tensors.shapes,
            Side.GGUF,
            Side.HF,
            unused=tuple(generated),
        )
        return Plan(name, steps, _facts(decoder, architecture))

    def _name(self) -> str:
        if ARCHITECTURE not in self._metadata:
            raise CorruptFileError(self.path, f"there is no {ARCHITECTURE}")
        name = self._metadata.raw(ARCHITECTURE)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise CorruptFileError(self.path, f"{ARCHITECTURE} is not a short name")
        return name

    def _decoder(self, architecture: Architecture) -> Decoder:
        keys = self._metadata.under(f"{architecture.name}.")
        decoder = architecture.from_metadata(keys, self.tensors.shapes)
        present = [name for name in VECTORS if name in self.tensors.shapes]
        vectors = {name: self._factors(name, decoder.rotary // 2) for name in present}
        return restore_scaling(keys, decoder, vectors)

    def _factors(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Read a vector of rope factors."""
        if self.tensors.format(name).name != "F32":
            raise ConfigError(f"{self.path}: {name} is not of type F32")
        if self.tensors.shapes[name] != (size,):
            raise ConfigError(f"{self.path}: {name} is no vector of {size}")
        values: npt.NDArray[np.float32] = self.tensors.rows(name, 0, 1).view(np.float32)[0]
        return values

    def folder_files(self, plan: Plan, dtypes: Sequence[str]) -> dict[str, object]:
        """Build config.json, tokenizer.json and tokenizer_config.json from the metadata."""
        architecture = by_gguf_name(self.path, plan.architecture)
        decoder = self._decoder(architecture)
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
        config["torch_dtype"] = DTYPE_NAMES[dtypes[0]]
        config["_name_or_path"] = self._metadata.text("general.name", self.path.stem)
        files: dict[str, object] = {
            "config.json": config,
            "tokenizer.json": tokenizer_json(self.path, vocabulary),
            "tokenizer_config.json": tokenizer_config(vocabulary, decoder.context),
        }
        if len(ends) > 1:
            ids = {key: config[key] for key in ("bos_token_id", "pad_token_id")}
            files["generation_config.json"] = ids | {"eos_token_id": ends}
        return files | architecture.files(decoder)


def _facts(decoder: Decoder, architecture: Architecture) -> ModelFacts:
    d = decoder
    return ModelFacts(architecture.name, d.layers, d.heads, d.heads_kv, d.experts)


def _first(values: Values, key: str, default: int) -> int:
    """Read a number that may be a list by layer: the first one."""
    raw: Any = values.raw(key)
    if isinstance(raw, list) and raw and isinstance(raw[0], int):
        return raw[0]
    return values.integer(key, default, least=0)


def _provenance(path: Path, choice: Choice) -> Keys:
    """Say what made the file, out of what."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        made_by = version("edgellm")
    except PackageNotFoundError:
        made_by = "unknown"
    keys: Keys = {
        "edgellm.version": (TEXT, made_by),
        "edgellm.source": (TEXT, path.resolve().name),
    }
    if choice.recipe is not None:
        keys["edgellm.quantization"] = (TEXT, choice.recipe)
    return keys
