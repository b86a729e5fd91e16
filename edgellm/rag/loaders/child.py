"""The process that reads risky formats: python -P -m edgellm.rag.loaders.child

A request is a line of JSON on stdin, {"loader", "path"}; the answer is a line on what was stdout:
the document, {"reason", "hint"} or {"missing", "hint"}. It ends with its stdin, with whoever
started it, and after memory or time ran out.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from edgellm.errors import UsageError
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_MEMORY, MAX_SECONDS

__all__ = ["main"]


def main() -> None:
    """Answer requests until there are no more."""
    _limit_memory()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what native code prints is no answer
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Native code cannot be stopped otherwise, and whoever asked may be gone.
        signal.alarm(int(MAX_SECONDS) + 10)
        answer, alive = _answer(request["loader"], Path(request["path"]))
        signal.alarm(0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        if not alive:
            return


def _answer(loader: str, path: Path) -> tuple[dict[str, object], bool]:
    try:
        module = importlib.import_module(f"edgellm.rag.loaders.{loader}")
        return dataclasses.asdict(module.load(path)), True
    except LoaderError as error:
        return {"reason": error.reason, "hint": error.hint}, True
    except UsageError as error:
        return {"missing": str(error), "hint": error.hint}, True
    except OSError as error:
        return {"reason": f"cannot be opened: {error.strerror or error}", "hint": None}, True
    except MemoryError:
        return {
            "reason": f"needs over {MAX_MEMORY // 1_000_000} MB of memory to read", "hint": None,
        }, False  # fmt: skip
    except Exception as error:  # libraries for damaged files raise anything
        return {"reason": f"cannot be read ({type(error).__name__})", "hint": None}, True


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):  # a system that knows the limit by name alone
        return


if __name__ == "__main__":
    main()
