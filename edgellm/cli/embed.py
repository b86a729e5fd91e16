"""`edgellm embed`: vectors of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.cli.generation import notice, read_stdin
from edgellm.cli.model_options import given_model
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import ProgressBar, terminated_like_interrupted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["command"]

MAX_INPUT = 1 << 30  # bytes of a file of texts
MAX_NOTICES = 5  # texts that are named one by one


@click.command("embed")
@click.argument("words", nargs=-1, metavar="[MODEL] [TEXT]...")
@option("-m", "--model", help="Model: a path, or a name in the store.")
@option(
    "--input",
    "source",
    envvar="EDGELLM_INPUT",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of texts, one a line; in a .jsonl file a line is a JSON string, or an object with "
    'the key "text".  [default: stdin]',
)
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the vectors to this .npy file (numpy, float32) and not to stdout.",
)
@option("--force", is_flag=True, help="Replace the output if it exists.")
@option(
    "--pooling",
    type=click.Choice(["mean", "cls", "last"]),
    help="How the vectors of tokens become one of the text  [default: what the model says].",
)
@option("--prefix", default="", metavar="TEXT", help="Put TEXT before each text.")
@option("--no-normalize", is_flag=True, help="Leave the vectors' lengths as they come.")
@option(
    "--truncate",
    is_flag=True,
    help="Read only the beginning of a text that is longer than the model reads; without it that "
    "is an error.",
)
@option("-t", "--threads", type=int, metavar="N", help="Threads  [default: physical cores].")
@option(
    "-ngl",
    "--gpu-layers",
    type=int,
    metavar="N",
    help="Layers on an accelerator  [default: all, where there is one].",
)
@option(
    "--backend",
    type=click.Choice(["llama_cpp", "mlx"]),
    help="What runs the model; mlx runs no embedding models.",
)
@json_option
def command(
    words: tuple[str, ...],
    model: str | None,
    source: Path | None,
    output: Path | None,
    force: bool,
    pooling: str | None,
    prefix: str,
    no_normalize: bool,
    truncate: bool,
    threads: int | None,
    gpu_layers: int | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Turn texts into vectors whose products say how near the meanings are.

    MODEL is an embedding model: an encoder such as BERT, or a decoder trained for it; with -m all
    words are texts. A text without words around it is a line of stdin or of --input. One line of
    numbers comes out for each text, in their order; the vectors have the length 1.

    \b
    edgellm embed minilm.gguf "a cat by the river" "گربه‌ای کنار رودخانه"
    edgellm embed minilm.gguf --input notes.txt -o notes.npy
    edgellm embed -m e5.gguf --prefix "query: " --json "why is the sky blue?"
    """
    from edgellm.api.embed import load_embedder
    from edgellm.backends.base import CancelledError
    from edgellm.errors import UsageError

    name, texts = _model_and_texts(words, model)
    if texts and source is not None:
        raise click.UsageError("texts are given as words and by --input: one of them, please")
    if output is not None:
        _check_output(output, force)
    if not texts:
        texts = _read(source)
    if not texts:
        raise UsageError("there is no text to embed")
    bar = ProgressBar("embedding", unit="texts")
    shortened: list[tuple[int, int]] = []
    try:
        with (
            terminated_like_interrupted(),
            load_embedder(
                name, pooling=pooling, threads=threads, gpu_layers=gpu_layers, backend=backend
            ) as embedder,
        ):
            vectors = embedder.embed(
                texts,
                prefix=prefix,
                normalize=not no_normalize,
                truncate=truncate,
                cut=lambda index, tokens: shortened.append((index, tokens)),
                progress=bar,
            )
            if output is not None:
                _write(output, vectors, force)
    except CancelledError:
        raise KeyboardInterrupt from None
    finally:
        bar.clear()
    _report(shortened, embedder.max_tokens)
    if as_json:
        body = {
            "embeddings": None if output is not None else [_row(vector) for vector in vectors],
            "output": None if output is None else str(output),
            "texts": len(texts),
            "dimension": embedder.dimension,
            "pooling": embedder.pooling,
            "normalized": not no_normalize,
            "truncated": [{"text": index, "tokens": tokens} for index, tokens in shortened],
            "model": embedder.name,
            "backend": embedder.backend,
        }
        echo_json(body)
    elif output is None:
        for vector in vectors:
            click.echo(" ".join(map(str, vector)))


def _model_and_texts(words: tuple[str, ...], model: str | None) -> tuple[str, list[str]]:
    """Tell the model from the texts: it is the first word, unless -m names it."""
    from edgellm.models.resolve import is_model_reference

    given = given_model()
    if given is not None:
        return given, list(words)
    # EDGELLM_MODEL gives way to a word that can only be a model.
    if words and (model is None or is_model_reference(words[0])):
        return words[0], list(words[1:])
    if model is None:
        raise click.UsageError("there is no model: name one that embeds texts, such as minilm.gguf")
    return model, list(words)


def _read(source: Path | None) -> list[str]:
    """Read texts, one a line, from a file or stdin.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is not UTF-8, too large, or a line is no JSON of a text.
    """
    from edgellm.errors import NotFoundError, UsageError

    if source is None or str(source) == "-":
        piped = read_stdin()
        if piped is None:
            raise click.UsageError("there is no text: give one, or pipe lines in")
        return _lines(piped)
    try:
        with source.open("rb") as file:
            raw = file.read(MAX_INPUT + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no file {source}") from None
    if len(raw) > MAX_INPUT:
        raise UsageError(f"{source} holds more than {MAX_INPUT} bytes")
    try:
        lines = _lines(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text (at byte {error.start})") from error
    if source.suffix.lower() != ".jsonl":
        return lines
    return [_json_text(source, number, line) for number, line in enumerate(lines, 1)]


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def _json_text(source: Path, number: int, line: str) -> str:
    from edgellm.errors import UsageError

    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UsageError(
            f'{source}, line {number}: neither a JSON string nor {{"text": "..."}}',
            hint="a file with another ending holds a text in each line",
        )
    return text


def _check_output(output: Path, force: bool) -> None:
    from edgellm_converters.writers.atomic import check_target

    if output.suffix.lower() != ".npy":
        raise click.UsageError(f"{output}: vectors are written as .npy")
    check_target(output, folder=False, force=force)


def _write(output: Path, vectors: npt.NDArray[np.float32], force: bool) -> None:
    """Write the file, whole or not at all."""
    import numpy as np

    from edgellm_converters.writers.atomic import atomic_file

    with atomic_file(output, force=force) as temporary, temporary.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)


def _report(shortened: list[tuple[int, int]], most: int) -> None:
    for index, tokens in shortened[:MAX_NOTICES]:
        notice(f"edgellm: of text {index + 1}, {most} of {tokens} tokens were read")
    if len(shortened) > MAX_NOTICES:
        notice(f"edgellm: {len(shortened)} texts in all were longer than {most} tokens")


def _row(vector: npt.NDArray[np.float32]) -> list[float]:
    """Give the shortest decimals that stand for these numbers in float32."""
    return [float(str(number)) for number in vector]
