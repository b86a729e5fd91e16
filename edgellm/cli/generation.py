"""What `run` and `chat` share: loading a model, and text on its way to a terminal."""

from __future__ import annotations

import functools
import io
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.bidi import LineWriter
from edgellm.cli.options import echo_json
from edgellm.cli.progress import StageBar
from edgellm.cli.sizes import human_bytes
from edgellm.cli.think_options import ThoughtPrinter

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.generate.engine import Generation
    from edgellm.generate.overflow import ContextChange, ForgottenTurn
    from edgellm.generate.result import GenerationResult

__all__ = [
    "cancel_on_interrupt",
    "isolated",
    "load_model",
    "notice",
    "numbered",
    "prepare_stdout",
    "printable_text",
    "read_stdin",
    "show",
    "tell_change",
    "tell_summarizing",
    "write_answer",
]

MAX_STDIN = 64_000_000  # bytes; more text than any context holds

# C0 but tab and newline, DEL, and C1: they move the cursor, set titles, answer back. Joiners and
# direction marks are no control characters: Persian needs them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare_stdout() -> None:
    """Let every character through: a pipe gets UTF-8, a terminal its own encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="replace")


def printable_text(text: str) -> str:
    """Take the characters out of a text that a terminal would obey."""
    return _CONTROL.sub("", text)


def notice(text: str) -> None:
    """Write a line for the person to stderr."""
    click.echo(printable_text(text), err=True)


@functools.cache
def _bar() -> StageBar:
    return StageBar()


def tell_summarizing(done: int, total: int) -> None:
    """Show how a summary is coming, where stderr is a terminal; an answer's end clears it."""
    _bar()("context: summarising", done, total)


def tell_change(change: ContextChange) -> None:
    """Say what left the model's sight."""
    _bar().clear()
    begin = "\n" if change.where == "within" else ""  # the answer's line is not at its end
    notice(
        f"{begin}context: {change.used_tokens:,} tokens for a window of {change.window:,}: "
        f"{_what_changed(change)}"
    )


def _what_changed(change: ContextChange) -> str:
    dropped = f"{change.dropped_tokens:,} tokens"
    if change.turns:
        what = f"{numbered(change.turns)} ({dropped})"
    elif change.what == "summary":
        what = f"the summary ({dropped})"
    else:
        what = f"the text ({dropped})" if change.summary else f"the first {dropped} of the text"
    if change.summary is None:
        why = f" ({change.failure})" if change.failure else ""
        return f"dropped {what}{why}; {change.left_tokens:,} are in use now"
    return (
        f"folded {what} into a summary of {change.summary_tokens:,}; {change.left_tokens:,} are "
        f"in use now. The summary: {isolated(change.summary)}"
    )


def numbered(turns: Sequence[ForgottenTurn]) -> str:
    """Name turns that follow each other by their numbers."""
    first, last = turns[0].number, turns[-1].number
    return f"turn {first}" if first == last else f"turns {first}-{last}"


def isolated(text: str) -> str:
    """Keep a text's direction to itself, on one line: FSI and PDI of Unicode around it."""
    return f"\u2068{' '.join(text.split())}\u2069"


def read_stdin() -> str | None:
    """Read what is piped in; None if stdin is a terminal or closed.

    Raises:
        UsageError: it is not UTF-8 text, or larger than any context.
    """
    from edgellm.errors import UsageError

    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return None
    raw = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(raw) > MAX_STDIN:
        raise UsageError(f"stdin holds more than {MAX_STDIN} bytes")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 text (at byte {error.start})") from error


@contextmanager
def cancel_on_interrupt() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets, in place of KeyboardInterrupt."""
    event = threading.Event()

    def cancel(_signal: int, _frame: types.FrameType | None) -> None:
        event.set()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def show(generation: Generation, think: str | None = None) -> GenerationResult:
    """Write the text to stdout as it comes, a newline behind it; gives the result.

    Thoughts go to stderr, as `think` says: see `edgellm.cli.think_options.ThoughtPrinter`.
    """
    thoughts = ThoughtPrinter(think)
    terminal = sys.stdout.isatty()
    writer = LineWriter()
    try:
        for kind, text in generation.deltas():
            if kind == "thinking":
                thoughts.write(text)
                continue
            thoughts.end()
            writer.write(printable_text(text) if terminal else text)
    finally:  # also before the sentence of an error
        thoughts.end()
        writer.end()
    return generation.result


def load_model(
    model: str | None, values: dict[str, Any], cancelled: Callable[[], bool]
) -> LoadedModel:
    """Load the model with a command's values; Ctrl-C stops that too.

    Raises:
        KeyboardInterrupt: `cancelled` gave True.
        EdgellmError, ConvertersError: what `edgellm.load` raises.
    """
    from edgellm.api.chat import load
    from edgellm.backends.base import CancelledError

    try:
        loaded = load(
            model,
            context=values["ctx"],
            threads=values["threads"],
            gpu_layers=values["gpu_layers"],
            cache_type=values["cache_type"],
            backend=values["backend"],
            fit=not values["no_fit"],
            prompt_cache=values["prompt_cache_size"],
            lora=values["lora"],
            chat_template=_template(values["chat_template"]),
            draft=values["draft"],
            cancelled=cancelled,
        )
    except CancelledError:
        raise KeyboardInterrupt from None
    choice = loaded.choice
    if choice.reduced:
        notice(
            f"edgellm: the context is {choice.context} tokens and not {choice.usual}, so that the "
            f"model fits in the {human_bytes(choice.available)} of memory that are free"
        )
    return loaded


def _template(path: str | None) -> str | None:
    """Read a chat template.

    Raises:
        UsageError: it is no UTF-8 text, or too long for a template.
        OSError: it cannot be read.
    """
    from edgellm.errors import UsageError
    from edgellm.generate.template import MAX_TEMPLATE

    if path is None:
        return None
    with Path(path).open("rb") as file:
        raw = file.read(4 * MAX_TEMPLATE + 1)
    if len(raw) > 4 * MAX_TEMPLATE:
        raise UsageError(f"{path}: too long for a chat template")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (at byte {error.start})") from error


def write_answer(
    loaded: LoadedModel, generation: Generation, *, as_json: bool, think: str | None = None
) -> GenerationResult:
    """Write an answer to stdout: as it comes, or as one JSON object when it is there."""
    restored = loaded.restored_tokens
    try:
        result = generation.read() if as_json else show(generation, think)
    finally:
        _bar().clear()
    if not as_json:
        return result
    echo_json(
        {
            "text": result.text,
            "thinking": result.thinking,
            "finish_reason": result.finish_reason,
            "complete": result.complete,
            "prompt_tokens": result.prompt_tokens,
            "reused_tokens": result.reused_tokens,
            "restored_tokens": loaded.restored_tokens - restored,
            "completion_tokens": result.completion_tokens,
            "thinking_tokens": result.thinking_tokens,
            "drafted_tokens": result.drafted_tokens,
            "accepted_tokens": result.accepted_tokens,
            "time_to_first_token_s": round(result.time_to_first_token_s, 6),
            "prompt_tokens_per_s": round(result.prompt_tokens_per_s, 3),
            "completion_tokens_per_s": round(result.completion_tokens_per_s, 3),
            "seed": result.seed,
            "context": loaded.context_limit,
            "model": loaded.name,
            "backend": loaded.backend,
            "adapters": [
                {"name": each.name, "path": str(each.source), "scale": each.scale}
                for each in loaded.adapters
            ],
            "context_changes": [change.as_dict() for change in result.context_changes],
        }
    )
    return result
