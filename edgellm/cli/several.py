"""`edgellm run` with several answers: sampled, voted on, judged, or searched by beams."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm.cli.generation import load_model, notice, printable_text
from edgellm.cli.options import echo_json, option
from edgellm.cli.progress import StageBar

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.api.samples import AskFields, Beams, Samples
    from edgellm.generate.options import GenerateOptions

__all__ = ["answer_several", "check_several", "several", "several_options"]

F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130

_several = functools.partial(option, section="Several answers")

_OPTIONS = (
    _several("--samples", type=click.IntRange(1, 128), metavar="N",
             help="Write N answers with seeds one after another, all at once; without -n each has "
             "at most 512 tokens."),
    _several("--vote", is_flag=True,
             help="Write the answer that most of the samples give."),
    _several("--vote-by", metavar="WHAT",
             help="What counts as a sample's answer: number (its last one), boxed (in \\\\boxed), "
             "text (all of it), choice:A,B,C (the last of these words), or a regular expression "
             "(the last match, or its first group)  [default: boxed, else number, else text]."),
    _several("--best", type=click.Choice(["likelihood", "judge"]),
             help="Write the best sample: the one whose tokens are likeliest on average, or that a "
             "model judges to be right."),
    _several("--judge", metavar="MODEL",
             help="The model that judges  [default: the one that answers]."),
    _several("--beams", type=click.IntRange(1, 128), metavar="N",
             help="Search the likeliest answer with N beams; nothing is drawn by chance."),
    _several("--length-penalty", type=float, default=1.0, show_default=True, metavar="X",
             help="Of --beams: above 0 favours longer answers, below 0 shorter ones."),
)  # fmt: skip


def several_options(function: F) -> F:
    """Add the options of several answers to a command."""
    for add in reversed(_OPTIONS):
        function = add(function)
    return function


def several(values: dict[str, Any]) -> bool:
    """Tell whether a command's values ask for several answers; those of a chat never do."""
    return values.get("samples") is not None or values.get("beams") is not None


def check_several(values: dict[str, Any]) -> None:
    """Refuse options that have nothing to choose from, or exclude each other.

    Raises:
        click.UsageError: with both names.
    """
    vote = values["vote"] or values["vote_by"] is not None
    for name, given in (("--vote", vote), ("--best", values["best"])):
        if given and values["samples"] is None:
            raise click.UsageError(f"{name} chooses among several answers: give --samples N too")
    if vote and values["best"]:
        raise click.UsageError("--vote and --best both choose an answer: give one of them")
    if values["samples"] is not None and values["beams"] is not None:
        raise click.UsageError("--samples and --beams exclude each other")
    if values["judge"] is not None and values["best"] != "judge":
        raise click.UsageError("--judge needs --best judge")
    if several(values) and values["on_overflow"] not in (None, "error"):
        raise click.UsageError("several answers need a prompt that fits: --on-overflow error")


def answer_several(
    loaded: LoadedModel,
    prompt: str,
    values: dict[str, Any],
    options: GenerateOptions,
    *,
    raw: bool,
    cancel: threading.Event,
    as_json: bool,
) -> int:
    """Answer, write what was asked for, and give the exit status."""
    bar = StageBar()
    asked: AskFields = {
        "system": values["system"],
        "raw": raw,
        "options": options,
        "cancel": cancel,
        "on_progress": bar,
    }
    try:
        if values["beams"] is not None:
            found = loaded.beams(
                prompt, values["beams"], length_penalty=values["length_penalty"], **asked
            )
            cancelled = found.cancelled
            bar.clear()
            _write_beams(loaded, found, as_json=as_json)
        else:
            result = _sampled(loaded, prompt, values, asked, cancel)
            cancelled = result.cancelled
            bar.clear()
            _write_samples(loaded, result, values["best"], as_json=as_json)
    finally:
        bar.clear()
    return INTERRUPTED if cancelled else 0


def _sampled(
    loaded: LoadedModel,
    prompt: str,
    values: dict[str, Any],
    asked: AskFields,
    cancel: threading.Event,
) -> Samples:
    vote = values["vote_by"] or ("auto" if values["vote"] else None)
    n, best = values["samples"], values["best"]
    if values["judge"] is None:
        return loaded.samples(prompt, n, vote=vote, best=best, **asked)
    other = {**values, "ctx": None, "chat_template": None}
    with load_model(values["judge"], other, cancel.is_set) as judge:
        return loaded.samples(prompt, n, best=best, judge=judge, **asked)


def _write_samples(
    loaded: LoadedModel, result: Samples, best: str | None, *, as_json: bool
) -> None:
    count = len(result.candidates)
    if as_json:
        echo_json(
            {
                "text": result.text,
                "answer": result.answer,
                "votes": result.votes,
                "chosen": result.chosen,
                "samples": [candidate.as_dict() for candidate in result.candidates],
                "prompt_tokens": result.prompt_tokens,
                "completion_tokens": result.completion_tokens,
                "prefill_s": round(result.prefill_s, 6),
                "decoding_s": round(result.decoding_s, 6),
                "cancelled": result.cancelled,
                "context": loaded.context_limit,
                "model": loaded.name,
                "backend": loaded.backend,
            }
        )
        return
    if result.chosen is not None:
        chosen = result.candidates[result.chosen]
        click.echo(printable_text(_shown(chosen.sample.text, result.answer)))
        if result.votes:
            tally = ", ".join(f"{answer}: {votes}" for answer, votes in result.votes.items())
            notice(f"votes of {count} answers: {tally}")
        elif best is not None:
            grade = chosen.grade
            why = f"{grade:.0%} right" if grade is not None else "the likeliest"
            notice(f"answer {result.chosen + 1} of {count} (seed {chosen.sample.seed}): {why}")
        return
    for number, candidate in enumerate(result.candidates, 1):
        sample = candidate.sample
        click.echo(f"--- {number} of {count} (seed {sample.seed}, {sample.finish_reason})")
        click.echo(printable_text(sample.text.strip("\n")))


def _shown(text: str, answer: str | None) -> str:
    """Give the answer alone where it was taken out of the text, else the text."""
    from edgellm.generate.vote import plain

    return text.strip("\n") if answer is None or plain(text) == answer else answer


def _write_beams(loaded: LoadedModel, found: Beams, *, as_json: bool) -> None:
    best = found.beams[0] if found.beams else None
    if as_json:
        echo_json(
            {
                "text": None if best is None else best.text,
                "beams": [
                    {
                        "text": beam.text,
                        "finish_reason": beam.finish_reason,
                        "completion_tokens": len(beam.tokens),
                        "log_probability": beam.log_probability,
                        "score": beam.score,
                    }
                    for beam in found.beams
                ],
                "prompt_tokens": found.prompt_tokens,
                "seconds": round(found.seconds, 6),
                "cancelled": found.cancelled,
                "context": loaded.context_limit,
                "model": loaded.name,
                "backend": loaded.backend,
            }
        )
    elif best is not None:
        click.echo(printable_text(best.text.strip("\n")))
