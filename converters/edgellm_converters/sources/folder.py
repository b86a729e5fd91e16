"""A folder with config.json, safetensors files and a tokenizer: Hugging Face's layout, or MLX's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgellm_converters.adapters import is_adapter
from edgellm_converters.architectures import Architecture, Decoder, by_hf_name
from edgellm_converters.architectures.base import TEXT, U32, Keys, Side
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf_split import ARCHITECTURE
from edgellm_converters.checkpoints.mlx import MLXTensors, is_mlx
from edgellm_converters.checkpoints.quantized import decode_checkpoint
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint, inside
from edgellm_converters.errors import ConfigError, SourceNotFoundError
from edgellm_converters.jsonfile import read_object
from edgellm_converters.plan import make_plan
from edgellm_converters.sources.base import (
    DTYPE_NAMES,
    QUANTIZATION_VERSION,
    Files,
    Plan,
    check_mlx,
    facts_for,
    provenance,
)
from edgellm_converters.streams import SLAB_VALUES, HuggingFaceTensors, Tensors, step_format
from edgellm_converters.targets import Choice
from edgellm_converters.tokenizers.huggingface import read_vocabulary
from edgellm_converters.tokenizers.metadata import vocabulary_keys
from edgellm_converters.tokenizers.special import MAX_TEMPLATES
from edgellm_converters.writers.atomic import COPIED, TEMPLATES
from edgellm_converters.writers.gguf import Entries, pack
from edgellm_converters.writers.mlx import quantization_config

__all__ = ["FolderSource", "missing_config"]

# The files that a tokenizer can be made of, each by itself (merges.txt belongs to vocab.json).
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
EMBEDDING, HEAD = "token_embd.weight", "lm_head.weight"


def missing_config(folder: Path) -> SourceNotFoundError:
    """Give the error on a folder without config.json, which says what there is instead."""
    sentence = f"{folder}: there is no config.json in this folder"
    if is_adapter(folder):
        return SourceNotFoundError(
            f"{sentence}, which holds a LoRA adapter",
            hint=f"merge it into its model: edgellm convert MODEL --lora {folder} -o OUT",
        )
    inside_it = sorted(folder.glob("*.gguf"))
    if inside_it:
        return SourceNotFoundError(sentence, hint=f"did you mean {inside_it[0]}?")
    return SourceNotFoundError(
        sentence, hint="a model folder of Hugging Face or MLX has one, beside its safetensors"
    )


class FolderSource:
    """A Hugging Face or MLX folder."""

    alignment = 32

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        file = path / "config.json"
        if not file.exists():
            raise missing_config(path)
        self._raw_config = read_object(inside(path, "config.json"))
        self._config = Values(file, self._raw_config)
        self._architecture = self._find(file)
        checkpoint = SafetensorsCheckpoint.open(path)
        self.side = Side.MLX if is_mlx(self._config, checkpoint) else Side.HF
        self._notes: list[str] = []  # on what GGUF cannot say of the configuration
        self._decoder = self._architecture.from_config(self._config, self._notes)
        self._decoded: list[str] = []  # on weights that are read as others than they are stored
        self.tensors: Tensors
        if self.side is Side.MLX:
            self.tensors = MLXTensors(path, checkpoint, self._config)
        else:
            decoded = decode_checkpoint(self._config, checkpoint)
            self._decoded = decoded.notes
            self.tensors = HuggingFaceTensors(
                path, checkpoint, self._architecture.canonical, decoded
            )

    def _find(self, file: Path) -> Architecture:
        names = self._config.raw("architectures")
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            raise self._config.wrong("architectures", "a list of one name")
        return by_hf_name(file, names[0])

    def model(self) -> tuple[Architecture, Decoder]:
        """Give what config.json says."""
        return self._architecture, self._decoder

    def plan(self, target: Side) -> Plan:
        """Plan a target by the architecture's rules."""
        decoder, architecture = self._decoder, self._architecture
        notes = list(self._decoded)
        if target is Side.MLX:
            check_mlx(self.path, architecture)
            architecture.mlx_config(decoder, notes)
        if target is Side.GGUF:
            notes += self._notes
        elif not any((self.path / name).is_file() for name in VOCABULARIES):
            known = ", ".join(VOCABULARIES)
            notes.append(f"the folder is without a tokenizer: the source has none of {known}")
        steps = make_plan(
            self.path,
            architecture.rules(decoder),
            self.tensors.shapes,
            self.side,
            target,
            unused=architecture.unused(decoder),
        )
        for step in steps:
            step_format(self.tensors, step)
        self._note_left_out(notes)
        self._check_copies()
        return Plan(
            architecture.name,
            target,
            steps,
            facts_for(decoder, architecture),
            architecture.generated(decoder) if target is Side.GGUF else {},
            notes,
        )

    def _note_left_out(self, notes: list[str]) -> None:
        """Note tensors of heads for tasks, which are left out on purpose."""
        heads = self._architecture.heads
        found = [name for name in self.tensors.shapes if heads and name.endswith(heads)]
        if found:
            notes.append(
                f"{len(found)} tensors of heads for tasks are left out, such as {found[0]}"
            )

    def _check_copies(self) -> None:
        """Refuse a matrix that would be left out though it is not the embedding's copy."""
        rules = self._architecture.rules(self._decoder)
        places = (rule.place(self.side).name for rule in rules if rule.gguf.name == EMBEDDING)
        embedding = next(places, "")
        if self._decoder.tied and HEAD in self.tensors.shapes and not self._same(HEAD, embedding):
            raise ConfigError(
                f"{self.path}: tie_word_embeddings is true, but {HEAD} is not {embedding}",
                hint='if the output matrix is one of its own, set "tie_word_embeddings": false in '
                "config.json",
            )
        for name in self._architecture.copies:
            if name in self.tensors.shapes and not self._same(name, embedding):
                raise ConfigError(f"{self.path}: {name} is not {embedding}, which it should copy")

    def _same(self, name: str, other: str) -> bool:
        """Tell whether two matrices are equal bit for bit."""
        of = self.tensors
        rows, columns = of.shapes[other]
        if of.shapes[name] != (rows, columns) or of.format(name) != of.format(other):
            return False
        slab = max(1, SLAB_VALUES // columns)
        return all(
            np.array_equal(of.rows(name, *part), of.rows(other, *part))
            for start in range(0, rows, slab)
            for part in ((start, min(start + slab, rows)),)
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
            read_vocabulary(self.path, self._raw_config, self._decoder.vocabulary, plan.notes)
        )
        return {key: pack(*value) for key, value in (keys | provenance(self.path, choice)).items()}

    def files_for(self, plan: Plan, choice: Choice) -> Files:
        """Take over the tokenizer's files, and config.json with what the target changes."""
        config: dict[str, Any] = {
            key: value
            for key, value in self._raw_config.items()
            if key not in ("quantization", "quantization_config")
        }
        if plan.target is Side.MLX:
            config = self._for_mlx(config) | quantization_config(plan.steps, choice.formats)
        elif self.side is Side.MLX:
            config |= self._from_mlx(config)
        dtype = DTYPE_NAMES[choice.dense]
        config |= {key: dtype for key in ("torch_dtype", "dtype") if key in config}
        templates = sorted((self.path / TEMPLATES).glob("*.jinja"))[:MAX_TEMPLATES]
        names = [*COPIED, *(f"{TEMPLATES}/{file.name}" for file in templates)]
        copies = {name: inside(self.path, name) for name in names if (self.path / name).is_file()}
        files = self._architecture.files(self._decoder)
        return Files({"config.json": config} | files, copies)

    def _for_mlx(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Write out what readers other than transformers would take from defaults of their own.

        Above all theta and scaling of rotary positions, which transformers 5 nests.
        """
        written = self._architecture.config(self._decoder)
        found = {key: value for key, value in written.items() if config.get(key) is None}
        return dict(config) | found | self._architecture.mlx_config(self._decoder, [])

    def _from_mlx(self, config: Mapping[str, Any]) -> dict[str, object]:
        """Give the values for transformers of the keys that are as mlx-lm reads them."""
        written = self._architecture.config(self._decoder)
        return {
            key: written[key]
            for key, value in self._architecture.mlx_config(self._decoder, []).items()
            if key in written and key in config and config[key] == value
        }

    def _name(self) -> str:
        given = self._config.raw("_name_or_path")
        name = Path(given).name if isinstance(given, str) else ""
        return name or self.path.resolve().name
