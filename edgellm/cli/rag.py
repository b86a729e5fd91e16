"""`edgellm rag`: a person's own documents in a library, and what is found in them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.bidi import bidi_option, shown
from edgellm.cli.main import printable
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.progress import INTERVAL, StatusLine, duration, terminated_like_interrupted
from edgellm.cli.pull import on_terminal
from edgellm.cli.rag_ask import evaluate, hit_json, question
from edgellm.cli.rag_options import db_option, filter_options, read_filters
from edgellm.cli.sizes import human_bytes

if TYPE_CHECKING:
    from edgellm.api.rag import OpenLibrary
    from edgellm.rag.indexing import IndexProgress, IndexReport, Problem
    from edgellm.rag.retrieve import Retrieval

__all__ = ["command"]

MANY = 20  # files that are listed one by one
SHOWN = 300  # characters of a chunk


@click.group("rag", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Search your own documents by words and by meaning, without a network.

    A library is one SQLite file: texts, their places, and vectors of them.

    \b
    edgellm rag add ~/papers
    edgellm rag search "who found the first quasar?"
    edgellm rag ask "who found the first quasar?"
    """


command.add_command(question)
command.add_command(evaluate)


@command.command("add")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@db_option
@option(
    "--embedder",
    metavar="MODEL",
    help="The embedding model: a name in the store, a path, or none for a search by words alone  "
    "[default: the library's; of a new one all-minilm-l6-v2, for English].",
)
@option("--watch", is_flag=True, help="Go on, and index again whenever something changes.")
@option("-t", "--threads", type=int, metavar="N", help="Threads  [default: physical cores].")
@json_option
def add(
    paths: tuple[Path, ...],
    db: Path | None,
    embedder: str | None,
    watch: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Index files and folders, or bring the library up to what they are now.

    What is unchanged or was renamed costs no embedding, and what is gone from a folder is removed
    from the library. What is interrupted goes on where it stopped. Files that cannot be read are
    listed with the reason, and the exit status is then 1 although the others are indexed.

    The default embedder knows English; texts in a script that the embedder does not know are found
    by their words. For Persian and many other languages: multilingual-e5-small,
    embeddinggemma-300m or bge-m3, which `edgellm pull` brings.

    \b
    edgellm rag add ~/papers
    edgellm rag add ~/papers notes.md --watch
    edgellm rag add --db fa.db --embedder multilingual-e5-small ~/متن‌ها
    """
    from edgellm.api.rag import open_library
    from edgellm.backends.base import CancelledError

    bar = IndexBar()
    failed = False
    try:
        with (
            terminated_like_interrupted(),
            open_library(
                db, write=True, embedder=embedder, threads=threads, fetched=bar.line.show
            ) as library,
        ):
            if watch:
                for report in library.watch(paths, progress=bar):
                    bar.clear()
                    if as_json or report.added or report.updated or report.removed or report.failed:
                        _tell_indexed(report, library, as_json)
                    bar.restart()
                return
            report = library.index(paths, progress=bar)
            bar.clear()
            _tell_indexed(report, library, as_json)
            failed = bool(report.failed)
    except CancelledError:
        raise KeyboardInterrupt from None
    finally:
        bar.clear()
    if failed:
        click.get_current_context().exit(1)


class IndexBar:
    """Shows on stderr how far the indexing is, its rate and the time that is left."""

    def __init__(self) -> None:
        self.line = StatusLine()
        self._shown = sys.stderr.isatty()
        self._drawn = False
        self.restart()

    def restart(self) -> None:
        """Begin to count again."""
        self._started = time.monotonic()
        self._next = 0.0

    def __call__(self, progress: IndexProgress) -> None:
        """Draw the line, at most ten times a second."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + INTERVAL
        passed = now - self._started
        text = f"{progress.files_done} of {progress.files} files, {progress.chunks} chunks"
        if passed > 1 and progress.chunks:
            text += f", {progress.chunks / passed:.0f} chunks/s"
        if passed > 2 and progress.bytes_done:
            left = (progress.bytes - progress.bytes_done) * passed / progress.bytes_done
            text += f", {duration(left)} left"
        name = progress.path.rpartition("/")[2]
        self.line.clear()
        click.echo(f"\r\033[K{printable(f'{text}  {name[:40]}')}", nl=False, err=True)
        self._drawn = True

    def clear(self) -> None:
        """Take the line away."""
        self.line.clear()
        if self._drawn:
            click.echo("\r\033[K", nl=False, err=True)


def _tell_indexed(report: IndexReport, library: OpenLibrary, as_json: bool) -> None:
    if as_json:
        echo_json(
            {
                "library": str(library.path),
                "added": report.added,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "renamed": report.renamed,
                "removed": report.removed,
                "failed": [{"path": each.path, "reason": each.reason} for each in report.failed],
                "skipped": [{"path": each.path, "reason": each.reason} for each in report.skipped],
                "chunks": report.chunks,
                "embedded": report.embedded,
                "by_words": report.by_words,
                "seconds": report.seconds,
            }
        )
        return
    counts = [
        (report.added, "added"),
        (report.updated, "updated"),
        (report.unchanged, "unchanged"),
        (report.renamed, "renamed"),
        (report.removed, "removed"),
        (len(report.failed), "failed"),
    ]
    said = ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing to index"
    text = f"{library.path}: {said}; {report.chunks} chunks, {report.embedded} embedded"
    click.echo(printable(f"{text}, {duration(report.seconds)}"))
    _list("not read", report.failed)
    _list("left out", report.skipped)
    if report.by_words:
        click.echo(
            f"{report.by_words} chunks are in a script that {library.facts.embedder} does not "
            "know: they are found by their words. To find them by meaning, use another library "
            "(--db) with --embedder multilingual-e5-small, embeddinggemma-300m or bge-m3.",
            err=True,
        )


def _list(what: str, problems: list[Problem]) -> None:
    for each in problems[:MANY]:
        click.echo(printable(f"{what}: {each.path}: {each.reason}"), err=True)
    if len(problems) > MANY:
        click.echo(f"{what}: {len(problems) - MANY} more (--json lists all)", err=True)


@command.command("search")
@click.argument("question", nargs=-1, required=True, metavar="QUESTION...")
@db_option
@option("-k", "--count", type=int, default=8, show_default=True, help="Hits, at most.")
@option(
    "--per-source",
    type=int,
    default=3,
    show_default=True,
    metavar="N",
    help="Hits of one file, at most; 0 for no limit.",
)
@filter_options
@option(
    "--weight",
    type=float,
    metavar="W",
    help="Share of the meanings in the score, 0 (words alone) to 1  [default: 0.5 where the "
    "embedder knows the script, else 0].",
)
@bidi_option()
@json_option
def search(
    question: tuple[str, ...],
    db: Path | None,
    count: int,
    per_source: int,
    weight: float | None,
    bidi: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Show the passages that answer a question best, with their scores.

    A score is between 0 and 1 and compares the hits of one question. Beside it stand what it is
    made of: BM25 of the words, and the cosine of the meanings.

    \b
    edgellm rag search "how are quasars found?"
    edgellm rag search --type pdf --since 2025-01-01 -k 3 "quasars"
    edgellm rag search --path "notes/*.md" --json "آب‌وهوا"
    """
    from edgellm.api.rag import open_library

    filters = read_filters(values)
    with open_library(db) as library:
        found = library.search(
            " ".join(question),
            count=count,
            per_source=per_source or None,
            filters=filters,
            weight=weight,
        )
    if as_json:
        echo_json(_search_json(found))
        return
    if not found.hits:
        click.echo("nothing is found", err=True)
        return
    click.echo(f"{found.reason}: the meanings' share is {found.dense_weight:g}", err=True)
    for hit in found.hits:
        place = hit.path if hit.page is None else f"{hit.path}, page {hit.page}"
        words = "-" if hit.lexical is None else f"{hit.lexical:.2f}"
        meaning = "-" if hit.dense is None else f"{hit.dense:.3f}"
        click.echo(
            printable(f"{hit.rank}. {hit.score:.3f}  words {words}  meaning {meaning}  {place}")
        )
        text = " ".join(hit.text.split())
        cut = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0] + " ..."
        click.echo(printable(f"   {shown(cut, bidi, os.environ)}\n"))


def _search_json(found: Retrieval) -> dict[str, object]:
    return {
        "hits": [hit_json(hit) for hit in found.hits],
        "dense_weight": found.dense_weight,
        "reason": found.reason,
    }


@command.command("list")
@db_option
@json_option
def list_sources(db: Path | None, as_json: bool) -> None:
    """List what a library holds, files that could not be read among it.

    \b
    edgellm rag list
    """
    from edgellm.api.rag import open_library

    with open_library(db) as library:
        facts, sources = library.facts, library.sources()
    if as_json:
        echo_json(
            {
                "library": str(facts.path),
                "embedder": facts.embedder,
                "dimension": facts.dimension,
                "chunks": facts.chunks,
                "vectors": facts.vectors,
                "bytes": facts.bytes,
                "sources": [
                    {
                        "path": source.path,
                        "bytes": source.size,
                        "changed": source.changed_ns / 1e9,
                        "loader": source.loader,
                        "status": source.status,
                        "error": source.error,
                    }
                    for source in sources
                ],
            }
        )
        return
    for source in sources:
        state = source.loader if source.status == "ok" else f"NOT READ: {source.error}"
        click.echo(printable(f"{source.path}  {human_bytes(source.size)}  {state}"))
    click.echo(
        printable(
            f"{facts.path}: {facts.sources} files, {facts.chunks} chunks, {facts.vectors} vectors "
            f"of {facts.embedder}, {human_bytes(facts.bytes)}"
        ),
        err=True,
    )


@command.command("rm")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@db_option
@option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(paths: tuple[Path, ...], db: Path | None, yes: bool, as_json: bool) -> None:
    """Remove files, or all below folders, from a library; the files themselves stay.

    \b
    edgellm rag rm ~/papers/old -y
    """
    from edgellm.api.rag import open_library

    if not yes and on_terminal() and not click.confirm("Remove from the library?", err=True):
        click.echo("nothing is removed", err=True)
        return
    with open_library(db, write=True) as library:
        removed = library.remove(paths)
    if as_json:
        echo_json({"removed": removed})
        return
    click.echo(f"{len(removed)} files are removed from the library")


@command.command("verify")
@db_option
@option("--no-files", is_flag=True, help="Leave out the files: check the library alone.")
@option("--repair", is_flag=True, help="First make the terms and the index of vectors anew.")
@json_option
def verify(db: Path | None, no_files: bool, repair: bool, as_json: bool) -> None:
    """Check a library: its pages, its tables, its index, and each chunk's place in its file.

    Says what does not hold and what to do about it; the exit status is then 7.

    \b
    edgellm rag verify
    edgellm rag verify --db notes.db --repair
    """
    from edgellm.api.rag import open_library
    from edgellm.errors import CheckFailedError

    with open_library(db, write=repair) as library:
        if repair:
            library.repair()
        checks = library.verify(files=not no_files)
        facts = library.facts
    wrong = [check for check in checks if check.problem is not None]
    if as_json:
        echo_json(
            {
                "library": str(facts.path),
                "holds": not wrong,
                "checks": [
                    {"name": check.name, "problem": check.problem, "repair": check.repair}
                    for check in checks
                ],
            }
        )
    else:
        for check in checks:
            text = "holds" if check.problem is None else f"DOES NOT HOLD: {check.problem}"
            click.echo(printable(f"{check.name}: {text}"))
    if wrong:
        raise CheckFailedError(
            f"{facts.path}: {len(wrong)} of {len(checks)} checks do not hold", hint=wrong[0].repair
        )
