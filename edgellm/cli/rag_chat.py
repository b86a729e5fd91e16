"""`edgellm chat --rag`: a conversation whose every answer comes from a library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.cli.errors import describe
from edgellm.cli.generation import cancel_on_interrupt, load_model, notice, prepare_stdout
from edgellm.cli.options import echo_json
from edgellm.cli.pull import offer_to_pull
from edgellm.cli.rag_ask import asked_json, write_asking

if TYPE_CHECKING:
    from edgellm.api.ask import LibraryTalk
    from edgellm.api.chat import LoadedModel
    from edgellm.cli.repl_input import LineReader

__all__ = ["talk_about"]

DEFAULT = "default"
HELP = """\
  /clear   forget the questions so far
  /bye     leave (Ctrl-D does so too)
Every other line is a question. Answers come from the library alone."""


def talk_about(library: str, model: str | None, values: dict[str, Any], *, as_json: bool) -> int:
    """Answer questions from a library until the person leaves.

    Args:
        library: its file; "default" for the default one.
        model: the model's reference.
        values: of `edgellm chat`.
        as_json: write an object for each answer.

    Raises:
        EdgellmError: the library or the model cannot be opened; without a person, also what goes
            wrong with a question.
    """
    from edgellm.api.ask import LibraryTalk
    from edgellm.api.rag import open_library
    from edgellm.cli.repl_commands import history_file
    from edgellm.cli.repl_input import PipeReader, TerminalReader

    prepare_stdout()
    with open_library(None if library == DEFAULT else Path(library)) as opened:
        offer_to_pull(model)
        with cancel_on_interrupt() as cancel:
            loaded = load_model(model, values, cancel.is_set)
        with loaded:
            terminal = sys.stdin is not None and sys.stdin.isatty()
            reader = TerminalReader(history_file()) if terminal else PipeReader()
            if terminal:
                facts = opened.facts
                notice(
                    f"{loaded.name} answers from {facts.path} ({facts.sources} files, "
                    f"{facts.chunks} chunks). /help lists commands."
                )
            talk = LibraryTalk(opened, loaded)
            try:
                while _turn(talk, loaded, reader, as_json=as_json):
                    pass
            finally:
                reader.close()
    return 0


def _turn(talk: LibraryTalk, loaded: LoadedModel, reader: LineReader, *, as_json: bool) -> bool:
    """Read and do one thing; False to leave."""
    from edgellm.backends.base import CancelledError
    from edgellm.cli.repl_input import read_message
    from edgellm.errors import EdgellmError

    try:
        message = read_message(reader)
        if message is None or message.strip() in ("/bye", "/exit", "/quit"):
            return False
        if message.strip() == "/clear":
            talk.turns.clear()
            notice("The questions so far are forgotten.")
        elif message.strip() in ("/help", "/?"):
            notice(HELP)
        elif message.startswith("/"):
            notice(f"edgellm: there is no command {message.split()[0]} here; /help lists them")
        elif message.strip():
            with cancel_on_interrupt() as cancel:
                asking = talk.ask(message, cancel=cancel)
                asked = write_asking(asking, as_json=as_json)
            if asked.result is not None and asked.result.finish_reason == "cancelled":
                notice("(stopped)")
                return True
            talk.keep(message, asked)
            if as_json:
                echo_json(asked_json(asked) | {"model": loaded.name, "backend": loaded.backend})
    except (KeyboardInterrupt, CancelledError):
        notice("\n(Ctrl-D or /bye leaves)")
    except EdgellmError as error:
        if not reader.interactive:
            raise
        _, _, sentence, hint = describe(error)
        notice(f"edgellm: {sentence}" + (f"\n  hint: {hint}" if hint else ""))
    return True
