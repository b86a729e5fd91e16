"""`edgellm list`: the models in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option
from edgellm.cli.sizes import human_bytes, human_count

if TYPE_CHECKING:
    from edgellm.api.models import ModelSummary

__all__ = ["command"]


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """List the models that are here, and those that can be pulled.

    A GGUF file that is put into the store's folder by hand is listed like the others. The default
    model, which commands take when none is named, is marked with *. SOURCE says where a model came
    from. Pulls that were interrupted are named below.

    \b
    edgellm list
    edgellm list --json
    """
    from edgellm.api.models import available_models, list_models
    from edgellm.api.store import leftovers
    from edgellm.models.store import models_dir

    models = list_models()
    available = available_models()
    partial = leftovers()
    if as_json:
        echo_json(
            {
                "models": [_as_json(model) for model in models],
                "available": [
                    {
                        "name": model.name,
                        "title": model.title,
                        "licence": model.licence,
                        "bytes": model.bytes,
                    }
                    for model in available
                ],
                "partial": [{"name": each.name, "bytes": each.bytes} for each in partial],
            }
        )
        return
    if models:
        for line in _table(models):
            click.echo(line)
        click.echo("")
        if any(model.is_default for model in models):
            click.echo("* the default model")
    else:
        click.echo(f"no models yet in {printable(str(models_dir()))}")
    for each in partial:
        name = printable(each.name)
        click.echo(f"edgellm pull {name}   goes on: {human_bytes(each.bytes)} are here")
    for model in available:
        size = human_bytes(model.bytes)
        click.echo(f"edgellm pull {model.name}   {model.title}, {size}, licence {model.licence}")


def _as_json(model: ModelSummary) -> dict[str, object]:
    return {
        "name": model.name,
        "path": str(model.path),
        "bytes": model.bytes,
        "title": model.title,
        "licence": model.licence,
        "source": model.source,
        "architecture": model.architecture,
        "type": model.type,
        "parameters": model.parameters,
        "default": model.is_default,
        "problem": model.problem,
    }


def _table(models: list[ModelSummary]) -> list[str]:
    rows = [("NAME", "SIZE", "TYPE", "WEIGHTS", "SOURCE", "TITLE"), *map(_row, models)]
    safe = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in safe) for column in range(len(safe[0]) - 1)]
    return [
        "  ".join([*(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in safe
    ]


def _row(model: ModelSummary) -> tuple[str, str, str, str, str, str]:
    return (
        model.name + (" *" if model.is_default else ""),
        human_bytes(model.bytes),
        model.type or "?",
        human_count(model.parameters) if model.parameters is not None else "?",
        model.source,
        f"unreadable: {model.problem}" if model.problem else model.title or "",
    )
