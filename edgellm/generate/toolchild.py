"""The process in which one of a person's tools runs: python -I toolchild.py RESULT_FD < REQUEST.

The request is a JSON object: `file`, `seconds`, `memory` and `output` (limits), and for a call
`name` and `arguments`. The answer is one line of JSON on the descriptor RESULT_FD: {"tools": [...]}
or {"text": ..., "length": ...}, or {"error": ...}. What the tool prints goes to this process's
stdout, which is a pipe to the parent. Nothing of edgellm is imported but `toolschema.py`, by path.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

MAX_ERROR = 500  # characters
MAX_FILE = 100_000_000  # bytes that a tool may write into one file
MODULE = "edgellm_tools"


def limit(seconds: float, memory: int) -> None:
    """Set the limits that this system has; a lower one that is set already stays."""
    try:
        import resource
    except ImportError:
        return
    wanted = {
        "RLIMIT_CPU": int(seconds) + 1, "RLIMIT_AS": memory, "RLIMIT_FSIZE": MAX_FILE,
        "RLIMIT_CORE": 0,
    }  # fmt: skip
    for name, value in wanted.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(number, (allowed, allowed))
        except (OSError, ValueError):  # the system knows the name alone
            continue


def load(name: str, path: Path) -> ModuleType:
    """Import a file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Give the public functions: those of `__all__`, or those written in the file itself."""
    names = getattr(module, "__all__", None)
    found: dict[str, Callable[..., Any]] = {}
    for name in vars(module) if names is None else names:
        value = getattr(module, name)
        own = names is not None or (value_module(value) == MODULE and not name.startswith("_"))
        if own and inspect.isfunction(value):
            found[name] = value
    return found


def value_module(value: object) -> str | None:
    """Give the name of the module that something was written in."""
    return getattr(value, "__module__", None)


def called(function: Callable[..., Any], arguments: dict[str, Any], most: int) -> dict[str, Any]:
    """Call a function and give its result as text: a text as it is, all else as JSON."""
    result = function(**arguments)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    if result is None:
        return {"text": None}
    if isinstance(result, str):
        text = result
    else:
        try:
            text = json.dumps(result, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            kind = type(result).__name__
            return {"error": f"the tool gave a {kind} that JSON cannot hold ({error})"[:MAX_ERROR]}
    return {"text": text[:most], "length": len(text)}


def sentence(error: BaseException, path: Path) -> str:
    """Give an error as a text: its kind, its message, and where in the file it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(path)]  # fmt: skip
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {str(error)[:MAX_ERROR]}{where}"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for."""
    schemas = load("edgellm_toolschema", Path(__file__).with_name("toolschema.py"))
    path = Path(request["file"])
    limit(request["seconds"], request["memory"])
    sys.path.append(str(path.parent))  # last, so that nothing beside the file hides a library
    try:
        found = functions(load(MODULE, path))
        if "name" not in request:
            return {"tools": [schemas.describe(function) for function in found.values()]}
        function = found[request["name"]]
        arguments = schemas.converted(function, request["arguments"])
        return called(function, arguments, request["output"])
    except schemas.SchemaError as error:
        return {"error": str(error)}
    except BaseException as error:  # also SystemExit: a tool is somebody else's program
        return {"error": sentence(error, path)}


def main() -> None:
    """Read the request, close stdin to the tool, answer, and end."""
    result = int(sys.argv[1])
    os.set_inheritable(result, False)
    request = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    line = json.dumps(answer(request)).encode() + b"\n"
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the tool has closed it
            continue
    while line:
        line = line[os.write(result, line) :]
    os._exit(0)  # threads of the tool do not keep the process


if __name__ == "__main__":
    main()
