"""How every command declares its options: with its EDGELLM_* variable, and `--json` alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = [
    "JSON_KEY",
    "EnvOption",
    "SectionedCommand",
    "echo_json",
    "json_option",
    "option",
]

JSON_KEY = "edgellm.json"
F = TypeVar("F", bound=Callable[..., Any])


class EnvOption(click.Option):
    """An option that is read from EDGELLM_<NAME> too, and says so in the help text.

    Attributes:
        section: the heading that it stands under in the help of a `SectionedCommand`.
    """

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        self.section = section
        kwargs.setdefault("show_envvar", True)
        super().__init__(*args, **kwargs)
        if self.envvar is None and self.name:
            self.envvar = "EDGELLM_" + self.name.upper()

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Read the variable; several texts stand on a line each, so that one may hold spaces."""
        text = self.resolve_envvar_value(ctx)
        if text is not None and self.multiple and self.type is click.STRING:
            return text.split("\n")
        return super().value_from_envvar(ctx)


class SectionedCommand(click.Command):
    """A command of many options, which stand in sections in its help text."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, in the order in which their first options were declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                name = parameter.section if isinstance(parameter, EnvOption) else "Options"
                sections.setdefault(name, []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


def option(*names: str, **kwargs: Any) -> Callable[[F], F]:
    """Declare an option as `click.option` does, with its environment variable and `section`."""
    return click.option(*names, cls=EnvOption, **kwargs)


def json_option(function: F) -> F:
    """Add `--json`, remembered where the error handler can see it."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        if value:
            ctx.find_root().meta[JSON_KEY] = True
        return value

    return option(
        "--json",
        "as_json",
        envvar="EDGELLM_JSON",
        is_flag=True,
        is_eager=True,
        callback=remember,
        help="Write one JSON object to stdout.",
    )(function)


# Left as they are by json.dumps, but commands to a terminal, marks that turn a line around, or
# halves of a character that cannot be written: they are escaped as JSON escapes the others.
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def echo_json(value: object) -> None:
    """Write one JSON object as one line to stdout, non-ASCII text as it is."""
    text = json.dumps(value, ensure_ascii=False)
    click.echo(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
