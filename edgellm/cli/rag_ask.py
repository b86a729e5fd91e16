"""`edgellm rag ask` and `edgellm rag eval`: answers from a library, and how good they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm.cli.bidi import LineWriter, bidi_option
from edgellm.cli.generation import (
    cancel_on_interrupt,
    load_model,
    notice,
    prepare_stdout,
    printable_text,
)
from edgellm.cli.model_options import loading_options
from edgellm.cli.options import SectionedCommand, echo_json, json_option, option
from edgellm.cli.progress import StatusLine, terminated_like_interrupted
from edgellm.cli.pull import offer_to_pull
from edgellm.cli.rag_options import db_option, filter_options, read_filters

if TYPE_CHECKING:
    from edgellm.api.ask import Asked, Asking
    from edgellm.rag.grounding import Citation
    from edgellm.rag.retrieve import Hit

__all__ = ["asked_json", "evaluate", "hit_json", "question", "tell_asked", "write_asking"]

F = TypeVar("F", bound=Callable[..., Any])
REFUSED, INTERRUPTED = 7, 130
# What `run` and `chat` have an option for, and these have not.
PLAIN = {"prompt_cache_size": 0, "chat_template": None, "draft": None}
SENTENCES = {
    "nothing": "Nothing like an answer is in the library.",
    "model": "The model finds no answer in what the library has.",
    "quotes": "The model gave quotes that are not in the sources, so that its answer is not shown.",
    "cut": "The answer came to no end, so that it is not shown (-n allows more tokens).",
}


def _model_options(function: F) -> F:
    for add in (
        loading_options,
        option("--ctx", type=int, metavar="N", section="Loading", help="Context in tokens  "
               "[default: 4096, or less if the model was trained on less or memory does not hold "
               "more]."),
        option("-m", "--model", help="Model: a path, or a name in the store."),
        option("-k", "--count", type=click.IntRange(1, 50), default=5, show_default=True,
               help="Chunks that the model is given, at most."),
        option("--no-gate", is_flag=True,
               help="Ask the model even if nothing that was found is like an answer."),
    ):  # fmt: skip
        function = add(function)
    return function


@click.command("ask", cls=SectionedCommand)
@click.argument("words", nargs=-1, required=True, metavar="QUESTION...")
@db_option
@option("-n", "--predict", type=click.IntRange(1), default=400, show_default=True, metavar="N",
        help="Most tokens of the answer with its quotes.")  # fmt: skip
@_model_options
@filter_options
@bidi_option()
@json_option
def question(
    words: tuple[str, ...],
    db: Path | None,
    predict: int,
    count: int,
    no_gate: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Answer a question from your documents, with quotes that are checked, or say it is not there.

    The model copies sentences out of what was found before it answers, and can cite nothing else;
    each quote is then looked for in its source again. What is cited is listed with file and page.
    A question is refused where nothing that was found is like an answer, and where the model says
    so; the exit status is then 7.

    \b
    edgellm rag ask "who found the first quasar?"
    edgellm rag ask --db fa.db -m mine.gguf "بلندی برج میلاد چقدر است؟"
    edgellm rag ask --type pdf --json "who found the first quasar?"
    """
    from edgellm.api.ask import ask
    from edgellm.api.rag import open_library
    from edgellm.backends.base import CancelledError

    prepare_stdout()
    filters = read_filters(values)
    model = values["model"]
    with open_library(db) as library:
        offer_to_pull(model)
        with (
            cancel_on_interrupt() as cancel,
            load_model(model, values | PLAIN, cancel.is_set) as loaded,
        ):
            try:
                asking = ask(
                    library,
                    loaded,
                    " ".join(words),
                    count=count,
                    filters=filters,
                    gated=not no_gate,
                    max_tokens=predict,
                    cancel=cancel,
                )
            except CancelledError:
                raise KeyboardInterrupt from None
            asked = write_asking(asking, as_json=as_json)
            if as_json:
                echo_json(asked_json(asked) | {"model": loaded.name, "backend": loaded.backend})
    if asked.result is not None and asked.result.finish_reason == "cancelled":
        return INTERRUPTED
    return REFUSED if asked.refused else 0


