"""What `run` and `chat` share: their options, and text on its way to a terminal."""

from __future__ import annotations

import functools
import io
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgellm.cli.options import echo_json, option
from edgellm.cli.progress import StageBar
from edgellm.cli.sizes import human_bytes, size_or_none

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.generate.engine import GenerateOptions, Generation, GenerationResult
    from edgellm.generate.overflow import ContextChange, ForgottenTurn

__all__ = [
    "cancel_on_interrupt",
    "generate_options",
    "generation_options",
    "given_model",
    "isolated",
    "load_model",
    "loading_options",
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

F = TypeVar("F", bound=Callable[..., Any])
MAX_STDIN = 64_000_000  # bytes; more text than any context holds

# C0 but tab and newline, DEL, and C1: they move the cursor, set titles, answer back. Joiners and
# direction marks are no control characters: Persian needs them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Of every command that runs a model.
_LOADING = (
    option("-t", "--threads", type=int, metavar="N",
           help="Threads; MLX takes none  [default: physical cores]."),
    option("-ngl", "--gpu-layers", type=int, metavar="N",
           help="Layers on an accelerator; MLX takes none  [default: all that fit, where there is "
           "one]."),
    option("--cache-type", type=click.Choice(["f16", "q8_0", "q4_0"]), default="f16",
           show_default=True, help="How the context keeps keys and values."),
    option("--backend", type=click.Choice(["llama_cpp", "mlx"]),
           help="What runs the model  [default: what can run the file]."),
    option("--no-fit", is_flag=True,
           help="Load a model or a context even if it seems not to fit in memory."),
)  # fmt: skip

_OPTIONS = (
    option("-m", "--model", help="Model: a path, or a name in the store."),
    option("-p", "--prompt", help="The prompt, where a positional one could be taken for a model."),
    option("--system", help="System prompt."),
    option("-n", "--predict", type=int, default=-1, metavar="N",
           help="Most tokens of an answer; -1 for no limit but the context."),
    option("--temp", type=float, default=0.8, show_default=True,
           help="Temperature; 0 takes the likeliest token every time."),
    option("--top-k", type=int, default=40, show_default=True,
           help="Choose among the K likeliest tokens; 0 for all."),
    option("--top-p", type=float, default=0.95, show_default=True,
           help="Choose among the likeliest tokens that have this probability together."),
    option("--min-p", type=float, default=0.05, show_default=True,
           help="Drop tokens below this share of the likeliest one's probability."),
    option("--repeat-penalty", type=float, default=1.0, show_default=True,
           help="Make recent tokens less likely; 1 for no change."),
    option("--repeat-last-n", type=int, default=64, show_default=True, metavar="N",
           help="How many tokens count as recent; 0 for none."),
    option("--seed", type=int, default=-1, metavar="N",
           help="The same seed gives the same text; -1 draws one."),
    option("--stop", multiple=True, metavar="TEXT",
           help="End the answer before this text; may be given more than once."),
    option("--ctx", type=int, metavar="N",
           help="Context in tokens  [default: 4096, or less if the model was trained on less or "
           "memory does not hold more]."),
    *_LOADING,
    option("--on-overflow", type=click.Choice(["error", "shift", "summarize"]),
           help="Where the context is full: refuse, drop the oldest turns, or put a summary in "
           "their place; always reported  [default: summarize in a chat, else error]."),
    option("--prompt-cache-size", callback=size_or_none, default="2GB", show_default=True,
           metavar="SIZE", help="Most bytes on disk for states of long prompts, which are not "
           "evaluated again then; 0 for none."),
)  # fmt: skip


def generation_options(function: F) -> F:
    """Add the options of sampling and loading to a command."""
    for add in reversed(_OPTIONS):
        function = add(function)
    return function


def loading_options(function: F) -> F:
    """Add the options of loading alone to a command."""
    for add in reversed(_LOADING):
        function = add(function)
    return function


def given_model() -> str | None:
    """Give the model that `--model` names on the command line.

    EDGELLM_MODEL is a default and gives way to a model among the words; the option does not.
    """
    context = click.get_current_context()
    if context.get_parameter_source("model") is not ParameterSource.COMMANDLINE:
        return None
    value: str | None = context.params["model"]
    return value


def generate_options(values: dict[str, Any]) -> GenerateOptions:
    """Make the options of generation from a command's values; draws the seed if none is given.

    Raises:
        UsageError: a value out of its range.
    """
    from edgellm.backends.base import Sampling
    from edgellm.generate.engine import GenerateOptions

    seed = values["seed"]
    sampling = Sampling(
        temperature=values["temp"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        min_p=values["min_p"],
        repeat_penalty=values["repeat_penalty"],
        repeat_last_n=values["repeat_last_n"],
        seed=drawn_seed() if seed == -1 else seed,
    )
    return GenerateOptions(sampling, values["predict"], tuple(values["stop"]))


def drawn_seed() -> int:
    """Give a seed by chance."""
    return int.from_bytes(os.urandom(4), "big") % (2**32 - 1)


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


def show(generation: Generation) -> GenerationResult:
    """Write the text to stdout as it comes, a newline behind it; gives the result."""
    stdout = sys.stdout
    terminal = stdout.isatty()
    write, flush = stdout.write, stdout.flush
    last = ""
    try:
        for text in generation:
            write(printable_text(text) if terminal else text)
            flush()
            last = text
    finally:  # also before the sentence of an error
        if last and not last.endswith("\n"):
            write("\n")
            flush()
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


def write_answer(loaded: LoadedModel, generation: Generation, *, as_json: bool) -> GenerationResult:
    """Write an answer to stdout: as it comes, or as one JSON object when it is there."""
    restored = loaded.restored_tokens
    try:
        result = generation.read() if as_json else show(generation)
    finally:
        _bar().clear()
    if not as_json:
        return result
    echo_json(
        {
            "text": result.text,
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.prompt_tokens,
            "reused_tokens": result.reused_tokens,
            "restored_tokens": loaded.restored_tokens - restored,
            "completion_tokens": result.completion_tokens,
            "time_to_first_token_s": round(result.time_to_first_token_s, 6),
            "prompt_tokens_per_s": round(result.prompt_tokens_per_s, 3),
            "completion_tokens_per_s": round(result.completion_tokens_per_s, 3),
            "seed": result.seed,
            "context": loaded.context_limit,
            "model": loaded.name,
            "backend": loaded.backend,
            "context_changes": [change.as_dict() for change in result.context_changes],
        }
    )
    return result
