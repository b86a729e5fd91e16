"""The commands of the REPL: one function each, and one table."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.cli.constraint_options import CONSTRAINTS, constraint_of
from edgellm.cli.generation import notice
from edgellm.cli.model_options import SAMPLING_FIELDS, drawn_seed
from edgellm.cli.repl_adapters import adapt
from edgellm.cli.repl_context import show_context
from edgellm.cli.repl_sessions import load, save, show_sessions
from edgellm.cli.think_options import CHOICES, think_of
from edgellm.errors import UsageError
from edgellm.generate.overflow import check_policy

if TYPE_CHECKING:
    from edgellm.cli.repl import Repl

__all__ = ["COMMANDS", "ReplCommand", "find_command"]


@dataclass(frozen=True, slots=True)
class ReplCommand:
    """A command: what follows its name, what it does, and the function that does it.

    The function gets the REPL and the rest of the line; it gives False to leave.
    """

    usage: str
    help: str
    run: Callable[[Repl, str], bool | None]


def show_help(_repl: Repl, _rest: str) -> None:
    """Write the commands and keys to stderr."""
    width = max(len(command.usage) for command in COMMANDS.values()) + 2
    for command in COMMANDS.values():
        notice(f"  {command.usage:<{width}}{command.help}")
    notice('  """ begins and ends a message of several lines; a space before / makes it a message.')
    notice("  Ctrl-C stops an answer, Ctrl-D leaves.")


def leave(_repl: Repl, _rest: str) -> bool:
    """Leave."""
    return False


def clear(repl: Repl, _rest: str) -> None:
    """Forget the conversation."""
    from edgellm.generate.saved import LAST

    repl.conversation.clear()
    stays = "" if repl.name == LAST else f" {repl.name} stays as it was saved."
    repl.rename(LAST)
    notice(f"The conversation is cleared.{stays}")


def system(repl: Repl, rest: str) -> None:
    """Show or set the system prompt."""
    conversation = repl.conversation
    if not rest:
        notice(conversation.system or "(the chat template's own)")
        return
    text = rest[1:-1] if len(rest) >= 2 and rest[0] == rest[-1] == '"' else rest
    if text and not conversation.has_template:
        raise UsageError("this model has no chat template, so it takes no system prompt")
    conversation.system = text or None
    notice("The system prompt is set." if text else "The system prompt is removed.")


# what a person types -> the field of Sampling
SAMPLING_NAMES = {**SAMPLING_FIELDS, "temperature": "temperature", "seed": "seed"}
# what a person types -> the field of GenerateOptions
COUNTS = {
    "predict": "max_tokens",
    "think_budget": "think_budget",
    "think_min": "think_min",
}
OTHER_NAMES = (*COUNTS, "stop", "system", "on_overflow", *CONSTRAINTS)


def set_value(repl: Repl, rest: str) -> None:
    """Set one parameter, or show them all."""
    typed, _, value = rest.partition(" ")
    if not typed:
        show_params(repl)
        return
    name = typed.lower().replace("-", "_")
    value = value.strip()
    if name == "system":
        system(repl, value or '""')
        return
    if name not in SAMPLING_NAMES and name not in OTHER_NAMES:
        raise UsageError(
            f"there is no parameter {typed}", hint=_near(name, [*SAMPLING_NAMES, *OTHER_NAMES])
        )
    options = repl.conversation.options
    if name == "on_overflow":
        if value:
            repl.conversation.on_overflow = check_policy(value)
        notice(f"  {typed:<20}{repl.conversation.on_overflow}")
        return
    if not value and name in SAMPLING_NAMES:
        notice(f"  {typed:<20}{getattr(options.sampling, SAMPLING_NAMES[name])}")
        return
    if name in CONSTRAINTS:
        constraint = constraint_of(name, value) if value else None
        repl.conversation.options = dataclasses.replace(options, constraint=constraint)
        notice(f"{typed} is set." if value else "Answers have no form of their own now.")
        return
    if not value and name in COUNTS:
        notice(f"  {typed:<20}{getattr(options, COUNTS[name])}")
        return
    if name == "stop":
        stop = (*options.stop, _unquoted(value)) if value else ()
        repl.conversation.options = dataclasses.replace(options, stop=stop)
    elif name in COUNTS:
        count: Any = {COUNTS[name]: int(_number(typed, value, int))}
        changed = dataclasses.replace(options, **count)
        if name != "predict":
            repl.conversation.thinking(changed)
        repl.conversation.options = changed
    else:
        field = SAMPLING_NAMES[name]
        number: Any = _number(typed, value, type(getattr(options.sampling, field)))
        if field == "seed" and number == -1:
            number = drawn_seed()
        sampling = dataclasses.replace(options.sampling, **{field: number})
        repl.conversation.options = dataclasses.replace(options, sampling=sampling)
    notice(f"{typed} is set." if value else "There is no stop string now.")


def show_params(repl: Repl) -> None:
    """Write the parameters of the next answer."""
    options = repl.conversation.options
    for name, field in SAMPLING_NAMES.items():
        if name != "temperature":
            notice(f"  {name:<20}{getattr(options.sampling, field)}")
    for name, field in COUNTS.items():
        notice(f"  {name:<20}{getattr(options, field)}")
    notice(f"  {'stop':<20}{', '.join(repr(stop) for stop in options.stop) or '(none)'}")
    notice(f"  {'on_overflow':<20}{repl.conversation.on_overflow}")
    form = options.constraint and " ".join(options.constraint.text.split())
    notice(f"  {'form':<20}{form or '(none)'}")


