"""Write docs/cli-reference.md from the commands themselves; `--check` only compares.

What a command lacks here (help, an example, the text of an option) is an error, so that nothing
reaches a person undocumented.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

import click

from edgellm.cli.main import COMMANDS, cli
from edgellm.settings import VARIABLES

__all__ = ["main", "reference"]

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli-reference.md"
_INTRODUCTION = """\
# The command line

Generated from the commands by `make docs`; a test fails when this page is stale.

Each flag can be set by its environment variable as well; the flag wins. Exit codes are listed in
[exit-codes.md](exit-codes.md).
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare it; the exit status is 1 if something is lacking or stale."""
    parser = argparse.ArgumentParser(description="Write docs/cli-reference.md.")
    parser.add_argument("--check", action="store_true", help="fail if the page is stale")
    options = parser.parse_args(arguments)
    try:
        text = reference()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
            print("docs/cli-reference.md is stale: run `make docs`", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


def reference() -> str:
    """Give the text of the page.

    Raises:
        ValueError: a command has no help or example, or an option has no help.
    """
    parts = [_INTRODUCTION, "## Commands\n"]
    parts.append("".join(f"- [edgellm {name}](#edgellm-{name})\n" for name in COMMANDS))
    root = click.Context(cli, info_name="edgellm")
    for name in COMMANDS:
        command = cli.get_command(root, name)
        if command is None:
            raise ValueError(f"edgellm {name} is in the table, but there is no such command")
        ctx = click.Context(command, info_name=name, parent=root)
        parts.append(describe(command, ctx))
        for inner, each in command.commands.items() if isinstance(command, click.Group) else ():
            parts.append(describe(each, click.Context(each, info_name=inner, parent=ctx)))
    parts.append("## Variables of no single command\n\n| variable | meaning |\n|---|---|")
    parts[-1] += "".join(f"\n| `{name}` | {text} |" for name, text in VARIABLES.items()) + "\n"
    return "\n".join(parts)


def describe(command: click.Command, ctx: click.Context) -> str:
    """Give the section of one command.

    Raises:
        ValueError: see `reference`.
    """
    path = ctx.command_path
    if not command.help:
        raise ValueError(f"{path} has no help")
    body = _paragraphs(inspect.cleandoc(command.help))
    if f"\n{path}" not in body:
        raise ValueError(f"the help of {path} has no example")
    usage = " ".join([path, *command.collect_usage_pieces(ctx)])
    lines = [f"## {path}\n", f"```\n{usage}\n```\n", body]
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(ctx)
        if record is None or not isinstance(parameter, click.Option):
            continue  # arguments are described in the text, hidden options nowhere
        if not parameter.help:
            raise ValueError(f"the option {parameter.name} of {path} has no help")
        rows.append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
    if rows:
        lines.append("\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n")
    return "\n".join(lines)


def _paragraphs(text: str) -> str:
    """Turn click's paragraphs into Markdown; marked ones keep their lines, as examples do."""
    parts = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):
            lines = paragraph[1:].strip("\n")
            parts.append(f"```sh\n{inspect.cleandoc(lines)}\n```\n")
        else:
            parts.append(f"{paragraph.strip()}\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
