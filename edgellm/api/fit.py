"""From a model's file to what it takes in memory, and how it is loaded so that it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.backends.base import Accelerator, Backend, LoadOptions, get_backend
from edgellm.device.fit import DEFAULT_CONTEXT, Choice, Needs, choose_context, layers_that_fit
from edgellm.device.memory import Runtime, folder_metadata
from edgellm.device.profiles import THIS, get_profile
from edgellm.errors import BackendError, DoesNotFitError

if TYPE_CHECKING:
    from edgellm.api.opened import OpenedModel
    from edgellm_converters.checkpoints.gguf_header import GGUFHeader

__all__ = [
    "accelerators_for",
    "check_branches",
    "checked_needs",
    "fitted",
    "needs_of_header",
    "placed",
]


def needs_of_header(header: GGUFHeader) -> Needs:
    """Read what a GGUF file's model needs from its header."""
    return Needs(header.metadata, {tensor.name: tensor.nbytes for tensor in header.tensors})


def checked_needs(path: Path) -> Needs:
    """Check a GGUF file or model folder before a backend opens it, and read what it needs.

    Raises: what `check_model_file` and `check_model_folder` of `edgellm.models` raise.
    """
    if not path.is_dir():
        from edgellm.models.check import check_model_file

        return needs_of_header(check_model_file(path))
    from edgellm.models.check_folder import check_model_folder

    folder, backend = check_model_folder(path), get_backend("mlx")
    # A processor computes in float32.
    widened = backend.missing() is None and not backend.accelerators()
    factors = {"F16": 2, "BF16": 2} if widened else {}
    return Needs(
        folder_metadata(folder.config),
        {name: t.nbytes * factors.get(t.dtype, 1) for name, t in folder.tensors.items()},
    )


def fitted(
    needs: Needs,
    devices: Sequence[Accelerator],
    *,
    context: int | None,
    cache_type: str,
    name: str,
    enforce: bool,
    reserved: int = 0,
) -> Choice:
    """Choose the context that fits the memory that is free at the moment.

    Args:
        needs: the model.
        devices: what layers can be put on; their own memory counts.
        context: tokens that someone asked for; None to choose.
        cache_type: of keys and values.
        name: the model's, for errors.
        enforce: False takes what was asked for, or the usual context, however much is free.
        reserved: bytes that something else will take.

    Raises:
        DoesNotFitError: it does not fit.
    """
    try:
        available = get_profile(THIS).available
    except BackendError:  # the system does not say: nothing is refused then
        enforce, available = False, 0
    available += sum(device.memory_free for device in devices if not device.unified)
    available = max(0, available - reserved)
    if enforce:
        return choose_context(needs, available, wanted=context, cache=cache_type, name=name)
    usual = context or min(needs.trained_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    return Choice(usual, usual, needs.demand(Runtime(usual, cache_type)), available)


def check_branches(loaded: OpenedModel, tokens: int, count: int) -> None:
    """Refuse several texts at once that do not fit, beside a model that is in memory already.

    Args:
        loaded: the model.
        tokens: of which keys and values are kept.
        count: how many texts.

    Raises:
        DoesNotFitError: the memory that is free does not hold them.
    """
    try:
        available = get_profile(THIS).available
    except BackendError:  # the system does not say
        return
    available += sum(device.memory_free for device in loaded.devices if not device.unified)
    demand = loaded.needs.demand(Runtime(tokens, loaded.cache_type))
    if demand is None:
        return
    logits = 4 * 2 * count * loaded.model.vocabulary_size
    needed = demand.cache + demand.compute + logits
    if needed > available:
        raise DoesNotFitError(
            f"{count} answers at once keep {tokens} tokens, which takes {needed / 1e6:.0f} MB of "
            f"memory, and {available / 1e6:.0f} MB are free",
            hint="fewer answers, or shorter ones (-n), need less, and so does --cache-type q8_0",
        )


def accelerators_for(backend: Backend, options: LoadOptions) -> tuple[Accelerator, ...]:
    """List the accelerators that layers will be put on."""
    if options.gpu_layers == 0:
        return ()
    return tuple(device for device in backend.accelerators() if device.kind != "accel")


def placed(
    needs: Needs,
    devices: Sequence[Accelerator],
    options: LoadOptions,
    *,
    context: int,
    cache_type: str,
) -> LoadOptions:
    """Choose how many layers go to the accelerators, unless someone has; all where they fit."""
    if options.gpu_layers is not None or not devices:
        return options
    free = sum(device.memory_free for device in devices)
    unified = any(device.unified for device in devices)
    runtime = Runtime(context, cache_type, offloaded=True)
    return replace(options, gpu_layers=layers_that_fit(needs, runtime, free, unified=unified))
