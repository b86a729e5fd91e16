"""From a folder to a model of mlx-lm in memory, for generating and for measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.backends.base import CancelledError
from edgellm.backends.mlx.device import on_cpu
from edgellm.backends.mlx.library import Library, library, missing, sentence
from edgellm.device.ram import probe_ram
from edgellm.errors import BackendError, DoesNotFitError
from edgellm_converters.jsonfile import read_object

__all__ = ["Loaded", "check_memory", "load", "normalized"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory.

    Attributes:
        native: the packages.
        model: mlx-lm's module: tokens (1, n) and a cache -> logits (1, n, width).
        config: its config.json, normalized.
        width: the number of logits after a token.
        weights: how many it has.
        storage: the type of its weights in words.
    """

    native: Library
    model: Any
    config: Mapping[str, Any]
    width: int
    weights: int
    storage: str


def load(path: Path, cancelled: Callable[[], bool], *, exact: bool = False) -> Loaded:
    """Load a folder that has passed the safety check.

    A CPU computes in float32: half precision is slower there, and its products of quantized weights
    are wrong by half a percent. A GPU computes in the type of the weights, unless `exact` asks for
    float32.

    Raises:
        CancelledError: `cancelled` gave True.
        BackendError: mlx-lm is not installed, or cannot load it.
        DoesNotFitError: the weights need more memory than the device has.
    """
    reason = missing()
    if reason is not None:
        raise BackendError(
            f"{path}: a folder is run with MLX, and {reason}",
            hint="or convert it for llama.cpp: edgellm convert FOLDER -o NAME.gguf",
        )
    native = library()
    mx = native.core
    config = normalized(read_object(path / "config.json"))
    try:
        model, _ = native.utils.load_model(path, lazy=True, model_config=config)
        weights = int(native.utils.get_total_parameters(model))
        storage = _storage(native, model, config)
        if exact or on_cpu():
            model.set_dtype(mx.float32)
        # Nothing is computed: an array that was not asked for has a shape already.
        width = int(model(mx.array([[0]])).shape[-1])
    except Exception as error:  # whatever a file leads that library to
        raise BackendError(
            f"{path}: mlx-lm cannot load it: {sentence(error)}",
            hint="it may load in MLX's own form: edgellm convert FOLDER --to mlx -o OUT",
        ) from error
    arrays = [array for _, array in native.tree.tree_flatten(model.parameters())]
    check_memory(f"{path}: the weights", sum(array.nbytes for array in arrays))
    for array in arrays:
        if cancelled():
            raise CancelledError
        try:
            mx.eval(array)
        except Exception as error:  # a file that became shorter, or no memory
            raise BackendError(f"{path}: mlx cannot read it: {sentence(error)}") from error
    return Loaded(native, model, config, width, weights, storage)


def normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what transformers 5 writes under `rope_parameters` alone to where mlx-lm looks for it.

    Several of mlx-lm's models read `rope_theta` and `rope_scaling` only, and would take their
    defaults without a word.
    """
    found = dict(config)
    inner = found.get("text_config")
    if isinstance(inner, dict):
        found["text_config"] = normalized(inner)
    parameters = found.get("rope_parameters")
    if not isinstance(parameters, dict):
        return found
    local = parameters.get("sliding_attention")
    if isinstance(local, dict):  # by the kind of layer, as Gemma 3 has them
        _fill(found, "rope_local_base_freq", local.get("rope_theta"))
    whole = parameters.get("full_attention", parameters)
    if isinstance(whole, dict):
        _fill(found, "rope_theta", whole.get("rope_theta"))
        _fill(found, "partial_rotary_factor", whole.get("partial_rotary_factor"))
        if whole.get("rope_type", "default") != "default":
            _fill(found, "rope_scaling", whole)
    return found


def check_memory(what: str, needed: int) -> None:
    """Refuse what is larger than all memory: the system would end the program, not the request.

    Raises:
        DoesNotFitError: with both numbers.
    """
    try:
        there = probe_ram().total
    except BackendError:  # the system does not say
        return
    if needed > there:
        raise DoesNotFitError(
            f"{what} need {needed / 1e9:.1f} GB of memory, and the device has {there / 1e9:.1f} GB",
            hint="a model of fewer bits, or a smaller --ctx, needs less",
        )


def _fill(config: dict[str, Any], key: str, value: object) -> None:
    if value is not None and config.get(key) is None:
        config[key] = value


def _storage(native: Library, model: Any, config: Mapping[str, Any]) -> str:
    """Say how weights are kept: by the folder's quantization, or the type of most of them."""
    quantization = config.get("quantization")
    if isinstance(quantization, dict):
        mode = quantization.get("mode", "affine")
        bits, group = quantization.get("bits"), quantization.get("group_size")
        return f"{bits} bits in groups of {group}" if mode == "affine" else str(mode)
    sizes: dict[str, int] = {}
    for _, array in native.tree.tree_flatten(model.parameters()):
        name = str(array.dtype).rpartition(".")[2]
        sizes[name] = sizes.get(name, 0) + array.nbytes
    return max(sizes, key=lambda name: sizes[name])
