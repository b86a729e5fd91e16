"""`edgellm verify`: are models whole, and do they keep what their receipts say?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import StageBar, StatusLine, terminated_like_interrupted

if TYPE_CHECKING:
    from edgellm.api.verify import Verification

__all__ = ["command"]


@click.command("verify")
@click.argument("models", nargs=-1, metavar="[NAME...]")
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
    models: tuple[str, ...],
    receipt: bool,
    against: str | None,
    text: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> None:
    """Check that models are whole; with --receipt, that one is what its receipt says.

    Without --receipt the files of the models (of all in the store, if none is named) are hashed
    and compared with the sha256 that was written down when they came. A file that was put there by
    hand has none: its header is checked.

    With --receipt, a GGUF file or MLX folder may be given too. The hash of its tensors and, on the
    texts that are at hand, its perplexity are checked from the model alone. With --against the
    source, its hash and the KL divergence are checked as well. Another processor rounds otherwise,
    so perplexity may differ by 2 % and divergence by 15 %.

    A bundle (.tar, .tar.gz, .tar.zst) is checked file by file against the hashes in it; nothing of
    it is run.

    What does not hold ends with exit code 7; a bundle that was changed, with 5.

    \b
    edgellm verify
    edgellm verify Qwen/Qwen3-0.6B-GGUF:Q8_0
    edgellm verify assistant.tar
    edgellm verify mine-q4.gguf --receipt
    edgellm verify mine-q4.gguf --receipt --against mine.gguf
    """
    if not receipt:
        from edgellm.api.bundle import is_bundle

        if against or text or threads:
            raise click.UsageError("--against, --text and --threads belong to --receipt")
        if len(models) == 1 and is_bundle(models[0]):
            verify_archive(models[0], as_json=as_json)
        else:
            verify_files(models, as_json=as_json)
        return
    if len(models) != 1:
        raise click.UsageError("--receipt checks one model: give its name or file")
    model = models[0]
    from edgellm.api.verify import verify_receipt
    from edgellm.errors import CheckFailedError
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


def verify_archive(path: str, *, as_json: bool) -> None:
    """Check every file of a bundle."""
    from edgellm.api.bundle import verify_bundle

    line = StatusLine()
    with terminated_like_interrupted():
        try:
            found = verify_bundle(path, progress=line.show)
        finally:
            line.clear()
    if as_json:
        echo_json(
            {
                "path": str(found.path),
                "fingerprint": found.fingerprint,
                "target": found.target,
                "model": found.model,
                "files": found.files,
            }
        )
        return
    click.echo(
        printable(
            f"ok     {found.path}: {found.files} files for {found.target}, "
            f"version {found.fingerprint[:12]}"
        )
    )


def verify_files(names: tuple[str, ...], *, as_json: bool) -> None:
    """Check models of the store against their manifests.

    Raises:
        CheckFailedError: a model is not what it was when it came.
    """
    from edgellm.api.store import verify_models
    from edgellm.errors import CheckFailedError

    line = StatusLine()
    with terminated_like_interrupted():
        try:
            found = verify_models(names, progress=line.show)
        finally:
            line.clear()
    if as_json:
        echo_json({"models": [{**asdict(each), "path": str(each.path)} for each in found]})
    else:
        for each in found:
            if each.problem:
                click.echo(printable(f"WRONG  {each.name}: {each.problem}"))
            elif each.holds is None:
                click.echo(
                    printable(f"?      {each.name}: no sha256 is known, its header is right")
                )
            else:
                click.echo(printable(f"ok     {each.name}: sha256 {each.sha256}"))
    wrong = [each.name for each in found if each.problem]
    if wrong:
        raise CheckFailedError(
            f"not what it was when it came: {', '.join(wrong)}",
            hint="edgellm pull brings a built-in model or one of the hub again",
        )


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
