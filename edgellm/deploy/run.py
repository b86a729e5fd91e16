"""Other programs, whose output is kept for the case that they fail."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from edgellm.errors import FetchError

__all__ = ["run_quietly"]

KEPT_LINES = 200
_TELLING = ("error", "ERROR", "fatal", "FAILED", "No space left")


def run_quietly(
    command: Sequence[str],
    failure: str,
    *,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program; its output is read line by line and not shown.

    Args:
        command: the program and its arguments.
        failure: the sentence for the case that it fails; the line that tells why joins it.
        on_line: is given each line.
        environment: variables beside those of this process.

    Raises:
        FetchError: it cannot be started, or fails.
    """
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        # A session of its own, so that whatever it starts can be ended with it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise FetchError(f"{failure}: {command[0]}: {error.strerror}") from error
    with process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if on_line is not None:
                    on_line(line)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    status = process.returncode
    if status:
        telling = [
            line
            for line in lines
            if any(word in line for word in _TELLING) and not line.endswith("Exception:")
        ]
        why = (telling or [line for line in lines if line.strip()] or [f"exit status {status}"])[-1]
        raise FetchError(f"{failure}: {why.strip()[:300]}")
