"""The functions of a person's Python file as tools, each call in a process of its own.

The process is `python -I` in a session of its own, with limits of time, processor and memory; its
stdin is empty, its stdout comes to us and not to ours, and the whole process group is killed when
the call is over, in whatever way. It is a fence against accidents, and no prison: the file is the
person's own program and may do what that person may do.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgellm.backends.base import CancelledError
from edgellm.errors import NotFoundError, UsageError
from edgellm.generate import toolchild
from edgellm.generate.template import ToolCall
from edgellm.generate.tools import MAX_OUTPUT, Outcome, answered, as_tools, outcome

__all__ = ["ToolFile"]

MEMORY = 4_000_000_000  # bytes of address space
MAX_ANSWER = 16_000_000  # bytes of JSON; an answer with escapes is longer than its text
MAX_PRINTED = 4000  # bytes that are kept of what a tool prints
DESCRIBING = 30.0  # seconds to import a file in
TICK = 0.05  # seconds between looks at Ctrl-C


class ToolFile:
    """The public functions of a Python file, as tools.

    Attributes:
        path: the file.
        tools: the tools by their names.

    Raises:
        NotFoundError: there is no such file.
        UsageError: the file cannot be imported, a function has a parameter without a usable type,
            there is no public function, or a limit is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 30.0,
        max_output: int = MAX_OUTPUT,
    ) -> None:
        if not 0 < timeout <= 86_400:
            raise UsageError(f"a tool's time limit is {timeout} s, and must lie in 0 to 86400 s")
        if not 0 < max_output <= 1_000_000:
            raise UsageError(f"a tool's output is cut at {max_output}, which is not 1 to 1000000")
        self.path = Path(path).absolute()
        if not self.path.is_file():
            raise NotFoundError(f"{path}: there is no such file of tools")
        self._timeout = timeout
        self._max_output = max_output
        answer, _, how = self._ask({}, DESCRIBING, lambda: False)
        if answer is None:
            raise UsageError(f"{path}: the tools cannot be imported: {how}")
        if "tools" not in answer:
            raise UsageError(f"{path}: {answer.get('error')}")
        if not answer["tools"]:
            raise UsageError(
                f"{path}: it has no public function",
                hint="a tool is a function whose name begins with a letter, with types",
            )
        self.tools = as_tools(answer["tools"])

    def run(self, call: ToolCall, cancelled: Callable[[], bool]) -> Outcome:
        """Run a call in a process of its own; whatever happens there is an outcome.

        Raises:
            CancelledError: `cancelled` gave True; the process is gone.
        """
        start = time.monotonic()
        request = {"name": call.name, "arguments": dict(call.arguments)}
        answer, printed, how = self._ask(request, self._timeout, cancelled)
        seconds = time.monotonic() - start
        if answer is not None:
            return answered(call.name, answer, self._max_output, seconds, printed)
        text = f"{call.name} failed: {how}"
        if last := printed.strip()[-toolchild.MAX_ERROR :]:
            text += f". It printed: {last}"
        return outcome(text, len(text), len(text), ok=False, seconds=seconds)

    def _ask(
        self, request: Mapping[str, Any], seconds: float, cancelled: Callable[[], bool]
    ) -> tuple[dict[str, Any] | None, str, str]:
        """Start the process; gives its answer, what it printed, and how it ended without one."""
        limits = {"seconds": seconds, "memory": MEMORY, "output": self._max_output}
        body = {"file": str(self.path), **limits, **request}
        reading, writing = os.pipe()
        try:
            with tempfile.TemporaryFile() as stdin:
                stdin.write(json.dumps(body).encode())
                stdin.seek(0)
                process = subprocess.Popen(
                    # -B: no __pycache__ appears beside the person's file
                    [sys.executable, "-I", "-B", "-X", "utf8", toolchild.__file__, str(writing)],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            raw, printed, how = _collect(process, reading, time.monotonic() + seconds, cancelled)
        finally:
            os.close(reading)
            # Before its number is free again: what it has started dies with it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if how:
            how = how.replace("SECONDS", f"{seconds:g}")
        elif not raw.endswith(b"\n"):
            how = "its process ended without a result " + (
                f"(signal {-status})" if status < 0 else f"(status {status})"
            )
        answer = None if how else _parsed(raw)
        return answer, printed, how or "its process gave no usable answer"


def _collect(
    process: subprocess.Popen[bytes],
    reading: int,
    deadline: float,
    cancelled: Callable[[], bool],
) -> tuple[bytes, str, str]:
    """Read until the answer's line is there; gives it, what was printed, and what went wrong."""
    answer, printed = bytearray(), bytearray()
    stdout = process.stdout
    assert stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ, answer)
        selector.register(stdout.fileno(), selectors.EVENT_READ, printed)
        while True:
            if cancelled():
                raise CancelledError
            left = deadline - time.monotonic()
            if left <= 0:
                return b"", _text(printed), "it ran for longer than SECONDS s and was stopped"
            ready = selector.select(min(left, TICK))
            for key, _ in ready:
                part = os.read(key.fd, 65536)
                if not part:
                    selector.unregister(key.fd)
                if key.data is printed:
                    printed += part
                    del printed[MAX_PRINTED:]  # a flood is read and forgotten
                    continue
                answer += part
                if len(answer) > MAX_ANSWER:
                    return b"", _text(printed), "its answer is too long"
                if not part or answer.endswith(b"\n"):
                    _rest(stdout.fileno(), printed)
                    return bytes(answer), _text(printed), ""


def _rest(fd: int, printed: bytearray) -> None:
    """Take what was printed before the answer and lies in the pipe still."""
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        while len(printed) < MAX_PRINTED and (part := os.read(fd, 65536)):
            printed += part
    del printed[MAX_PRINTED:]


def _text(printed: bytearray) -> str:
    return printed.decode("utf-8", "replace")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """Read an answer; a tool could have written to the descriptor itself."""
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    if isinstance(answer.get("error"), str) or isinstance(answer.get("tools"), list):
        return answer
    text, length = answer.get("text", 0), answer.get("length", 0)
    good = text is None or (isinstance(text, str) and isinstance(length, int))
    return answer if good else None