def show_model(repl: Repl) -> None:
    """Write which model runs, and how."""
    loaded = repl.loaded
    notice(f"  {loaded.name}: {loaded.description}")
    notice(f"  file            {loaded.path}")
    notice(f"  backend         {loaded.backend}")
    notice(f"  context         {loaded.context_limit} of {loaded.trained_context} tokens")


def show_template(repl: Repl) -> None:
    """Write the model's chat template."""
    notice(repl.loaded.template_source or "The model has no chat template.")


def show_history(repl: Repl) -> None:
    """Write the conversation."""
    conversation = repl.conversation
    if conversation.system:
        notice(f"system: {conversation.system}")
    for message in conversation.messages:
        notice(f"{message.role}: {message.content}")
    if not conversation.messages:
        notice("(nothing has been said)")


VIEWS: dict[str, Callable[[Repl], None]] = {
    "model": show_model,
    "params": show_params,
    "template": show_template,
    "system": lambda repl: system(repl, ""),
    "history": show_history,
}


def show_view(repl: Repl, rest: str) -> None:
    """Show the model, the parameters, the template, the system prompt or the history."""
    name = rest.lower() or "model"
    if name not in VIEWS:
        raise UsageError(f"nothing is called {rest}", hint=_near(name, list(VIEWS)))
    VIEWS[name](repl)


def stats(repl: Repl, _rest: str) -> None:
    """Write the numbers of the last answer."""
    last = repl.conversation.last
    if last is None:
        notice("There is no answer yet.")
        return
    evaluated = last.prompt_tokens - last.reused_tokens
    thought = f", {last.thinking_tokens} of thinking" if last.thinking_tokens else ""
    used = repl.conversation.usage().used or last.prompt_tokens + last.completion_tokens
    notice(
        f"  prompt          {last.prompt_tokens} tokens, {last.reused_tokens} kept from before, "
        f"{evaluated} evaluated at {last.prompt_tokens_per_s:.1f} tokens/s"
    )
    notice(f"  first token     after {last.time_to_first_token_s:.3f} s")
    notice(
        f"  answer          {last.completion_tokens} tokens at "
        f"{last.completion_tokens_per_s:.1f} tokens/s ({last.finish_reason}){thought}"
    )
    notice(f"  context         {used} of {repl.conversation.context_size} tokens")
    notice(f"  seed            {last.seed}")


def think(repl: Repl, rest: str) -> None:
    """Show, hide or turn off thoughts, or say which it is."""
    conversation = repl.conversation
    if not rest:
        notice(repl.think or "(as the chat template does by itself)")
        return
    if rest not in CHOICES:
        raise UsageError(f"thoughts cannot be {rest!r}", hint=f"one of: {', '.join(CHOICES)}")
    options = dataclasses.replace(conversation.options, think=think_of(rest))
    if rest == "show":
        conversation.thinking(options)
    conversation.options = options
    repl.think = rest
    done = {"show": "shown", "hide": "hidden", "off": "off"}
    notice(f"Thoughts are {done[rest]}.")


def regenerate(repl: Repl, _rest: str) -> None:
    """Answer the last question again, with another seed."""
    options = repl.conversation.options
    sampling = dataclasses.replace(options.sampling, seed=drawn_seed())
    repl.conversation.options = dataclasses.replace(options, sampling=sampling)
    try:
        repl.answer(repl.conversation.regenerate)
    finally:
        repl.conversation.options = options


COMMANDS: dict[str, ReplCommand] = {
    "/help": ReplCommand("/help", "this list", show_help),
    "/bye": ReplCommand("/bye", "leave", leave),
    "/clear": ReplCommand("/clear", "start a new conversation", clear),
    "/system": ReplCommand(
        "/system [TEXT]", 'show or set the system prompt; "" removes it', system
    ),
    "/think": ReplCommand("/think [show|hide|off]", "show, hide or turn off thoughts", think),
    "/set": ReplCommand("/set [NAME VALUE]", "set a parameter (temp 0.2), or show them", set_value),
    "/show": ReplCommand("/show [VIEW]", f"show one of: {', '.join(VIEWS)}", show_view),
    "/stats": ReplCommand("/stats", "the numbers of the last answer", stats),
    "/lora": ReplCommand(
        "/lora [NAME SCALE]", "list the adapters, or let one count SCALE times (off: 0)", adapt
    ),
    "/ctx": ReplCommand("/ctx", "what fills the context, and what left it", show_context),
    "/save": ReplCommand("/save NAME", "save the conversation, and keep it there", save),
    "/load": ReplCommand("/load NAME", "go on with a saved conversation", load),
    "/sessions": ReplCommand("/sessions", "list the saved conversations", show_sessions),
    "/regen": ReplCommand("/regen", "answer the last question again", regenerate),
}
ALIASES = {"/?": "/help", "/exit": "/bye", "/quit": "/bye", "/regenerate": "/regen"}


def find_command(line: str) -> tuple[ReplCommand, str]:
    """Split a line into its command and the rest.

    Raises:
        UsageError: there is no such command; the hint names the nearest.
    """
    name, _, rest = line.strip().partition(" ")
    name = name.lower()
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "/help lists the commands"
        raise UsageError(f"there is no command {name}", hint=hint)
    command = COMMANDS[name]
    if rest.strip() and command.usage == name:
        raise UsageError(f"{name} takes nothing behind it")
    return command, rest.strip()


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}"


def _number(name: str, value: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(value.replace("\u066b", "."))  # the decimal sign of Persian keyboards
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} takes {what}, not {value!r}") from None


def _unquoted(value: str) -> str:
    """Take quotes off and read \\n and \\t, so that a stop string can be a line's end."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return value.replace("\\n", "\n").replace("\\t", "\t")


def history_file() -> Path:
    """Give the file of typed lines."""
    from edgellm.settings import home_dir

    return home_dir() / "history"
