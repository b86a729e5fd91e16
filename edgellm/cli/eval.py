"""`edgellm eval`: how good a model is, and how far from the one that it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.main import printable, say
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import ProgressBar

if TYPE_CHECKING:
    from edgellm.evaluate.bootstrap import Comparison, Interval
    from edgellm.evaluate.compare import Evaluation, Result
    from edgellm.evaluate.limits import Limits
    from edgellm.evaluate.quality import Quality

__all__ = ["command"]


@click.command("eval")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@option(
    "--against",
    metavar="REF",
    help="The model to compare with, usually the float one: adds KL divergence and agreement.",
)
@option(
    "--text",
    "texts",
    envvar="EDGELLM_TEXT",
    multiple=True,
    metavar="FILE",
    help="Text to measure on; may be given more than once. A .jsonl file holds conversations, "
    "rendered with the model's chat template.  [default: texts of several languages, programs and "
    "conversations that come with edgellm]",
)
@option(
    "--ctx",
    type=int,
    metavar="N",
    help="Tokens of a chunk, of which the second half is scored.  [default: 512, or what a model "
    "was trained on if less]",
)
@option("--max-tokens", type=int, metavar="N", help="Use at most N tokens of each text.")
@option("--max-kld", type=float, metavar="X", help="Fail if the mean KL divergence is over X.")
@option(
    "--max-perplexity-ratio",
    type=float,
    metavar="X",
    help="Fail if the perplexity is over X times the reference's.",
)
@option("--min-top1", type=float, metavar="PERCENT", help="Fail if the agreement is under it.")
@option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the bootstrap that compares models.",
)
@option("-t", "--threads", type=int, metavar="N", help="Threads  [default: physical cores].")
@option(
    "-ngl",
    "--gpu-layers",
    type=int,
    metavar="N",
    help="Layers on an accelerator  [default: all, where there is one].",
)
@option(
    "--lora",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="Measure MODEL with this LoRA adapter; may be given more than once.",
)
@json_option
def command(
    models: tuple[str, ...],
    against: str | None,
    texts: tuple[str, ...],
    ctx: int | None,
    max_tokens: int | None,
    max_kld: float | None,
    max_perplexity_ratio: float | None,
    min_top1: float | None,
    seed: int,
    threads: int | None,
    gpu_layers: int | None,
    lora: tuple[str, ...],
    as_json: bool,
) -> int:
    """Measure a model's perplexity, and its distance from another model.

    MODEL is a GGUF file, a name in the store, or a folder that MLX runs; without it, the default
    model. With --against, the KL divergence of its predictions from the reference's is measured at
    each token, and how often both think the same token likeliest. Of several models each further
    one is compared with the first on the same tokens, with 95 % intervals of a paired bootstrap. A
    limit that does not hold gives exit status 7.

    \b
    edgellm eval mine-q4.gguf --against mine-f16.gguf
    edgellm eval mine-q4.gguf --against mine-f16.gguf --text book.txt --text chats.jsonl
    edgellm eval a.gguf b.gguf --against f16.gguf --text book.txt --max-kld 0.05
    """
    from edgellm.api.evaluate import measure
    from edgellm.errors import CheckFailedError
    from edgellm.evaluate.limits import Limits

    limits = Limits(max_kld, max_perplexity_ratio, min_top1)
    if limits.given and against is None:
        raise click.UsageError("limits are on what is measured with --against")
    bar = ProgressBar("measuring", unit="tokens")
    try:
        result = measure(
            models or None,
            against=against,
            texts=texts,
            context=ctx,
            max_tokens=max_tokens,
            threads=threads,
            gpu_layers=gpu_layers,
            lora=lora,
            seed=seed,
            progress=bar,
        )
    finally:
        bar.clear()
    broken = _broken(result, limits)
    if not as_json:
        for line in _lines(result):
            click.echo(printable(line))
        if broken:
            raise CheckFailedError(broken)
        return 0
    body = _as_json(result)
    if broken:
        from edgellm.cli.errors import describe

        code, status, message, hint = describe(CheckFailedError(broken))
        body["error"] = {"code": code, "message": message, "hint": hint}
        say(f"edgellm: {printable(message)}", err=True)
        echo_json(body)
        return status
    echo_json(body)
    return 0


def _broken(result: Result, limits: Limits) -> str:
    """Give one sentence on all limits that do not hold; empty if all do."""
    if not limits.given:
        return ""
    return "; ".join(
        f"{evaluation.model}: {', '.join(sentences)}"
        for evaluation in result.evaluations
        if (sentences := limits.broken(evaluation.quality))
    )


# --- for programs --------------------------------------------------------------------------------


def _as_json(result: Result) -> dict[str, Any]:
    """Give the first model's numbers, and below them those of all."""
    models = [_evaluation(each) for each in result.evaluations]
    return {
        **models[0],
        "reference": None if result.reference is None else str(result.reference),
        "context": result.context,
        "models": models,
        "comparisons": [
            {"model": str(evaluation.model), **_comparison(comparison)}
            for evaluation, comparison in zip(
                result.evaluations[1:], result.comparisons, strict=True
            )
        ],
        "seed": result.seed,
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model": str(evaluation.model),
        **_quality(evaluation.quality),
        "texts": [{"name": each.name, **_quality(each.quality)} for each in evaluation.scores],
    }


