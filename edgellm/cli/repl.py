"""The conversation in a terminal: stdout carries the answers alone, everything else is stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgellm.api.chat import LoadedModel
from edgellm.cli.constraint_options import cut_sentence
from edgellm.cli.errors import describe
from edgellm.cli.generation import cancel_on_interrupt, notice, write_answer
from edgellm.cli.repl_commands import find_command
from edgellm.cli.repl_input import LineReader, read_message
from edgellm.cli.think_options import empty_sentence
from edgellm.errors import EdgellmError
from edgellm.generate.conversation import Conversation
from edgellm.generate.engine import Generation
from edgellm.generate.saved import LAST, SavedSession, save_session

__all__ = ["Repl"]


class Repl:
    """Reads messages and commands until the person leaves.

    With a person, an error is a sentence and the conversation goes on; with a pipe, it ends the
    program with its exit code, because nobody is there to read it.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        conversation: Conversation,
        reader: LineReader,
        *,
        model: str | None,
        name: str = LAST,
        as_json: bool = False,
        think: str | None = None,
    ) -> None:
        """Take what it needs.

        Args:
            loaded: the model.
            conversation: on that model.
            reader: where messages and commands come from.
            model: the reference that a saved conversation names.
            name: what the conversation is kept as; without a name of its own it is kept only for a
                person, and not for a pipe.
            as_json: whether answers are JSON objects.
            think: where thoughts go; see `edgellm.cli.think_options.ThoughtPrinter`.
        """
        self.loaded = loaded
        self.conversation = conversation
        self._reader = reader
        self._model = model
        self._as_json = as_json
        self.think = think
        self.name = name
        self._keeps = reader.interactive or name != LAST

    def run(self) -> None:
        """Go on until Ctrl-D, the end of the pipe, or /bye."""
        if self._reader.interactive:
            self._greet()
        try:
            while self._turn():
                pass
        finally:
            self._reader.close()

    def answer(self, ask: Callable[..., Generation]) -> None:
        """Write an answer; Ctrl-C ends the answer and not the program."""
        with cancel_on_interrupt() as cancel:
            result = write_answer(
                self.loaded, ask(cancel=cancel), as_json=self._as_json, think=self.think
            )
        if result.finish_reason == "cancelled":
            notice("(stopped)")
        elif (empty := empty_sentence(result)) is not None:
            notice(f"({empty})")
        elif result.finish_reason == "context":
            notice(
                f"(the context of {self.conversation.context_size} tokens is full: the answer ends "
                "here; /clear starts a new conversation)"
            )
        elif (cut := cut_sentence(result)) is not None:
            notice(f"({cut})")
        if self._keeps:
            self._keep()

    def session(self) -> SavedSession:
        """Give the conversation as it is saved."""
        model = self._model
        if model is not None and Path(model).is_file():
            model = str(Path(model).resolve())  # a relative path means nothing elsewhere
        talk = self.conversation
        return SavedSession(
            model,
            talk.system,
            tuple(talk.messages),
            talk.summary,
            talk.forgotten,
            tuple((str(each.source.resolve()), each.scale) for each in self.loaded.adapters),
        )

    def rename(self, name: str) -> None:
        """Keep the conversation under another name from now on."""
        self.name = name
        self._keeps = self._reader.interactive or name != LAST

    def restore(self, session: SavedSession) -> None:
        """Go on with a saved conversation."""
        self.conversation.restore(session.messages, session.summary, session.forgotten)
        self.conversation.system = session.system if self.conversation.has_template else None

    def tell_other_model(self, session: SavedSession) -> None:
        """Say so where a saved conversation was with another model."""
        if session.model != self.session().model:
            notice(f"(It was with {session.model or 'the default model'}.)")

    def _turn(self) -> bool:
        """Read and do one thing; False to leave."""
        try:
            message = read_message(self._reader)
            if message is None:
                return False
            if not message.strip():
                return True
            if message.startswith("/") and "\n" not in message:
                command, rest = find_command(message)
                return command.run(self, rest) is not False
            self.answer(lambda **cancel: self.conversation.ask(message, **cancel))
        except KeyboardInterrupt:
            notice("\n(Ctrl-D or /bye leaves)")
        except (EdgellmError, OSError) as error:
            if not self._reader.interactive or isinstance(error, BrokenPipeError):
                raise
            _, _, sentence, hint = describe(error)
            notice(f"edgellm: {sentence}")
            if hint:
                notice(f"  hint: {hint}")
        return True

    def _greet(self) -> None:
        notice(
            f"{self.loaded.name} ({self.loaded.description}), "
            f"{self.loaded.context_limit} tokens of context. /help lists commands."
        )
        if not self.conversation.has_template:
            notice(
                "This model has no chat template: it continues each text you type, "
                "and remembers nothing."
            )

    def _keep(self) -> None:
        """Keep the conversation; say once if that does not work."""
        try:
            save_session(self.name, self.session())
        except OSError as error:
            self._keeps = False
            notice(f"edgellm: the conversation cannot be kept ({error.strerror})")
