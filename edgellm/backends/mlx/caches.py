"""The keys, values and states that mlx-lm keeps of a text: made, cut, counted, written and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgellm.backends.mlx.library import Library, sentence
from edgellm.errors import BackendError
from edgellm_converters.checkpoints.safetensors_header import read_safetensors_header
from edgellm_converters.errors import ConvertersError

__all__ = ["Caches"]

BITS = {"q8_0": 8, "q4_0": 4}
GROUPS = (64, 32)  # of values with a scale; the larger one where it divides the heads
PARTS = 3  # arrays of quantized values: codes, scales, biases
STEP = 256  # tokens for which mlx-lm makes room at a time


class Caches:
    """One cache for each layer that has one.

    mlx-lm gives layers with a sliding window a cache that forgets what lies before it. Such a cache
    can neither be cut back, so that every turn of a conversation would be evaluated from its start,
    nor be quantized. Here it keeps everything, and the mask alone hides what is out of the window,
    as llama.cpp does with `swa_full`.

    Args:
        native: the packages.
        model: mlx-lm's module.
        cache_type: one of `edgellm.backends.base.CACHE_TYPES`; f16 means the type that the model
            computes in.

    Raises:
        BackendError: the model's cache cannot be kept in that type.
    """

    def __init__(self, native: Library, model: Any, cache_type: str) -> None:
        self._native = native
        self._model = model
        self._cache_type = cache_type
        self._group = 0
        plain = self._make()
        self._probe(plain)
        if cache_type in BITS:
            self._group = self._group_for(plain)
            plain = self._make()
            self._probe(plain)
        # What each cache looks like after one token, its numbers not computed.
        self._example = plain
        self.layers: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.layers = self._make()

    @property
    def trimmable(self) -> bool:
        """Whether any tokens at the end can be dropped, however long the text is."""
        kinds = {self._kind(layer) for layer in self._example}
        return kinds <= {"KVCache", "QuantizedKVCache"}

    def cut(self, held: int, count: int) -> bool:
        """Drop what comes after the first `count` of `held` tokens; False where that is impossible.

        The state of a recurrent layer cannot be cut, only kept whole.
        """
        if count == held:
            return True
        if not all(layer.is_trimmable() for layer in self.layers):
            return False
        for layer in self.layers:
            layer.trim(held - count)
        return True

    def select(self, rows: Sequence[int]) -> None:
        """Let copies of these rows of the batch stand in place of all.

        Raises:
            BackendError: what a layer keeps is of a kind that has no rows.
        """
        index = self._native.core.array(list(rows))
        for layer in self.layers:
            if self._kind(layer) == "ArraysCache":
                layer.cache = [None if array is None else array[index] for array in layer.cache]
            elif self._kind(layer) in ("KVCache", "QuantizedKVCache"):
                for side in ("keys", "values"):
                    arrays = getattr(layer, side)
                    if isinstance(arrays, tuple | list):
                        setattr(layer, side, tuple(array[index] for array in arrays))
                    elif arrays is not None:
                        setattr(layer, side, arrays[index])
            else:
                raise BackendError(
                    f"MLX's {self._kind(layer)} of this model cannot hold several texts"
                )

    def nbytes(self, size: int) -> int:
        """Give the bytes that `size` tokens take."""
        cells = -(-size // STEP) * STEP
        total = 0
        for layer in self._example:
            grows = hasattr(layer, "offset")
            total += layer.nbytes * cells // STEP if grows else layer.nbytes
        return total

    def computed(self) -> list[Any]:
        """Give the arrays that `mlx.core.eval` has to compute for a text to be evaluated."""
        return [layer.state for layer in self.layers]

    def save(self, path: Path, count: int) -> None:
        """Write what is kept of `count` tokens.

        Raises:
            BackendError: it is of a kind that cannot be written.
            OSError: the file cannot be written.
        """
        mx = self._native.core
        arrays = self._arrays(self.layers, count)
        with path.open("wb") as file:
            mx.save_safetensors(file, arrays)

    def load(self, path: Path, count: int) -> None:
        """Read what `save` wrote of `count` tokens; nothing is kept if it fails.

        Raises:
            BackendError: it is something else.
        """
        mx = self._native.core
        self.reset()
        wanted = self._arrays(self._example, 1)
        try:
            read_safetensors_header(path)
            with path.open("rb") as file:
                found = mx.load(file, format="safetensors")
                if found.keys() != wanted.keys():
                    raise BackendError("it is of another model")
                for name, array in found.items():
                    example = wanted[name]
                    shape = list(example.shape)
                    if ".state" not in name:
                        shape[-2] = count
                    if array.dtype != example.dtype or list(array.shape) != shape:
                        raise BackendError(f"{name} has another type or shape")
                mx.eval(found)
        except (ConvertersError, BackendError, OSError, RuntimeError, ValueError) as error:
            raise BackendError(f"{path}: MLX cannot read its state: {sentence(error)}") from error
        for index, layer in enumerate(self.layers):
            if self._kind(layer) == "ArraysCache":
                layer.cache = [
                    found.get(f"{index}.state.{part}") for part in range(len(layer.cache))
                ]
                continue
            quantized = self._kind(layer) == "QuantizedKVCache"
            for side in ("keys", "values"):
                parts = range(PARTS if quantized else 1)
                arrays = tuple(found[f"{index}.{side}.{part}"] for part in parts)
                setattr(layer, side, arrays if quantized else arrays[0])
            layer.offset = count

    def _arrays(self, layers: Sequence[Any], count: int) -> dict[str, Any]:
        """Give what `count` tokens left, by names."""
        found: dict[str, Any] = {}
        for index, layer in enumerate(layers):
            kind = self._kind(layer)
            if kind == "ArraysCache":
                for part, array in enumerate(layer.cache):
                    if array is not None:
                        found[f"{index}.state.{part}"] = array
            elif kind in ("KVCache", "QuantizedKVCache"):
                for side in ("keys", "values"):
                    arrays = getattr(layer, side)
                    for part, array in enumerate(arrays if kind != "KVCache" else [arrays]):
                        found[f"{index}.{side}.{part}"] = array[..., :count, :]
            else:
                raise BackendError(f"MLX's {kind} of this model cannot be written to a file")
        return found

    def _make(self) -> list[Any]:
        cache = self._native.cache
        found = []
        for layer in cache.make_prompt_cache(self._model):
            kind, window = self._kind(layer), 0
            if kind == "RotatingKVCache" and layer.keep == 0:
                layer, window = cache.KVCache(), layer.max_size
                kind = "KVCache"
            if self._group and kind == "KVCache":
                layer = cache.QuantizedKVCache(self._group, BITS[self._cache_type])
            elif self._group and kind != "ArraysCache":  # which is a state, and no cache of tokens
                raise BackendError(
                    f"MLX's {kind} of this model cannot be kept as {self._cache_type}"
                )
            if window:
                self._hide_before(layer, window)
            found.append(layer)
        return found

    def _hide_before(self, layer: Any, window: int) -> None:
        """Let each token see the last `window` tokens of a cache that keeps all."""
        mask = self._native.cache.create_attention_mask

        def make_mask(
            count: int, *, return_array: bool = False, window_size: int | None = None
        ) -> Any:
            return mask(count, layer.offset, return_array, window_size or window)

        layer.make_mask = make_mask

    def _probe(self, layers: list[Any]) -> None:
        """Lead a token through the model, without computing anything: arrays have shapes then."""
        try:
            self._model(self._native.core.array([[0]]), cache=layers)
        except Exception as error:  # whatever a model cannot do with such a cache
            why = sentence(error) if self._cache_type not in BITS else "its attention reads no such"
            raise BackendError(
                f"MLX's cache of this model cannot be kept as {self._cache_type}: {why}"
            ) from error

    def _group_for(self, layers: list[Any]) -> int:
        sizes = {
            getattr(layer, side).shape[-1]
            for layer in layers
            if self._kind(layer) == "KVCache"
            for side in ("keys", "values")
        }
        if not sizes:
            kinds = ", ".join(sorted({self._kind(layer) for layer in layers}))
            raise BackendError(f"MLX's {kinds} of this model cannot be kept as {self._cache_type}")
        for group in GROUPS:
            if not any(size % group for size in sizes):
                return group
        found = ", ".join(map(str, sorted(sizes)))
        raise BackendError(
            f"MLX's cache of this model cannot be kept as {self._cache_type}: its heads have "
            f"{found} numbers, and groups of {GROUPS[-1]} are quantized"
        )

    @staticmethod
    def _kind(layer: Any) -> str:
        return type(layer).__name__
