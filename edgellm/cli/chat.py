"""`edgellm chat`: a conversation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.generation import (
    cancel_on_interrupt,
    load_model,
    notice,
    prepare_stdout,
    tell_change,
    tell_summarizing,
)
from edgellm.cli.model_options import generate_options, generation_options, given_model
from edgellm.cli.options import SectionedCommand, json_option, option
from edgellm.cli.pull import offer_to_pull
from edgellm.cli.rag_chat import talk_about
from edgellm.cli.repl_adapters import adapters_there
from edgellm.cli.run import answer, with_stdin

if TYPE_CHECKING:
    from edgellm.generate.saved import SavedSession

__all__ = ["command"]


@click.command("chat", cls=SectionedCommand)
@click.argument("model_word", required=False, metavar="[MODEL]")
@click.argument("prompt_word", required=False, metavar="[PROMPT]")
@generation_options
@option(
    "-c",
    "--continue",
    "continue_last",
    envvar="EDGELLM_CONTINUE",
    is_flag=True,
    help="Go on with the last conversation, and its model if no other is given.",
)
@option(
    "--session",
    metavar="NAME",
    help="Go on with the conversation of that name, or begin it; it is kept at every turn.",
)
@option(
    "--rag",
    metavar="FILE",
    help="Answer every question from this library of documents (see `edgellm rag`), with quotes "
    "that are checked; `default` names the default one.",
)
@json_option
def command(
    model_word: str | None,
    prompt_word: str | None,
    continue_last: bool,
    session: str | None,
    rag: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Talk to a model.

    \b
    edgellm chat                            the default model
    edgellm chat ./mine.gguf --system "Answer in Persian."
    edgellm chat --continue                 go on where you left
    edgellm chat --session work             a conversation with a name
    edgellm chat --rag papers.db            answers from a library of your documents
    edgellm chat -p "hello" < notes.txt     one answer, as `edgellm run` gives it

    Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands. Answers go to stdout, all else
    to stderr. Without a terminal every line of stdin is a message. With a PROMPT it answers once.
    --json writes one object a line for each answer.

    A model without a chat template continues each text as it stands.
    """
    if model_word and given_model():
        raise click.UsageError(f"the model is given twice: {given_model()} and {model_word}")
    if prompt_word and values["prompt"]:
        raise click.UsageError("the prompt is given twice")
    prompt = prompt_word or values["prompt"]
    if model_word and prompt is None and " " in model_word and not Path(model_word).exists():
        raise click.UsageError(f"{model_word!r} is no model; for one answer: -p {model_word!r}")
    model = values["model"] if model_word is None else model_word
    if rag is not None:
        for flag, given in (
            ("a prompt", prompt),
            ("--session", session),
            ("--continue", continue_last),
            ("--system", values["system"]),
        ):
            if given:
                raise click.UsageError(f"--rag goes without {flag}: see `edgellm rag ask`")
        return talk_about(rag, model, values, as_json=as_json)
    if continue_last and session:
        raise click.UsageError("--continue and --session both name a conversation")
    if prompt is not None:
        if continue_last or session:
            flag = "--continue" if continue_last else "--session"
            raise click.UsageError(f"{flag} goes on with a conversation: it takes no prompt")
        text, piped = with_stdin(prompt)
        return answer(model, text or prompt, piped, values, raw=False, as_json=as_json)
    name, saved = opened(session, continue_last=continue_last)
    if saved is not None and saved.model and not model_word and not given_model():
        model = saved.model
    return talk(model, values, name, saved, as_json=as_json)


def opened(session: str | None, *, continue_last: bool) -> tuple[str, SavedSession | None]:
    """Give the name of the conversation, and what is saved of it; None if it begins.

    Raises:
        EdgellmError: there is none to go on with, or it cannot be read.
    """
    from edgellm.generate.saved import LAST, is_saved, load_session, session_names

    if continue_last:
        session = (*session_names(), LAST)[0]
    elif session is None or not is_saved(session):
        return session or LAST, None
    return session, load_session(session)


def talk(
    model: str | None,
    values: dict[str, Any],
    name: str,
    session: SavedSession | None,
    *,
    as_json: bool,
) -> int:
    """Load the model and run the REPL."""
    from edgellm.cli.repl import Repl
    from edgellm.cli.repl_commands import history_file
    from edgellm.cli.repl_input import PipeReader, TerminalReader
    from edgellm.errors import NotFoundError

    options = generate_options(values)
    if session is not None and not values["lora"] and model == session.model:
        values["lora"] = adapters_there(session.adapters)
    prepare_stdout()
    offer_to_pull(model)
    try:
        with cancel_on_interrupt() as cancel:
            loaded = load_model(model, values, cancel.is_set)
    except NotFoundError as error:
        if session is None or model != session.model:
            raise
        raise NotFoundError(
            f"the conversation {name} was with {model}, which is not there any more",
            hint="-m MODEL goes on with another model",
        ) from error
    with loaded:
        terminal = sys.stdin is not None and sys.stdin.isatty()
        reader = TerminalReader(history_file()) if terminal else PipeReader()
        conversation = loaded.conversation(
            system=values["system"],
            options=options,
            on_overflow=values["on_overflow"],
            on_change=tell_change,
            on_progress=tell_summarizing,
        )
        repl = Repl(
            loaded,
            conversation,
            reader,
            model=model,
            name=name,
            as_json=as_json,
            think=values["think"],
        )
        if session is not None:
            repl.restore(session)
            if terminal:
                turns = len(session.messages) // 2
                notice(f"Going on with {name}: {turns} questions with their answers.")
                repl.tell_other_model(session)
            if values["system"]:
                conversation.system = values["system"]
        repl.run()
    return 0
