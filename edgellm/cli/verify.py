"""`edgellm verify`: does a model keep what its receipt says?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import StageBar, terminated_like_interrupted

if TYPE_CHECKING:
    from edgellm.api.verify import Verification

__all__ = ["command"]


@click.command("verify")
@click.argument("model")
@option(
    "--receipt",
    is_flag=True,
    help="Check the receipt: the hash of the tensors, and what was measured, measured again.",
)
@option("--against", metavar="SOURCE", help="What the model was quantized from.")
@option(
    "--text", multiple=True, metavar="FILE", help="A text that the receipt measured on. Repeat."
)
@option("-t", "--threads", type=click.IntRange(1), help="Cores to use.  [default: all]")
@json_option
def command(
    model: str,
    receipt: bool,
    against: str | None,
    text: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> None:
    """Check that a quantized model is what its receipt says.

    The hash of its tensors and, on the texts that are at hand, its perplexity are checked from the
    model alone. With --against the source, its hash and the KL divergence are checked too. Another
    processor rounds otherwise, so perplexity may differ by 2 % and divergence by 15 %. What does
    not hold ends with exit code 7.

    \b
    edgellm verify mine-q4.gguf --receipt
    edgellm verify mine-q4.gguf --receipt --against mine.gguf
    """
    from edgellm.errors import CheckFailedError

    if not receipt:
        raise click.UsageError("say what to check: --receipt", ctx=click.get_current_context())
    from edgellm.api.verify import verify_receipt
    from edgellm.quantization.job import Watcher

    bar = StageBar()
    with terminated_like_interrupted():
        try:
            found = verify_receipt(
                model, against=against, text=text, threads=threads, watcher=Watcher(stage=bar)
            )
        finally:
            bar.clear()
    if as_json:
        echo_json(_json(found))
    else:
        for line in _lines(found):
            click.echo(printable(line))
    broken = [check.name for check in found.checks if not check.holds]
    if broken:
        raise CheckFailedError(f"{model}: what its receipt says does not hold: {', '.join(broken)}")


def _json(found: Verification) -> dict[str, Any]:
    return {
        "model": str(found.model),
        "holds": found.holds,
        "checks": [
            {"name": each.name, "said": each.said, "found": each.found, "holds": each.holds}
            for each in found.checks
        ],
        "skipped": list(found.skipped),
    }


def _lines(found: Verification) -> list[str]:
    lines = [
        f"{'ok' if each.holds else 'WRONG':<6} {each.name}: {each.found}"
        + ("" if each.said == each.found else f" (the receipt says {each.said})")
        for each in found.checks
    ]
    return [*lines, *(f"skipped {each}" for each in found.skipped)]
