"""A progress bar on stderr, and an end of the process that leaves no half-written file."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from edgellm.cli.main import printable
from edgellm.cli.sizes import human_bytes, human_time

__all__ = ["ProgressBar", "StageBar", "StatusLine", "duration", "terminated_like_interrupted"]

WIDTH = 30
INTERVAL = 0.1  # seconds between two drawings


class ProgressBar:
    """Shows what is done of all there is, where stderr is a terminal.

    Bytes with their speed; with a `unit`, so many of that and the time left.
    """

    def __init__(self, label: str, *, unit: str | None = None) -> None:
        self._label = label
        self._unit = unit
        self._shown = sys.stderr.isatty()
        self._drawn = False
        self._next = 0.0
        self._started = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Draw the bar, at most ten times a second."""
        now = time.monotonic()
        if not self._shown or (now < self._next and done < total):
            return
        self._next = now + INTERVAL
        self._drawn = True
        share = done / total if total else 1.0
        bar = "#" * round(share * WIDTH)
        line = f"{self._label} [{bar:{WIDTH}}] {share:4.0%} of {self._rest(done, total, now)}"
        click.echo(f"\r\033[K{line}", nl=False, err=True)

    def _rest(self, done: int, total: int, now: float) -> str:
        passed = max(now - self._started, 1e-9)
        if self._unit is None:
            return f"{human_bytes(total)}, {human_bytes(round(done / passed))}/s"
        left = f", {human_time((total - done) / done * passed)} left" if done else ""
        return f"{total:,} {self._unit}{left}"

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            click.echo("\r\033[K", nl=False, err=True)
            self._drawn = False


class StageBar:
    """Shows what is being done, how much of it, and the time that is left of that."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._drawn = False
        self._next = 0.0
        self._stage = ""
        self._started = 0.0
        self._first = 0.0

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Draw the bar, at most ten times a second."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._first, self._next = stage, now, done, 0.0
        if not self._shown or now < self._next:
            return
        self._next = now + INTERVAL
        self._drawn = True
        share = done / total if total else 1.0
        bar = "#" * round(share * WIDTH)
        line = f"{stage} [{bar:{WIDTH}}] {share:4.0%}"
        passed, seconds = done - self._first, now - self._started
        if passed > 0 and seconds > 1:
            line += f", {duration((total - done) * seconds / passed)} left"
        click.echo(f"\r\033[K{line}", nl=False, err=True)

    def estimate(self, seconds: float) -> None:
        """Say how long it will take in all."""
        if self._shown:
            self.clear()
            click.echo(
                f"about {duration(seconds)} on this machine; Ctrl-C keeps what is done", err=True
            )

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            click.echo("\r\033[K", nl=False, err=True)
            self._drawn = False


class StatusLine:
    """One line on stderr that is written over; where that is no terminal, a line for each step.

    Bytes are shown with their rate and the time that is left.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._drawn = False
        self._step = ""
        self._next = 0.0
        self._started = 0.0
        self._first = 0

    def show(self, what: str, done: int, total: int) -> None:
        """Show what is going on, and how far it is; `total` is 0 where nobody knows."""
        now = time.monotonic()
        new = what != self._step
        if new:
            self._step, self._started, self._first, self._next = what, now, done, 0.0
        if not self._terminal:
            if new:
                click.echo(printable(what), err=True)
            return
        if now < self._next and done < total:
            return
        self._next = now + INTERVAL
        self._drawn = True
        rest = self._rest(done, total, now)
        text, room = printable(what), max(shutil.get_terminal_size().columns - 1 - len(rest), 8)
        if len(text) > room:
            text = text[: room - 3] + "..."
        click.echo(f"\r\033[K{text}{rest}", nl=False, err=True)

    def _rest(self, done: int, total: int, now: float) -> str:
        text = f"  {human_bytes(done)}" if done else ""
        if total:
            text = f"  {100 * done // total} % of {human_bytes(total)}"
        passed, came = now - self._started, done - self._first
        if came > 0 and passed > 1:
            text += f", {human_bytes(round(came / passed))}/s"
            if total:
                text += f", {human_time((total - done) * passed / came)} left"
        return text

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            click.echo("\r\033[K", nl=False, err=True)
            self._drawn = False


def duration(seconds: float) -> str:
    """Write a time as people say it: "40 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, unwind as Ctrl-C does.

    So temporary files are removed. What is ignored (`nohup`) stays so.
    """

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]  # no HUP on Windows
    before = {
        number: signal.signal(number, stop)
        for number in numbers
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
