"""What a model is, read from its headers alone: a GGUF file, or a folder of Hugging Face or MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.api.show_adapter import AdapterDetails, describe_adapter
from edgellm.device.fit import DEFAULT_CONTEXT, Needs
from edgellm.device.memory import (
    Runtime,
    cache_bytes,
    cached_layers,
    compute_bytes,
    folder_metadata,
    process_bytes,
)
from edgellm.device.profiles import THIS, get_profile
from edgellm.errors import BackendError, UsageError
from edgellm.models import resolve
from edgellm.models.store import StoredModel, at
from edgellm.quantization.receipt import find_receipt

if TYPE_CHECKING:
    from edgellm.quantization.receipt import Receipt
    from edgellm_converters.checkpoints.gguf_header import GGUFHeader

__all__ = ["Memory", "ModelDetails", "TensorDetails", "describe", "describe_gguf", "show"]

_LIMIT = 2**31 - 1
_JSON_LIMIT = 64 << 20  # the largest tokenizer_config.json in use has some 1.2 MB


@dataclass(frozen=True, slots=True)
class TensorDetails:
    """One tensor; `shape` in numpy's order (rows before columns), `nbytes` as stored."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        """The number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Memory:
    """What the model takes in memory, in bytes, at a context of `context` tokens.

    `kv_cache` is what `edgellm chat` allocates for it, in `cache_type` for every layer over the
    whole context, rounded up to 256 tokens, and the states of recurrent layers; `compute` are the
    buffers between operations, `process` the program with the vocabulary. None where the metadata
    does not tell. `available` is what is free on this device, `largest_context` the most tokens
    that fit in it, at most what the model was trained on and 0 if it does not fit; None where
    nothing tells.
    """

    context: int
    cache_type: str
    weights: int
    kv_cache: int | None
    compute: int | None
    process: int
    available: int | None
    largest_context: int | None

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + (self.kv_cache or 0) + (self.compute or 0) + self.process

    @property
    def fits(self) -> bool | None:
        """Whether it fits this device at the moment; None where nothing tells."""
        if self.kv_cache is None or self.compute is None or self.available is None:
            return None
        return self.total <= self.available


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """Everything that headers tell. `metadata` is the file's, or the folder's config.json.

    `type` is the name of the recipe (general.file_type), or else the tensor type that holds most
    bytes. `bytes` is the size of the file (or of the files with tensors). `receipt` says how it was
    quantized and what that cost; None if nobody measured it. `needs` is what memory depends on.
    `stored` is the model's entry in the store, with where it came from; None for other files.
    `adapter` says what a LoRA adapter is; None of a model.
    """

    path: Path
    format: str
    architecture: str | None
    type: str | None
    bytes: int
    context_length: int | None
    tensors: tuple[TensorDetails, ...]
    metadata: Mapping[str, object]
    chat_template: str | None
    memory: Memory
    needs: Needs
    receipt: Receipt | None = None
    stored: StoredModel | None = None
    adapter: AdapterDetails | None = None

    @property
    def parameters(self) -> int:
        """The number of weights in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of the file per weight; None for a file without tensors."""
        return 8 * self.bytes / self.parameters if self.parameters else None

    def text(self, key: str) -> str | None:
        """Give a metadata value if it is text and not empty."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None


def show(
    reference: str | None = None, *, context: int | None = None, cache_type: str = "f16"
) -> ModelDetails:
    """Describe a model given by path, name in the store, or folder; None is the default model.

    Args:
        reference: as in `edgellm.models.resolve`; a folder of Hugging Face or MLX will do too.
        context: tokens for which memory is estimated; by default what the model was trained on,
            at most 4096.
        cache_type: how keys and values are kept: f16, q8_0 or q4_0.

    Raises:
        NotFoundError: there is no such model.
        UsageError: `context` is out of its range.
        ConvertersError: a file is corrupt, or of a kind that is not supported.
    """
    if context is not None and not 1 <= context <= _LIMIT:
        raise UsageError(f"a context of {context} tokens is out of range")
    path = resolve(reference, folders=True)
    return replace(describe(path, context, cache_type), stored=at(path))


def describe(path: Path, context: int | None = None, cache_type: str = "f16") -> ModelDetails:
    """Describe a GGUF file after the safety check, or a folder, of a model or of an adapter.

    Raises:
        ConvertersError: the check does not hold.
    """
    from edgellm_converters.adapters import is_adapter
    from edgellm_converters.checkpoints.gguf_adapter import ADAPTER, TYPE

    if not path.is_dir():
        details = describe_gguf(path, context, cache_type)
        if details.metadata.get(TYPE) != ADAPTER:
            return details
    elif is_adapter(path):
        details = _describe_weights(path, context, cache_type)
    else:
        return _describe_folder(path, context, cache_type)
    return replace(details, adapter=describe_adapter(path))


def describe_gguf(path: Path, context: int | None = None, cache_type: str = "f16") -> ModelDetails:
    """Describe a GGUF file after the safety check.

    Raises:
        ConvertersError: the check does not hold.
    """
    from edgellm.models.check import inspect_model_file

    header = inspect_model_file(path)
    metadata: Mapping[str, object] = header.metadata
    architecture = metadata.get("general.architecture")
    architecture = architecture if isinstance(architecture, str) else None
    tensors = tuple(
        TensorDetails(tensor.name, tensor.format.name, tensor.shape, tensor.nbytes)
        for tensor in header.tensors
    )
    template = metadata.get("tokenizer.chat_template")
    trained = _number(metadata.get(f"{architecture}.context_length"))
    needs = Needs(metadata, {tensor.name: tensor.nbytes for tensor in tensors})
    return ModelDetails(
        path=path,
        format="gguf",
        architecture=architecture,
        type=_recipe_name(header) or _commonest_type(tensors),
        bytes=header.file_size,
        context_length=trained,
        tensors=tensors,
        metadata=metadata,
        chat_template=template if isinstance(template, str) else None,
        receipt=find_receipt(path, metadata),
        needs=needs,
        memory=_memory(needs, context, cache_type),
    )


def _recipe_name(header: GGUFHeader) -> str | None:
    from edgellm_quant.recipes import RECIPES

    number = header.metadata.get("general.file_type")
    return next((r.name for r in RECIPES.values() if r.file_type == number), None)


def _commonest_type(tensors: tuple[TensorDetails, ...]) -> str | None:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.nbytes
    return max(sizes, key=lambda name: sizes[name], default=None)


def _describe_folder(folder: Path, context: int | None, cache_type: str) -> ModelDetails:
    from edgellm_converters.architectures.values import Values
    from edgellm_converters.checkpoints.mlx import MLXTensors, is_mlx
    from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint

    if not (folder / "config.json").exists():
        from edgellm_converters.sources.folder import missing_config

        raise missing_config(folder)
    config = _read_object(folder / "config.json")
    checkpoint = SafetensorsCheckpoint.open(folder)
    values = Values(folder / "config.json", config)
    mlx = is_mlx(values, checkpoint)
    if mlx:
        # A quantized weight is several tensors of the file; people know it as one.
        read = MLXTensors(folder, checkpoint, values)
        tensors = tuple(
            TensorDetails(name, read.format(name).name, shape, read.nbytes(name))
            for name, shape in read.shapes.items()
        )
    else:
        tensors = tuple(
            TensorDetails(info.name, info.dtype, info.shape, info.nbytes)
            for info in checkpoint.tensors.values()
        )
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else config.get("model_type")
    needs = Needs(folder_metadata(config), {tensor.name: tensor.nbytes for tensor in tensors})
    trained = needs.trained_context
    return ModelDetails(
        path=folder,
        format="mlx" if mlx else "huggingface",
        architecture=architecture if isinstance(architecture, str) else None,
        type=_commonest_type(tensors),
        bytes=sum(path.stat().st_size for path in {i.path for i in checkpoint.tensors.values()}),
        context_length=trained,
        tensors=tensors,
        metadata=config,
        chat_template=_folder_template(folder),
        receipt=find_receipt(folder, {}),
        needs=needs,
        memory=_memory(needs, context, cache_type),
    )


def _describe_weights(folder: Path, context: int | None, cache_type: str) -> ModelDetails:
    """Describe the folder of an adapter as far as its tensors go."""
    from edgellm_converters.adapters import mlx, open_adapter, peft
    from edgellm_converters.architectures.base import Side
    from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint

    weights = folder / (mlx if open_adapter(folder).side is Side.MLX else peft).WEIGHTS
    checkpoint = SafetensorsCheckpoint.open(weights)
    tensors = tuple(
        TensorDetails(info.name, info.dtype, info.shape, info.nbytes)
        for info in checkpoint.tensors.values()
    )
    needs = Needs({}, {tensor.name: tensor.nbytes for tensor in tensors})
    return ModelDetails(
        path=folder,
        format="adapter",
        architecture=None,
        type=_commonest_type(tensors),
        bytes=weights.stat().st_size,
        context_length=None,
        tensors=tensors,
        metadata=_read_object(folder / "adapter_config.json"),
        chat_template=None,
        needs=needs,
        memory=_memory(needs, context, cache_type),
    )


def _folder_template(folder: Path) -> str | None:
    from edgellm_converters.errors import ConfigError

    plain = folder / "chat_template.jinja"
    if plain.is_file():
        try:
            return _read_bounded(plain).decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{plain}: not UTF-8 (at byte {error.start})") from error
    config = folder / "tokenizer_config.json"
    template = _read_object(config).get("chat_template") if config.is_file() else None
    return template if isinstance(template, str) else None


def _read_object(path: Path) -> dict[str, Any]:
    import json

    from edgellm_converters.errors import ConfigError

    try:
        value = json.loads(_read_bounded(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds {type(value).__name__}, not an object")
    return value


def _read_bounded(path: Path) -> bytes:
    from edgellm_converters.errors import ConfigError

    with path.open("rb") as file:
        raw = file.read(_JSON_LIMIT + 1)
    if len(raw) > _JSON_LIMIT:
        raise ConfigError(f"{path}: larger than {_JSON_LIMIT} bytes")
    return raw


def _memory(needs: Needs, context: int | None, cache_type: str) -> Memory:
    trained = needs.trained_context
    runtime = Runtime(context or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT), cache_type)
    layers = cached_layers(needs.metadata)
    try:
        available = get_profile(THIS).available
    except BackendError:
        available = None
    largest = None
    if available is not None and trained is not None:
        largest = needs.largest_context(available, trained, cache_type)
    return Memory(
        context=runtime.context,
        cache_type=cache_type,
        weights=needs.weights,
        kv_cache=None if layers is None else cache_bytes(layers, runtime),
        compute=compute_bytes(needs.metadata, runtime),
        process=process_bytes(needs.metadata),
        available=available,
        largest_context=largest,
    )


def _number(value: object) -> int | None:
    """Take a number of a file only if it is a whole one in a sane range."""
    return value if type(value) is int and 0 <= value <= _LIMIT else None