def _quality(quality: Quality) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tokens": quality.tokens,
        "perplexity": _finite(quality.perplexity),
        "perplexity_error": _finite(quality.perplexity_error),
    }
    kld = quality.kld
    if kld is None:
        return found
    return found | {
        "reference_perplexity": _finite(quality.reference_perplexity),
        "reference_perplexity_error": _finite(quality.reference_perplexity_error),
        "perplexity_ratio": _finite(quality.perplexity_ratio),
        "perplexity_ratio_error": _finite(quality.perplexity_ratio_error),
        "kld": {
            "mean": kld.mean,
            "error": kld.error,
            "median": kld.median,
            "p99": kld.p99,
            "p999": kld.p999,
            "max": kld.maximum,
        },
        "top1_agreement": quality.top1_agreement,
        "top1_agreement_error": quality.top1_agreement_error,
    }


def _comparison(comparison: Comparison | None) -> dict[str, Any]:
    names = ("log_perplexity_difference", "kld_difference", "kld_ratio")
    values = ((name, getattr(comparison, name, None)) for name in names)
    return {
        name: None if each is None else {"value": each.value, "low": each.low, "high": each.high}
        for name, each in values
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: null stands for it."""
    return value if value is not None and math.isfinite(value) else None


# --- for people ----------------------------------------------------------------------------------


def _lines(result: Result) -> Iterator[str]:
    first = result.evaluations[0].quality
    yield f"context {result.context}, {first.tokens:,} tokens scored; perplexities ± standard error"
    if result.reference is not None:
        yield (
            f"reference {result.reference}: perplexity "
            f"{_with_error(first.reference_perplexity, first.reference_perplexity_error)}"
        )
        yield "KL divergences in nats a token"
    rows = [_header(result)]
    for evaluation in result.evaluations:
        rows.append([str(evaluation.model)])
        if len(evaluation.scores) > 1:
            rows += [_row(f"  {each.name}", each.quality) for each in evaluation.scores]
            rows.append(_row("  all", evaluation.quality))
        else:
            rows.append(_row(f"  {evaluation.scores[0].name}", evaluation.quality))
    yield ""
    yield from _table(rows)
    for evaluation, comparison in zip(result.evaluations[1:], result.comparisons, strict=True):
        yield ""
        yield f"{evaluation.model} against {result.evaluations[0].model}, 95 % intervals:"
        yield from _compared(comparison)


def _header(result: Result) -> list[str]:
    header = ["", "tokens", "perplexity"]
    if result.reference is not None:
        header += ["ratio", "mean KLD", "median", "99 %", "99.9 %", "top-1"]
    return header


def _row(name: str, quality: Quality) -> list[str]:
    row = [name, f"{quality.tokens:,}", _with_error(quality.perplexity, quality.perplexity_error)]
    kld = quality.kld
    if kld is not None:
        row += [
            f"{quality.perplexity_ratio:.4f}",
            *(f"{value:.5f}" for value in (kld.mean, kld.median, kld.p99, kld.p999)),
            f"{quality.top1_agreement:.2f} %",
        ]
    return row


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align cells; a row of one cell is a title and may be longer than its column."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(len(row[column]) for row in full) for column in range(len(full[0]))]
    for row in rows:
        if len(row) == 1:
            yield row[0]
            continue
        cells = [f"{row[0]:{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells)


def _compared(comparison: Comparison | None) -> Iterator[str]:
    if comparison is None:
        yield "  fewer than two chunks: no interval can be given"
        return
    difference = comparison.log_perplexity_difference
    low, value, high = (
        math.exp(min(x, 700)) for x in (difference.low, difference.value, difference.high)
    )
    yield f"  perplexity   {value:.4f} times ({low:.4f} to {high:.4f})"
    if comparison.kld_difference is not None:
        yield f"  mean KLD     {_interval(comparison.kld_difference, '+.5f')}"
    if comparison.kld_ratio is not None:
        yield f"               {_interval(comparison.kld_ratio, '.4f', ' times')}"


def _interval(each: Interval, form: str, unit: str = "") -> str:
    return f"{each.value:{form}}{unit} ({each.low:{form}} to {each.high:{form}})"


def _with_error(value: float | None, error: float | None) -> str:
    return f"{value:.4f} ± {error:.4f}"
