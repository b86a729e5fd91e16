"""Risky formats are read in a process of their own: it may crash, hang or fill its memory.

One process reads file after file, since a start costs more than most files do.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edgellm.errors import UsageError
from edgellm.rag.document import Document, Heading, Page
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_SECONDS

__all__ = ["load_apart", "stop"]

_lock = threading.Lock()
_running: subprocess.Popen[bytes] | None = None


def load_apart(loader: str, path: Path, *, seconds: float = MAX_SECONDS) -> Document:
    """Read a file with a loader in the process for risky formats.

    Raises LoaderError: the loader's own reason, or that the process crashed or took too long.
    UsageError: a package is missing.
    """
    with _lock:
        process = _start()
        try:
            answer = _asked(process, {"loader": loader, "path": str(path.absolute())}, seconds)
        except BaseException:  # also Ctrl-C: an answer that nobody awaits would be the next one's
            _stop()
            raise
    if "reason" in answer:
        raise LoaderError(answer["reason"], hint=answer["hint"])
    if "missing" in answer:
        raise UsageError(answer["missing"], hint=answer["hint"])
    pages = tuple(
        Page(page["number"], page["text"], tuple(Heading(**one) for one in page["headings"]))
        for page in answer["pages"]
    )
    return Document(answer["title"], answer["loader"], pages)


def stop() -> None:
    """End the process, if there is one."""
    with _lock:
        _stop()


def _start() -> subprocess.Popen[bytes]:
    global _running
    if _running is None or _running.poll() is not None:
        _stop()
        _running = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgellm.rag.loaders.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; its end comes with its stdin's
        )
        atexit.register(stop)
    return _running


def _stop() -> None:
    global _running
    if _running is None:
        return
    _running.kill()
    _running.wait()
    for pipe in (_running.stdin, _running.stdout):
        if pipe is not None:
            pipe.close()
    _running = None
    atexit.unregister(stop)


def _asked(process: subprocess.Popen[bytes], request: dict[str, str], seconds: float) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    crashed = LoaderError("ended the process that read it: it is damaged or hostile")
    deadline = time.monotonic() + seconds
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError as error:
        raise crashed from error
    answer = bytearray()
    while not answer.endswith(b"\n"):
        ready = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise LoaderError(f"takes over {seconds:.0f} s to read")
        piece = os.read(process.stdout.fileno(), 1 << 20)
        if not piece:
            raise crashed
        answer += piece
    return json.loads(answer)
