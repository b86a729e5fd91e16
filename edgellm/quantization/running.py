"""What a quantization needs of a model that runs: the file, and tokens to calibrate on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import BackendError

if TYPE_CHECKING:
    from edgellm.evaluate.texts import Text
    from edgellm.quantization.calibration import Calibration
    from edgellm_converters.pipeline import Progress

__all__ = ["calibration_chunks", "runnable"]


def runnable(
    source: Path,
    place: Path,
    *,
    allow_nan: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Give a whole GGUF file of a model: itself if it is one, else one that is made at `place`.

    Raises:
        ConvertersError: see its subclasses.
    """
    from edgellm_converters.checkpoints.gguf_split import read_parts
    from edgellm_converters.pipeline import convert

    if source.is_file() and len(read_parts(source)) == 1:
        return source
    if not place.exists():
        convert(source, place, to="gguf", allow_nan=allow_nan, threads=threads, progress=progress)
    return place


def calibration_chunks(
    model: Path, texts: Sequence[Text], tokens: int, seed: int, length: int | None = None
) -> Calibration:
    """Cut texts into chunks of tokens as a model reads them.

    Args:
        model: a GGUF file, checked here.
        texts: plain texts and conversations.
        tokens: how many to take at most.
        seed: of the order of texts.
        length: of a chunk; None takes `CHUNK_TOKENS`, or what the model was trained on where that
            is less.

    Raises:
        ConvertersError: the file must not reach native code.
        BackendError: it cannot be run.
        UsageError: the texts are too short.
    """
    from edgellm.backends.base import LoadOptions, get_backend
    from edgellm.generate.template import ChatTemplate
    from edgellm.models.check import check_model_file
    from edgellm.quantization.calibration import CHUNK_TOKENS, model_chunks

    check_model_file(model)
    backend = get_backend("llama_cpp")
    reason = backend.refusal(model)
    if reason is not None:
        raise BackendError(f"{model}: it cannot be calibrated: {reason}")
    with closing(backend.load(model, LoadOptions(), lambda: False)) as loaded:
        source = loaded.chat_template
        template = None if source is None else ChatTemplate(source)
        longest = loaded.trained_context or CHUNK_TOKENS
        return model_chunks(
            texts,
            loaded,
            template,
            length=length or min(CHUNK_TOKENS, longest),
            tokens=tokens,
            seed=seed,
        )