def write_asking(asking: Asking, *, as_json: bool) -> Asked:
    """Write an answer to stdout as it comes, and behind it what it cites to stderr."""
    if as_json:
        return asking.read()
    terminal = sys.stdout.isatty()
    writer = LineWriter()
    try:
        for text in asking:
            writer.write(printable_text(text) if terminal else text)
    finally:
        writer.end()
    tell_asked(asking.result)
    return asking.result


def tell_asked(asked: Asked) -> None:
    """Say what the answer stands on, or why there is none."""
    if asked.left_out and asked.sources:
        notice(f"({asked.left_out} of the chunks that were found did not fit the context)")
    if asked.reason is not None:
        notice(SENTENCES[asked.reason])
        return
    for citation in asked.citations:
        notice(f"[{citation.number}] {_place(citation)}: \u2068{citation.quote}\u2069")


def _place(citation: Citation) -> str:
    return citation.path if citation.page is None else f"{citation.path}, page {citation.page}"


def asked_json(asked: Asked) -> dict[str, Any]:
    """Give what came of a question, as JSON has it."""
    result = asked.result
    return {
        "question": asked.question,
        "answer": asked.answer,
        "refused": asked.refused,
        "reason": asked.reason,
        "citations": [
            {
                "number": citation.number,
                "path": citation.path,
                "page": citation.page,
                "quote": citation.quote,
                "start": citation.start,
                "end": citation.end,
            }
            for citation in asked.citations
        ],
        "hits": [hit_json(hit) for hit in asked.hits],
        "sources": asked.sources,
        "left_out": asked.left_out,
        "prompt_tokens": 0 if result is None else result.prompt_tokens,
        "completion_tokens": 0 if result is None else result.completion_tokens,
    }


def hit_json(hit: Hit) -> dict[str, Any]:
    """Give a chunk that was found, as JSON has it."""
    return {
        "rank": hit.rank,
        "score": hit.score,
        "path": hit.path,
        "page": hit.page,
        "start": hit.start,
        "end": hit.end,
        "heading": hit.heading,
        "text": hit.text,
        "scores": {"lexical": hit.lexical, "dense": hit.dense},
    }


@click.command("eval", cls=SectionedCommand)
@option("--questions", required=True, metavar="FILE", type=click.Path(path_type=Path),
        help="Questions, as JSON lines.")  # fmt: skip
@db_option
@option("--no-answers", is_flag=True, help="Measure what is found alone, and load no model.")
@_model_options
@json_option
def evaluate(
    questions: Path,
    db: Path | None,
    no_answers: bool,
    count: int,
    no_gate: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure on your own questions what a library finds and how a model answers from it.

    Each line of FILE is an object: `question`; `path`, the file (or a list of files) that holds
    the answer, of which the end is enough; `answer`, a text that a right answer or its quotes hold;
    `answerable`, false where the library does not know. Only `question` has to be there.

    \b
    edgellm rag eval --questions mine.jsonl
    edgellm rag eval --questions mine.jsonl --no-answers --json
    """
    from contextlib import nullcontext

    from edgellm.api.rag import open_library
    from edgellm.api.rag_eval import evaluate_library, read_questions
    from edgellm.backends.base import CancelledError

    prepare_stdout()
    asked = read_questions(questions)
    line = StatusLine()
    with open_library(db) as library, terminated_like_interrupted():
        loading = (
            nullcontext()
            if no_answers
            else load_model(values["model"], values | PLAIN, lambda: False)
        )
        with loading as model:
            try:
                report = evaluate_library(
                    library, model, asked, count=count, gated=not no_gate, progress=line.show
                )
            except CancelledError:
                raise KeyboardInterrupt from None
            finally:
                line.clear()
    if as_json:
        echo_json(report.as_dict())
        return
    for text in report.lines():
        click.echo(text)
