"""The command group, and the table-driven way from an exception to a sentence and an exit code."""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import click

from edgellm.cli.options import JSON_KEY, EnvOption

__all__ = ["COMMANDS", "cli", "run"]

# name -> the module in edgellm.cli that holds a click command called `command`.
COMMANDS: dict[str, str] = {
    "run": "edgellm.cli.run",
    "chat": "edgellm.cli.chat",
    "convert": "edgellm.cli.convert",
    "quantize": "edgellm.cli.quantize",
    "eval": "edgellm.cli.eval",
    "embed": "edgellm.cli.embed",
    "tokenize": "edgellm.cli.tokenize",
    "rag": "edgellm.cli.rag",
    "show": "edgellm.cli.show",
    "list": "edgellm.cli.list",
    "pull": "edgellm.cli.pull",
    "rm": "edgellm.cli.rm",
    "cp": "edgellm.cli.cp",
    "verify": "edgellm.cli.verify",
    "bundle": "edgellm.cli.bundle",
    "deploy": "edgellm.cli.deploy",
    "bench": "edgellm.cli.bench",
    "doctor": "edgellm.cli.doctor",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed, in the order of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Give the names in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name]).command
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name]}.command is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest name for a command that does not exist."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ask = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{ask}", ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every flag can be set by the EDGELLM_* variable that its help names. "
    "EDGELLM_HOME moves the store, EDGELLM_DEBUG=1 shows tracebacks.",
)
@click.version_option(None, "-V", "--version", package_name="edgellm")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Convert, quantize and run language models on this device, offline.

    \b
    edgellm chat                                   talk to the default model
    edgellm run "Why is the sky blue?"             one answer on stdout
    edgellm convert ./my-finetune -o mine.gguf     Hugging Face -> GGUF
    edgellm quantize mine.gguf --bits 4 -o m4.gguf
    """
    from edgellm.settings import check_environment

    check_environment(lambda: option_variables(ctx))


def option_variables(ctx: click.Context) -> set[str]:
    """Collect the environment variables that the options of all commands read."""
    found: set[str] = set()
    for name in COMMANDS:
        command = cli.get_command(ctx, name)
        inner = list(command.commands.values()) if isinstance(command, click.Group) else []
        for each in [command, *inner]:
            for parameter in each.params if each else []:
                if isinstance(parameter, EnvOption) and isinstance(parameter.envvar, str):
                    found.add(parameter.envvar)
    return found


def run(args: list[str] | None = None) -> int:
    """Run the command line and give its exit status; nothing but SystemExit leaves it."""
    args = list(sys.argv[1:] if args is None else args)
    # A usage error can come before the options are read, so that meta does not know of --json yet.
    if os.environ.get("EDGELLM_DEBUG") == "1":
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("edgellm").setLevel(logging.DEBUG)
    options = args[: args.index("--")] if "--" in args else args
    meta: dict[str, Any] = {JSON_KEY: "--json" in options}
    try:
        with cli.make_context("edgellm", list(args)) as ctx:
            ctx.meta.update(meta)
            meta = ctx.meta
            status = cli.invoke(ctx)
            sys.stdout.flush()
            return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, and nobody to say it to.
        silence(sys.stdout)
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=bool(meta.get(JSON_KEY)))


def report(error: BaseException, *, as_json: bool) -> int:
    """Write the sentence to stderr (and JSON to stdout where asked) and give the exit status."""
    if os.environ.get("EDGELLM_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    from edgellm.cli.errors import describe

    code, status, message, hint = describe(error)
    # A message may quote a hostile file: control characters must not reach the terminal.
    message = printable(message)
    say(f"edgellm: {message}", err=True)
    if hint:
        say(f"  hint: {printable(hint)}", err=True)
    if as_json:
        body = {"error": {"code": code, "message": message, "hint": hint}}
        say(json.dumps(body, ensure_ascii=False))
    return status


def say(text: str, *, err: bool = False) -> None:
    """Write a line; a stream that takes nothing (a closed pipe, a full disk) is given up."""
    try:
        click.echo(text, err=err)
    except OSError:
        silence(sys.stderr if err else sys.stdout)


def silence(stream: TextIO) -> None:
    """Lead a stream to the null device, so that its last flush, at the exit, does not fail."""
    with suppress(OSError):  # it has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """Replace control characters (but newline) by their escapes."""
    return "".join(
        c
        if c == "\n" or (c.isprintable() or c == "\u200c")
        else c.encode("unicode_escape").decode()
        for c in text
    )
