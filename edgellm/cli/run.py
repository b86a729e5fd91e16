"""`edgellm run`: one answer on stdout."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.constraint_options import cut_sentence
from edgellm.cli.generation import (
    cancel_on_interrupt,
    load_model,
    notice,
    prepare_stdout,
    read_stdin,
    tell_change,
    tell_summarizing,
    write_answer,
)
from edgellm.cli.model_options import generate_options, generation_options, given_model
from edgellm.cli.options import SectionedCommand, json_option, option
from edgellm.cli.pull import offer_to_pull
from edgellm.cli.several import answer_several, check_several, several, several_options
from edgellm.cli.think_options import empty_sentence, refuse_thinking
from edgellm.cli.tool_run import answer_with_tools, tool_options

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.generate.engine import Generation
    from edgellm.generate.options import GenerateOptions

__all__ = ["answer", "choose_model_and_prompt", "command"]

INTERRUPTED = 130
NOT_WHOLE = 7  # as other checks that did not hold


@click.command("run", cls=SectionedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@generation_options
@option(
    "--raw",
    is_flag=True,
    help="Continue the prompt as it stands, without the chat template; "
    "the texts of control tokens in it count as these tokens.",
)
@several_options
@tool_options
@json_option
def command(words: tuple[str, ...], raw: bool, as_json: bool, **values: Any) -> int:
    """Write one answer to stdout.

    \b
    edgellm run "Why is the sky blue?"
    edgellm run ./mine.gguf "Why is the sky blue?" --temp 0 -n 100
    edgellm run "Summarise this text:" < report.txt
    edgellm run -m mine.gguf --json "hello"

    What is piped in is appended to the prompt; where it is too long for the context, --on-overflow
    drops its beginning or summarises it, and leaves the prompt whole. A single argument is taken
    for a MODEL if it is a name in the store (or nearly one), ends in .gguf or begins as a path
    does; otherwise it is the prompt for the default model. `-m` and `-p` leave nothing to guess.

    A model without a chat template continues the prompt as it stands.

    With --samples or --beams several answers are written at once, and the prompt is read once:

    \b
    edgellm run "What is 17 + 25?" --samples 15 --vote
    edgellm run "Write a slogan for tea." --samples 5 --best judge

    With --tools the model may call the functions of a Python file, which run in processes of their
    own, and answers with what they give.
    """
    check_several(values)
    model, prompt = choose_model_and_prompt(words, given_model(), values["prompt"])
    text, piped = with_stdin(prompt)
    if text is None:
        of = f" for the model {model}" if model else ""
        raise click.UsageError(f"there is no prompt{of}: give one, or pipe a text in")
    if model is None:
        model = values["model"]
    if values["tools"] is not None:
        if raw:
            raise click.UsageError("--tools and --raw exclude each other")
        if values["samples"] is not None or values["beams"] is not None:
            raise click.UsageError("--tools gives one answer: leave --samples and --beams out")
        return answer_with_tools(model, text, piped, values, as_json=as_json)
    return answer(model, text, piped, values, raw=raw, as_json=as_json)


def choose_model_and_prompt(
    words: tuple[str, ...], model: str | None, prompt: str | None
) -> tuple[str | None, str | None]:
    """Tell the model from the prompt among the positional words.

    Raises:
        click.UsageError: more words than there are places for.
    """
    from edgellm.models.resolve import is_model_reference

    rest = list(words)
    if model is None and rest:
        sure = len(rest) > 1 or prompt is not None
        if sure or is_model_reference(rest[0]):
            model = rest.pop(0)
    if prompt is None and rest:
        prompt = rest.pop(0)
    if rest:
        raise click.UsageError(
            f"unexpected word {rest[0]!r}: a prompt of several words stands in quotes"
        )
    return model, prompt


def with_stdin(prompt: str | None) -> tuple[str | None, str | None]:
    """Give the prompt, and what is piped in (`-` alone stands for it) to be appended to it.

    Without a prompt, what is piped in is one; ("" or None, None) if there is nothing.
    """
    piped = read_stdin()
    if prompt == "-":
        prompt = None
    if not piped or not piped.strip():
        return prompt, None
    return (prompt, piped) if prompt and prompt.strip() else (piped, None)


def answer(
    model: str | None,
    text: str,
    piped: str | None,
    values: dict[str, Any],
    *,
    raw: bool,
    as_json: bool,
) -> int:
    """Load the model, answer once and give the exit status."""
    options = generate_options(values)
    prepare_stdout()
    offer_to_pull(model)
    with cancel_on_interrupt() as cancel, load_model(model, values, cancel.is_set) as loaded:
        if several(values):
            refuse_thinking(values, "more than one answer")
            prompt = text if piped is None else f"{text}\n\n{piped}"
            return answer_several(
                loaded, prompt, values, options, raw=raw, cancel=cancel, as_json=as_json
            )
        generation = _begin(loaded, text, piped, values, options, raw, cancel)
        result = write_answer(loaded, generation, as_json=as_json, think=values["think"])
        empty = empty_sentence(result)
        if empty is not None:
            notice(f"edgellm: {empty}")
        elif result.finish_reason == "context":
            notice(
                f"edgellm: the answer ends here because the context of "
                f"{loaded.context_limit} tokens is full (--ctx makes it larger)"
            )
        cut = cut_sentence(result)
        if cut is not None:
            notice(f"edgellm: {cut}")
    if result.finish_reason == "cancelled":
        return INTERRUPTED
    return NOT_WHOLE if cut is not None else 0


def _begin(
    loaded: LoadedModel,
    text: str,
    piped: str | None,
    values: dict[str, Any],
    options: GenerateOptions,
    raw: bool,
    cancel: threading.Event,
) -> Generation:
    from edgellm.generate.overflow import check_policy

    system, on_overflow = values["system"], check_policy(values["on_overflow"] or "error")
    if raw or not loaded.has_template:
        if system:
            reason = "--raw uses none" if raw else f"{loaded.name} has none"
            raise click.UsageError(f"--system needs a chat template, and {reason}")
        return loaded.complete(
            text if piped is None else f"{text}\n\n{piped}",
            special=raw,
            options=options,
            cancel=cancel,
            on_overflow=on_overflow,
            on_change=tell_change,
        )
    return loaded.stream(
        text,
        document=piped,
        system=system,
        options=options,
        cancel=cancel,
        on_overflow=on_overflow,
        on_change=tell_change,
        on_progress=tell_summarizing,
    )
