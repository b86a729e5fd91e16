"""`edgellm run --tools`: calls are shown and asked for, and the answer alone goes to stdout."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm.cli.generation import (
    cancel_on_interrupt,
    load_model,
    notice,
    prepare_stdout,
    printable_text,
)
from edgellm.cli.model_options import generate_options
from edgellm.cli.options import echo_json, option
from edgellm.cli.pull import offer_to_pull

if TYPE_CHECKING:
    from edgellm.api.agent import ToolResult, ToolRun, ToolRunResult
    from edgellm.api.chat import LoadedModel
    from edgellm.generate.template import ToolCall

__all__ = ["answer_with_tools", "tool_options"]

F = TypeVar("F", bound=Callable[..., Any])
MAX_SHOWN = 600  # characters of a result

_tools = functools.partial(option, section="Tools")
_OPTIONS = (
    _tools("--tools", type=click.Path(dir_okay=False), metavar="FILE.py",
           help="Let the model call the typed functions of a Python file; each call is shown, and "
           "asked for before it runs."),
    _tools("--yes", is_flag=True, help="Run calls without asking."),
    _tools("--max-steps", type=int, default=8, show_default=True, metavar="N",
           help="How often the model may call before it is asked for its answer."),
    _tools("--tool-timeout", type=float, default=30, show_default=True, metavar="S",
           help="Seconds after which a tool is stopped."),
    _tools("--tool-style", type=click.Choice(["auto", "template", "react"]), default="auto",
           show_default=True, help="How calls are written: as the model's template has it, or as "
           "thoughts and actions in plain text, where the template takes no tools."),
    _tools("--tool-choice", type=click.Choice(["auto", "required"]), default="auto",
           show_default=True, help="Whether the model has to call at least once."),
)  # fmt: skip


def tool_options(function: F) -> F:
    """Add the options of tools to a command."""
    for add in reversed(_OPTIONS):
        function = add(function)
    return function


def answer_with_tools(
    model: str | None, text: str, piped: str | None, values: dict[str, Any], *, as_json: bool
) -> int:
    """Load the tools and the model, answer once and give the exit status.

    Raises:
        UsageError: calls are to be asked for and nobody can answer, or the context is to be
            shortened, which calls and results do not take.
    """
    from edgellm.errors import UsageError
    from edgellm.generate.toolfile import ToolFile

    if values["on_overflow"] not in (None, "error"):
        raise UsageError("--tools keeps all that was called in the context: --on-overflow is error")
    options = generate_options(values)
    asking = not values["yes"]
    if asking and not sys.stdin.isatty():
        raise UsageError(
            "each call of a tool is asked for, and stdin is no terminal to answer on",
            hint="--yes runs calls without asking",
        )
    box = ToolFile(values["tools"], timeout=values["tool_timeout"])
    prepare_stdout()
    offer_to_pull(model)
    with cancel_on_interrupt() as cancel, load_model(model, values, cancel.is_set) as loaded:
        run = loaded.run_tools(
            text,
            box,
            document=piped,
            system=values["system"],
            max_steps=values["max_steps"],
            style=values["tool_style"],
            choice=values["tool_choice"],
            approve=functools.partial(_ask, cancel) if asking else None,
            options=options,
            cancel=cancel,
        )
        _show(run, as_json=as_json)
        if as_json:
            _echo(loaded, run.result)
    return 130 if run.result.finish_reason == "cancelled" else 0


def _show(run: ToolRun, *, as_json: bool) -> None:
    """Write the answer to stdout as it comes, and what else happens to stderr."""
    from edgellm.api.agent import TextDelta, Thought, ToolResult

    terminal = sys.stdout.isatty()
    last = ""
    try:
        for event in run:
            if isinstance(event, TextDelta):
                if not as_json:
                    last = printable_text(event.text) if terminal else event.text
                    sys.stdout.write(last)
                    sys.stdout.flush()
            elif isinstance(event, Thought):
                notice(f"thought: {event.text}")
            elif isinstance(event, ToolResult):
                _tell_result(event)
            else:
                arguments = json.dumps(dict(event.arguments), ensure_ascii=False)
                notice(f"call: {event.name} {arguments}")
    finally:  # also before the sentence of an error
        if last and not last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
    if run.result.steps_used_up:
        notice("edgellm: the steps are used up (--max-steps), so the model was asked to answer")


def _tell_result(result: ToolResult) -> None:
    text = result.text if len(result.text) <= MAX_SHOWN else f"{result.text[:MAX_SHOWN]}..."
    lines = "\n  ".join(text.splitlines())
    notice(f"result: {lines}" if result.ok else f"no result: {lines}")


def _ask(cancel: threading.Event, call: ToolCall) -> bool:
    """Ask whether a call may run; Ctrl-C there ends all."""
    click.echo(f"run {printable_text(call.name)}? [y/N] ", nl=False, err=True)
    # Here Ctrl-C has to end the waiting for a line, and not only set the event.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        click.echo(err=True)
        cancel.set()
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    return line.strip().lower() in ("y", "yes")


def _echo(loaded: LoadedModel, result: ToolRunResult) -> None:
    echo_json(
        {
            "text": result.text,
            "finish_reason": result.finish_reason,
            "tool_style": result.style,
            "steps": result.steps,
            "steps_used_up": result.steps_used_up,
            "calls": [
                {
                    "name": each.call.name,
                    "arguments": dict(each.call.arguments),
                    "result": each.text,
                    "ok": each.ok,
                    "ran": each.ran,
                    "cut": each.cut,
                    "seconds": round(each.seconds, 3),
                }
                for each in result.results
            ],
            "prompt_tokens": result.prompt_tokens,
            "reused_tokens": result.reused_tokens,
            "completion_tokens": result.completion_tokens,
            "seconds": round(result.seconds, 3),
            "seed": result.seed,
            "context": loaded.context_limit,
            "model": loaded.name,
            "backend": loaded.backend,
        }
    )
