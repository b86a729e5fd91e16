"""Adapters as PEFT saves them: adapter_config.json and adapter_model.safetensors.

The format is that of peft's `LoraConfig` and `save_pretrained`: each adapted module has a
`lora_A.weight` (rank, inputs) and a `lora_B.weight` (outputs, rank), an embedding a
`lora_embedding_A` (rank, tokens) and a `lora_embedding_B` (hidden, rank); they count alpha / rank
times, with rslora alpha / sqrt(rank) times (Kalajdzievski, 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from edgellm_converters.adapters.files import CONFIG, Adapter, Pair, check_rank, pair_up, widest
from edgellm_converters.architectures.base import Side
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.safetensors import (
    PICKLES,
    SafetensorInfo,
    SafetensorsCheckpoint,
    inside,
)
from edgellm_converters.errors import ConfigError, SourceNotFoundError, UnsupportedError

__all__ = ["WEIGHTS", "open_peft"]

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
ENDS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
}
MERGE = "merge it with peft (merge_and_unload, save_pretrained) and convert the merged model"

# Keys of how an adapter was trained or where it belongs, which change nothing in what it computes.
# Which modules it changes is told by the names of its tensors.
NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "unsloth_fixed",
    }
)
READ = frozenset(
    {"alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "r", "rank_pattern", "use_rslora"}
)
# What adds to, or changes, the product of two matrices; the words go into a sentence.
ADDS = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that were trained whole",
    "lora_bias": "biases",
    "layer_replication": "layers that are there several times",
    "trainable_token_indices": "tokens that were trained one by one",
    "target_parameters": "parameters that are no modules",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "routing between adapters (Arrow)",
}
# Ways to begin that leave the weights of the base as they were.
BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva", None)


def open_peft(path: Path) -> Adapter:
    """Open a folder that PEFT wrote.

    Raises:
        SourceNotFoundError: there are no weights.
        CorruptFileError: the file of weights breaks its format's rules.
        ConfigError: adapter_config.json has a wrong value.
        IncompletePlanError: tensors whose partner is missing, or of a wrong shape.
        UnsupportedError: more than LoRA, or weights that are pickled.
    """
    from edgellm_converters.jsonfile import read_object

    config = Values(path / CONFIG, read_object(inside(path, CONFIG)))
    _check_kind(config)
    checkpoint = _open_weights(path)
    file = path / WEIGHTS
    found = pair_up(file, checkpoint.tensors.values(), ENDS)
    rank, alpha = config.integer("r"), config.number("lora_alpha")
    ranks, alphas = _pattern(config, "rank_pattern"), _pattern(config, "alpha_pattern")
    rslora = config.flag("use_rslora", default=False)
    pairs = []
    for name, roles in found.items():
        if not name.startswith(PREFIX):
            raise UnsupportedError(
                f"{file}: the tensor {next(iter(roles.values()))} does not begin with {PREFIX}"
            )
        module = name.removeprefix(PREFIX)
        its_rank = int(_matching(ranks, module, rank))
        its_alpha = _matching(alphas, module, alpha)
        scale = its_alpha / (math.sqrt(its_rank) if rslora else its_rank)
        pair = _pair(module, roles, checkpoint.tensors, scale)
        check_rank(file, pair, its_rank)
        pairs.append(pair)
    base = config.raw("base_model_name_or_path")
    return Adapter(path, Side.HF, tuple(pairs), checkpoint, base if isinstance(base, str) else None)


def _check_kind(config: Values) -> None:
    kind = config.raw("peft_type")
    if kind != "LORA":
        raise UnsupportedError(
            f"{config.path}: peft_type is {kind!r:.80}; only LORA can be converted", hint=MERGE
        )
    for key, what in ADDS.items():
        if config.raw(key) not in (None, False, [], {}):
            raise UnsupportedError(
                f"{config.path}: the adapter uses {what} ({key}), which GGUF and MLX adapters "
                "cannot hold",
                hint=MERGE,
            )
    if config.raw("bias") not in (None, "none"):
        raise UnsupportedError(
            f"{config.path}: the adapter changes biases (bias is {config.raw('bias')!r:.80}), "
            "which GGUF and MLX adapters cannot hold",
            hint=MERGE,
        )
    beginning = config.raw("init_lora_weights")
    if beginning not in BEGINNINGS:
        raise UnsupportedError(
            f"{config.path}: init_lora_weights is {beginning!r:.80}: such an adapter belongs to "
            "weights that peft changed before training, not to those of its base model",
            hint="save it with peft's path_initial_model_for_weight_conversion, or merge it there",
        )
    known = NEUTRAL | READ | ADDS.keys()
    for key in config:
        if key not in known and config.raw(key) not in (None, False, [], {}):
            raise UnsupportedError(
                f"{config.path}: {key!r:.80} is not known here, and may change what the adapter "
                "computes",
                hint=MERGE,
            )


def _open_weights(path: Path) -> SafetensorsCheckpoint:
    if (path / WEIGHTS).exists():
        return SafetensorsCheckpoint.open(inside(path, WEIGHTS))
    for end in PICKLES:
        if (path / f"adapter_model{end}").exists():
            raise UnsupportedError(
                f"{path / f'adapter_model{end}'}: pickled weights are never loaded, because "
                "loading them runs code",
                hint="save the adapter as safetensors: model.save_pretrained(FOLDER)",
            )
    raise SourceNotFoundError(f"{path}: there is no {WEIGHTS} in this folder")


def _pair(
    module: str, roles: Mapping[str, str], tensors: Mapping[str, SafetensorInfo], scale: float
) -> Pair:
    embedding = "embedding_a" in roles
    a, b = (roles[f"embedding_{role}" if embedding else role] for role in "ab")
    first, second = tensors[a], tensors[b]
    dtype = widest((first, second))
    return Pair(module, a, b, first.shape, second.shape, scale, dtype, embedding=embedding)


def _pattern(config: Values, key: str) -> dict[str, float]:
    """Read numbers by the ends of modules' names.

    PEFT takes the names for regular expressions. Those of a file may take forever, so that only
    names are read here, which mean the same as expressions.
    """
    section = config.section(key)
    if section is None:
        return {}
    found = {}
    for name in section:
        if not re.fullmatch(r"\^?[\w.-]+", name):
            raise ConfigError(
                f"{config.path}: {key} has {name!r:.80}, which is no name of a module",
                hint="write out the names of the modules that it stands for",
            )
        found[name] = float(section.integer(name)) if key[0] == "r" else section.number(name)
    return found


def _matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """Give the number of the first name that is the module's, or its end after a dot."""
    for name, value in pattern.items():
        whole = name.removeprefix("^")
        if module == whole or (name == whole and module.endswith(f".{name}")):
            return value
    return default
