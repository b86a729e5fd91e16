"""From a model's name to a model in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgellm.api.adapters import Lora, lora_pairs, with_adapters
from edgellm.api.draft import DraftModel
from edgellm.api.fit import checked_needs
from edgellm.api.loaded import LoadedModel
from edgellm.backends.base import LoadOptions
from edgellm.models.adapter import prepare_adapters

__all__ = ["load"]


def _never() -> bool:
    return False


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    cache_type: str = "f16",
    backend: str | None = None,
    fit: bool = True,
    prompt_cache: int = 0,
    chat_template: str | None = None,
    lora: Lora | Sequence[Lora] = (),
    draft: str | os.PathLike[str] | None = None,
    cancelled: Callable[[], bool] = _never,
) -> LoadedModel:
    """Find a model, check its file and load it.

    Args:
        model: a path, a name in the store or a built-in name; None takes the default model.
        context: the most tokens of prompt and answer together; None takes 4096, or what the model
            was trained on, or what fits in the memory that is free, whichever is least.
        threads: None takes the number of physical cores.
        gpu_layers: layers on an accelerator; None takes all that fit where there is one.
        cache_type: how the context keeps keys and values: f16, q8_0 or q4_0.
        backend: the backend's name; None takes the first that can run the file.
        fit: refuse a model, or a context that was asked for, that seems not to fit in memory.
        prompt_cache: the most bytes on disk for states of long prompts, so that another process
            need not evaluate them again; 0 writes and reads none.
        chat_template: a Jinja chat template in place of the model's own.
        lora: LoRA adapters: a GGUF file, or a folder of PEFT or mlx-lm, as `FILE[:SCALE]` or a
            pair (file, scale). Those of another form than the backend loads are converted, once.
        draft: a smaller model of the same vocabulary, which guesses what this one writes.
        cancelled: asked while the model is loaded; True stops that.

    Raises:
        NotFoundError: there is no such model, or no such adapter.
        DoesNotFitError: `fit`, and it does not.
        ConvertersError: a file is damaged or would harm native code, or an adapter belongs to
            another model.
        BackendError: no backend can run it.
        UsageError: a value out of its range, or a draft model of another vocabulary.
        CancelledError: `cancelled` gave True.
    """
    from edgellm.models.resolve import resolve

    options = LoadOptions(threads=threads, gpu_layers=gpu_layers)
    reference = None if model is None else os.fspath(model)
    path = resolve(reference)
    needs = checked_needs(path)
    adapters = prepare_adapters(lora_pairs(lora), path)
    return LoadedModel(
        path,
        replace(options, adapters=adapters),
        needs=with_adapters(needs, adapters),
        context=context,
        cache_type=cache_type,
        name=reference,
        backend=backend,
        fit=fit,
        prompt_cache=prompt_cache,
        chat_template=chat_template,
        draft=None if draft is None else DraftModel(resolve(os.fspath(draft))),
        cancelled=cancelled,
    )
