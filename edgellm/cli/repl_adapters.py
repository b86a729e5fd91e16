"""`/lora`: the adapters of the model in a conversation, and how many times each counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.cli.generation import notice
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.cli.repl import Repl

__all__ = ["adapt", "adapters_there", "restore_adapters"]

WORDS = {"off": 0.0, "on": 1.0}


def adapt(repl: Repl, rest: str) -> None:
    """List the adapters, or let one count another number of times from the next answer on."""
    loaded = repl.loaded
    if not rest:
        width = max((len(each.name) for each in loaded.adapters), default=0)
        for each in loaded.adapters:
            notice(f"  {each.name:<{width}}  {_scale(each.scale):>5}  {each.source}")
        if not loaded.adapters:
            notice("No adapter is loaded: --lora FILE loads one at the start.")
        return
    name, _, word = rest.rpartition(" ")
    if not name:
        raise UsageError("/lora takes a name and a scale", hint=f"/lora {rest} 0.5, or off")
    loaded.adapt({name.strip(): _number(word)})
    notice(f"{name.strip()} is {_scale(_number(word))} from the next answer on.")


def restore_adapters(loaded: LoadedModel, saved: Sequence[tuple[str, float]]) -> list[str]:
    """Give adapters the scales of a saved conversation, 0 without; gives those that are not there.

    Which of them are loaded is decided when the program starts.
    """
    scales = dict(saved)
    there = {str(each.source.resolve()): each.name for each in loaded.adapters}
    loaded.adapt({name: scales.get(path, 0.0) for path, name in there.items()})
    return [path for path, scale in saved if scale and path not in there]


def adapters_there(saved: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Give those of a saved conversation whose files are there, and say which are not."""
    for path, scale in saved:
        if scale and not Path(path).exists():
            notice(f"(It was with the adapter {path}, which is not there any more.)")
    return [each for each in saved if Path(each[0]).exists()]


def _scale(scale: float) -> str:
    return f"{scale:g}" if scale else "off"


def _number(word: str) -> float:
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    try:
        return float(word.replace("\u066b", "."))  # the decimal sign of Persian keyboards
    except ValueError:
        raise UsageError(f"a scale is a number, off or on, not {word!r}") from None
