"""Measure models: perplexity, and how far they are from a reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.api.adapters import Lora, lora_pairs
from edgellm.backends.base import LoadOptions
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.evaluate.compare import Progress, Result

__all__ = ["measure"]

Reference = str | os.PathLike[str]


def _never() -> bool:
    return False


def measure(
    models: Reference | Sequence[Reference] | None = None,
    *,
    against: Reference | None = None,
    texts: Sequence[str | os.PathLike[str]] = (),
    context: int | None = None,
    max_tokens: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    lora: Lora | Sequence[Lora] = (),
    seed: int = 0,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = _never,
) -> Result:
    """Measure one or several models on texts; with `against`, their distance from that model.

    A text is cut into chunks of the context, and the second half of each chunk is scored, as
    llama-perplexity does it. All models are in memory at once.

    Args:
        models: paths of GGUF files or folders that MLX runs, or names in the store; None takes the
            default model. With several, each further one is compared with the first.
        against: the reference, usually the float model that the others were quantized from.
        texts: files of UTF-8 text; one that ends in .jsonl holds a conversation in each line,
            `{"messages": [{"role", "content"}, ...]}`, which the model's own template renders.
            Without any, the package's own texts: several languages, programs, conversations.
        context: the tokens of a chunk; None takes 512, or what a model was trained on if less.
        max_tokens: how many tokens of each text are used at most; None for all.
        threads: None takes the number of physical cores.
        gpu_layers: layers on an accelerator; None takes all where there is one.
        lora: LoRA adapters, as in `edgellm.load`, with which each model but the reference is
            measured.
        seed: of the bootstrap that compares models, 0 or more.
        progress: called with tokens evaluated and tokens in all.
        cancelled: asked between steps; True stops.

    Returns:
        For each model its scores at each token (nats), and numbers of each text and of all:
        `result.evaluations[0].quality.kld.mean`.

    Raises:
        NotFoundError: a model or a text is not there.
        UsageError: a value out of its range, a text shorter than a chunk, or models of
            different vocabularies.
        ConvertersError: a file is damaged or would harm native code.
        BackendError: a model cannot be run.
        DoesNotFitError: there is not enough memory.
        CancelledError: `cancelled` gave True.
    """
    from edgellm.backends.llama_cpp.library import let_threads_sleep
    from edgellm.evaluate.compare import compare
    from edgellm.evaluate.texts import read_texts
    from edgellm.models.resolve import resolve
    from edgellm.quantization.calibration import evaluation_texts

    let_threads_sleep()
    options = LoadOptions(threads=threads, gpu_layers=gpu_layers)
    if seed < 0:
        raise UsageError(f"seed is {seed}, and must be 0 or more")
    if models is None or isinstance(models, str | os.PathLike):
        given = [None if models is None else os.fspath(models)]
    else:
        given = [os.fspath(model) for model in models]
    paths = [resolve(model, folders=True) for model in given]
    reference = None if against is None else resolve(os.fspath(against), folders=True)
    return compare(
        reference,
        paths,
        read_texts([Path(text) for text in texts]) if texts else evaluation_texts(),
        context=context,
        max_tokens=max_tokens,
        options=options,
        lora=lora_pairs(lora),
        seed=seed,
        progress=progress,
        cancelled=cancelled,
    )
