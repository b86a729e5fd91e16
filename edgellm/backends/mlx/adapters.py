"""LoRA adapters in MLX: layers of mlx-lm around those of a model, put in and taken out."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm.backends.mlx.library import Library
from edgellm.errors import BackendError
from edgellm_converters.adapters import open_adapter

if TYPE_CHECKING:
    from edgellm.models.adapter import Adapter

__all__ = ["Adapters"]


@dataclass(frozen=True, slots=True)
class _Change:
    """What an adapter adds to a module: `scale * x @ a @ b`, where it counts once."""

    adapter: int
    a: Any
    b: Any
    scale: float


class Adapters:
    """The adapters of a model, and those of its layers that they change.

    mlx-lm's layers (mlx_lm.tuner.lora) compute it, one around the other where several adapters
    change a module. Without any, a module is the one that was loaded.

    Args:
        native: the packages.
        model: mlx-lm's module, which is changed.
        given: adapters in the form of mlx-lm.
        dtype: the type of their matrices; None for their own.

    Raises:
        ConvertersError: a file is not what it was when it was checked.
        BackendError: the model has no such module, or one of another kind or shape.
    """

    def __init__(
        self, native: Library, model: Any, given: Sequence[Adapter], dtype: Any = None
    ) -> None:
        self._native = native
        self._model = model
        self._scales: tuple[float, ...] = (0.0,) * len(given)
        self._modules: dict[str, Any] = {}
        self._changes: dict[str, list[_Change]] = {}
        if not given:
            return
        self._layers = importlib.import_module("mlx_lm.tuner.lora")
        self._nn = importlib.import_module("mlx.nn")
        named = dict(model.named_modules())
        for number, adapter in enumerate(given):
            self._add(number, adapter, named, dtype)

    def use(self, scales: Sequence[float]) -> None:
        """Let each adapter count so many times; 0 leaves it out."""
        wanted = tuple(scales)
        if wanted == self._scales:
            return
        placed = []
        for name, module in self._modules.items():
            layer = module
            for change in self._changes[name]:
                scale = wanted[change.adapter]
                if scale:
                    layer = self._wrapped(module, layer, change, scale)
            placed.append((name, layer))
        self._model.update_modules(self._native.tree.tree_unflatten(placed))
        self._scales = wanted

    def _add(self, number: int, adapter: Adapter, named: dict[str, Any], dtype: Any) -> None:
        mx = self._native.core
        opened = open_adapter(adapter.path)
        for pair in opened.pairs:
            module = named.get(pair.module)
            kind, shape = self._kind(module)
            if not kind:
                why = "which the model does not have" if module is None else "no layer to adapt"
                raise BackendError(
                    f"{adapter.source}: the adapter changes {pair.module}, {why}",
                    hint=f"it says it belongs to {opened.base!r:.100}" if opened.base else None,
                )
            rows, columns = pair.b_shape[-2], pair.a_shape[-1]
            found = (*pair.a_shape[:-2], rows, columns)
            if kind == "LoRAEmbedding":
                found = (columns, rows)
            if found != shape:
                raise BackendError(
                    f"{adapter.source}: {pair.a} and {pair.b} change a weight of the shape "
                    f"{list(found)}, but {pair.module} of the model has {list(shape)}",
                    hint="was the adapter trained on another base?",
                )
            a, b = opened.read(pair)
            if kind != "LoRASwitchLinear":
                a, b = a.T, b.T
            own = {"F16": mx.float16, "BF16": mx.bfloat16}.get(pair.dtype, mx.float32)
            a, b = (mx.array(each).astype(dtype or own) for each in (a, b))
            mx.eval(a, b)
            self._modules[pair.module] = module
            change = _Change(number, a, b, pair.scale)
            self._changes.setdefault(pair.module, []).append(change)

    def _kind(self, module: Any) -> tuple[str, tuple[int, ...]]:
        """Give the layer that can stand around a module, and the shape of its weight."""
        nn, switch = self._nn, importlib.import_module("mlx_lm.models.switch_layers")
        if isinstance(module, switch.SwitchLinear | switch.QuantizedSwitchLinear):
            sizes = (module.num_experts, module.output_dims, module.input_dims)
            return "LoRASwitchLinear", sizes
        plain = isinstance(module, nn.Linear | nn.Embedding)
        if not plain and not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            return "", ()
        rows, columns = module.weight.shape
        if not plain:
            columns = columns * 32 // module.bits
        embedding = isinstance(module, nn.Embedding | nn.QuantizedEmbedding)
        return "LoRAEmbedding" if embedding else "LoRALinear", (rows, columns)

    def _wrapped(self, module: Any, inner: Any, change: _Change, scale: float) -> Any:
        """Put a layer around `inner`, which is the module or a layer around it."""
        kind, _ = self._kind(module)
        layer = getattr(self._layers, kind).from_base(
            module, r=change.a.shape[-1], scale=change.scale * scale
        )
        setattr(layer, "embedding" if kind == "LoRAEmbedding" else "linear", inner)
        layer.lora_a, layer.lora_b = change.a, change.b
        return layer
