"""The tensors of an MLX folder: dense ones, and quantized ones as rows of codes and scales.

A quantized weight `X` is stored as `X.weight` (uint32 words of codes), `X.scales` and, for affine
ones, `X.biases`; config.json says under `quantization` how many bits and values a group has, for
all modules and for single ones (mlx-lm's `utils.py`, `load_model`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_quant.errors import UnknownTypeError
from edgellm_quant.formats import FORMATS, Format, MLXFormat
from edgellm_quant.formats.mlx import join_rows

__all__ = ["MLXTensors", "is_mlx"]

_KEY = "quantization"
_SCALES = frozenset({"F16", "BF16", "F32", "U8"})


def is_mlx(config: Values, checkpoint: SafetensorsCheckpoint) -> bool:
    """Tell an MLX folder from a Hugging Face folder: by its files' mark, or its quantization."""
    return checkpoint.metadata.get("format") == "mlx" or _KEY in config


class MLXTensors:
    """The tensors of an MLX folder; see `edgellm_converters.streams.Tensors`.

    Raises:
        ConfigError: scales that do not go with their weight, or a setting of a wrong kind.
        UnsupportedError: a quantization that is not known here.
    """

    def __init__(self, path: Path, checkpoint: SafetensorsCheckpoint, config: Values) -> None:
        self._checkpoint = checkpoint
        self.path = path
        self._formats: dict[str, Format] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        quantization = config.section(_KEY)
        for name, tensor in checkpoint.tensors.items():
            module, _, end = name.rpartition(".")
            if end in ("scales", "biases") and f"{module}.weight" in checkpoint.tensors:
                continue
            shape = tensor.shape
            if end == "weight" and f"{module}.scales" in checkpoint.tensors:
                fmt = self._quantized(module, quantization)
                shape = self._check(module, fmt)
                self._formats[name] = fmt
            elif tensor.dtype in ("F32", "F16", "BF16"):
                self._formats[name] = FORMATS[tensor.dtype]
            else:
                raise UnsupportedError(
                    f"{tensor.path}: the tensor {name!r:.80} is of type {tensor.dtype}, and has "
                    "no scales"
                )
            shapes[name] = shape
        self.shapes: Mapping[str, tuple[int, ...]] = shapes

    def format(self, name: str) -> Format:
        """Give F32, F16, BF16, or a format of MLX."""
        return self._formats[name]

    def published(self, name: str) -> Format:
        """Give the format of a tensor."""
        return self.format(name)

    def nbytes(self, name: str) -> int:
        """Give the bytes of a tensor as stored, scales and biases included."""
        shape = self.shapes[name]
        return math.prod(shape[:-1]) * self._formats[name].row_bytes(shape[-1] if shape else 1)

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read rows: dense ones as they are, quantized ones as codes, scales and biases."""
        words = self._checkpoint.raw_rows(name, start, stop)
        fmt = self._formats[name]
        if not isinstance(fmt, MLXFormat):
            return words.view(np.uint8)
        module = name.removesuffix(".weight")
        scales = self._checkpoint.raw_rows(f"{module}.scales", start, stop)
        biases = None
        if fmt.has_biases:
            biases = self._checkpoint.raw_rows(f"{module}.biases", start, stop)
        return join_rows(words, scales, biases, fmt, self.shapes[name][-1])

    def _quantized(self, module: str, quantization: Values | None) -> MLXFormat:
        """Read how a module is quantized: its own settings, else those for all.

        As in mlx, the mode of own settings is "affine" unless they name it, whatever that for all
        is (mlx's `nn.quantize` hands them to `to_quantized`).
        """
        if quantization is None:
            raise ConfigError(
                f"{self.path}: {module}.scales belong to a quantized tensor, but config.json has "
                f"no {_KEY}"
            )
        settings = quantization.section(module) or quantization
        scales = self._checkpoint.tensors[f"{module}.scales"]
        if scales.dtype not in _SCALES:
            raise UnsupportedError(
                f"{scales.path}: {module}.scales are of type {scales.dtype}, not known here"
            )
        try:
            return MLXFormat(
                settings.text("mode", "affine"),
                settings.integer("bits"),
                settings.integer("group_size"),
                scales.dtype,
            )
        except UnknownTypeError as error:
            raise UnsupportedError(f"{self.path}: {module}: {error}", hint=error.hint) from None

    def _check(self, module: str, fmt: MLXFormat) -> tuple[int, ...]:
        """Give the shape of a weight; refuse codes, scales and biases that do not fit together."""
        tensors = self._checkpoint.tensors
        words = tensors[f"{module}.weight"]
        columns = words.columns * 32 // fmt.bits
        if words.dtype != "U32" or len(words.shape) < 2 or not fmt.holds(columns):
            raise ConfigError(
                f"{words.path}: {module}.weight is {words.dtype} {list(words.shape)}, which "
                f"{fmt.bits} bits in groups of {fmt.group_size} cannot be"
            )
        rows = words.shape[:-1]
        wanted = (*rows, columns // fmt.group_size)
        for end in ("scales", "biases") if fmt.has_biases else ("scales",):
            found = tensors.get(f"{module}.{end}")
            if found is None:
                raise ConfigError(f"{words.path}: {module}.{end} is missing")
            if found.shape != wanted or found.dtype != fmt.scale:
                raise ConfigError(
                    f"{found.path}: {module}.{end} is {found.dtype} {list(found.shape)}, but the "
                    f"codes ask for {fmt.scale} {list(wanted)}"
                )
        return (*rows, columns)
