"""An adapter folder to a GGUF file for llama.cpp or a folder for mlx-lm."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from edgellm_converters.adapters import mlx, open_adapter
from edgellm_converters.adapters.base import BaseModel, open_base
from edgellm_converters.adapters.carry import carry
from edgellm_converters.adapters.files import CONFIG, Adapter
from edgellm_converters.adapters.layout import Layout
from edgellm_converters.architectures.base import F32, TEXT, Keys, Side
from edgellm_converters.checkpoints.gguf_adapter import ADAPTER, TYPE
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.pipeline import Adapted, ConversionResult
from edgellm_converters.sources.base import check_mlx, provenance
from edgellm_converters.targets import Choice
from edgellm_converters.writers.atomic import (
    atomic_file,
    atomic_folder,
    check_target,
    require_space,
)
from edgellm_converters.writers.folder import FolderSpec, tensor_folder, write_json
from edgellm_converters.writers.gguf import ARCHITECTURE, TensorSpec, gguf_file, pack

__all__ = ["convert_adapter"]


def convert_adapter(
    source: Path, base: Path, target: Path, *, to: Side, dtype: str = "auto", force: bool = False
) -> ConversionResult:
    """Convert an adapter.

    Args:
        source: a folder of PEFT or mlx-lm.
        base: the model that the adapter belongs to, in any layout; it names the tensors.
        target: the file or folder to write.
        to: `Side.GGUF` for a file, `Side.MLX` for a folder of mlx-lm.
        dtype: "f32", "f16" or "bf16"; "auto" keeps the adapter's.
        force: replace a target that exists.

    Raises:
        ConvertersError: see the subclasses; nothing is left at `target` that was not there before.
        QuantError: a value is too large for the type.
    """
    started = time.monotonic()
    if to not in (Side.GGUF, Side.MLX):
        raise UnsupportedError(
            f"{source}: an adapter is written as GGUF or for mlx-lm",
            hint="-o NAME.gguf, or --to mlx",
        )
    check_target(target, folder=to is not Side.GGUF, force=force, source=source)
    adapter, model = open_adapter(source), open_base(base)
    if to is Side.MLX:
        check_mlx(base, model.architecture)
    layout = Layout(carry(adapter, model, to), model.architecture.name, to, dtype)
    write = _write_gguf if to is Side.GGUF else _write_mlx
    digest, written = write(adapter, model, layout, target, force)
    specs = [TensorSpec(each.name, each.shape, each.format) for each in layout.matrices]
    parameters = sum(spec.parameters for spec in specs)
    return ConversionResult(
        source=source,
        output=target,
        bytes=written,
        sha256=digest,
        architecture=model.architecture.name,
        tensors=len(specs),
        parameters=parameters,
        bits_per_weight=8 * written / parameters,
        types=dict(Counter(spec.format.name for spec in specs).most_common()),
        recipe=None,
        fallbacks=(),
        repacks=(),
        notes=tuple(layout.notes),
        seconds=time.monotonic() - started,
        adapted=Adapted(source, len(layout.deltas), layout.rank, merged=False),
    )


def _write_gguf(
    adapter: Adapter, model: BaseModel, layout: Layout, target: Path, force: bool
) -> tuple[str, int]:
    """Write the file with the keys that llama.cpp asks for (src/llama-adapter.cpp)."""
    keys: Keys = {
        ARCHITECTURE: (TEXT, model.architecture.name),
        TYPE: (TEXT, ADAPTER),
        "general.name": (TEXT, adapter.path.resolve().name),
        "adapter.type": (TEXT, "lora"),
        "adapter.lora.alpha": (F32, layout.strength),
        **provenance(adapter.path, Choice([])),
    }
    entries = {key: pack(*value) for key, value in keys.items()}
    specs = [TensorSpec(each.name, each.shape, each.format) for each in layout.matrices]
    require_space(target, sum(spec.nbytes for spec in specs))
    with (
        atomic_file(target, force=force) as temporary,
        gguf_file(temporary, entries, specs) as writer,
    ):
        for blocks in layout.blocks():
            writer.begin()
            writer.write(blocks)
        return writer.finish()


def _write_mlx(
    adapter: Adapter,  # noqa: ARG001
    model: BaseModel,
    layout: Layout,
    target: Path,
    force: bool,
) -> tuple[str, int]:
    """Write the folder: one file of matrices, and what mlx-lm makes layers of."""
    specs = [FolderSpec(each.name, each.shape, each.format) for each in layout.matrices]
    require_space(target, sum(spec.nbytes for spec in specs))
    modules = [delta.step.target.removesuffix(".weight") for delta in layout.deltas]
    config = mlx.mlx_config(modules, model.decoder.layers, layout.rank, layout.strength)
    with (
        atomic_folder(target, force=force) as folder,
        tensor_folder(folder, specs, "mlx", sys.maxsize, mlx.WEIGHTS) as writer,
    ):
        write_json(folder / CONFIG, config)
        for blocks in layout.blocks():
            writer.begin()
            writer.write(blocks)
        return writer.finish()
