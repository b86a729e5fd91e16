"""The safety check that a model folder passes before MLX and transformers open it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint, inside
from edgellm_converters.checkpoints.safetensors_header import (
    SafetensorInfo,
    read_safetensors_header,
)
from edgellm_converters.errors import CorruptFileError, UnsupportedError
from edgellm_converters.jsonfile import MAX_TOKENIZER_BYTES, read_bytes, read_object
from edgellm_converters.sources.folder import missing_config

__all__ = ["ModelFolder", "check_model_folder", "trained_context"]

# Files that transformers and mlx-lm read with unbounded parsers.
OBJECTS = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", "processor_config.json", "hf_quant_config.json",
)  # fmt: skip
VOCABULARIES = ("tokenizer.json", "vocab.json")
OTHERS = ("tokenizer.model", "merges.txt", "vocab.txt", "chat_template.jinja")
# Keys of config.json by whose number modules are made one by one.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
MOST_EXPERTS = 4096  # the largest models have 512
# Keys that say how many tokens a model was trained on.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What was read of a folder.

    Attributes:
        path: the folder.
        config: its config.json.
        tensors: the tensors of its safetensors files.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, SafetensorInfo]


def check_model_folder(path: Path) -> ModelFolder:
    """Check that MLX can open and run a folder without harm.

    A folder that passes may still be refused by mlx-lm with an error, for a missing tensor say. It
    must not change between this check and its use.

    Raises:
        SourceNotFoundError: there is no config.json, or no safetensors file.
        CorruptFileError: a file is malformed or hostile; one sentence says where.
        ConfigError: a JSON file is none, or too large.
        UnsupportedError: the folder brings Python code that it asks to be run.
    """
    if not (path / "config.json").exists():
        raise missing_config(path)
    config = read_object(inside(path, "config.json"))
    for section in _sections(config):
        if "model_file" in section:  # a file with Python code, which mlx-lm can be made to run
            raise UnsupportedError(f"{path}: the folder brings code of its own, which is not run")
    tensors = dict(SafetensorsCheckpoint.open(path).tensors)
    for file in sorted(path.glob("model*.safetensors")):  # all those that mlx-lm opens
        tensors |= read_safetensors_header(inside(path, file.name))[0]
    _check_numbers(path / "config.json", config, len(tensors))
    for names, most in ((OBJECTS, None), (VOCABULARIES, MAX_TOKENIZER_BYTES)):
        for name in names:
            if (path / name).exists():
                file = inside(path, name)
                read_object(file) if most is None else read_object(file, most=most)
    for name in OTHERS:
        if (path / name).exists():
            read_bytes(inside(path, name), most=MAX_TOKENIZER_BYTES)
    return ModelFolder(path, config, tensors)


def trained_context(config: Mapping[str, Any]) -> int | None:
    """Give the number of tokens that config.json says; None if it says none."""
    for section in _sections(config):
        for key in CONTEXT_KEYS:
            value = section.get(key)
            if type(value) is int and value > 0:
                return value
    return None


def _check_numbers(file: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse numbers that would fill the memory with modules before any weight is missed."""
    for section in _sections(config):
        for keys, most in ((LAYERS, tensors), (EXPERTS, MOST_EXPERTS)):
            for key in keys:
                value = section.get(key)
                if isinstance(value, int | float) and value > most:
                    raise CorruptFileError(
                        file,
                        f"{key} is {value}, and a folder of {tensors} tensors has {most} at most",
                    )


def _sections(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = config.get("text_config")
    return [config, inner] if isinstance(inner, dict) else [config]
